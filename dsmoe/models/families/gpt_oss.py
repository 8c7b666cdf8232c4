"""gpt-oss: logits with a bias of their own, top-k, then softmax over the chosen."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.router", chooses_on_logits=True, bias="mlp.router.bias")
