"""lm-eval's model `dsmoe`: its model of transformers, steered for good."""

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from dsmoe.errors import InputError
from dsmoe.harness import MODEL, NO_CACHE, source_of
from dsmoe.models import deepseek
from dsmoe.steering.export import steer_for_good


@register_model(MODEL)
class SteeredLM(HFLM):  # type: ignore[misc]
    """A model that lm-eval loads as it does for `hf`, and that is then steered.

    `pretrained` is what lm-eval takes, or an export; `steering` a steering file; all else is for lm-eval. Raises
    InputError where the steering does not fit, SteeringError where its proof fails.
    """

    def __init__(self, pretrained: Any = None, steering: str | None = None, **settings: Any) -> None:
        deepseek.register()
        source = source_of(pretrained, steering, **settings)
        try:
            super().__init__(pretrained=source.pretrained, **source.settings)
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"--model_args: pretrained={pretrained} cannot be loaded: {reason}") from error
        self.steering = source.steering
        if self.steering is not None:
            steer_for_good(self.model, self.steering)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model, and what was steered."""
        steering = None if self.steering is None else self.steering.to_json()
        return {**super().get_model_info(), "steering": steering}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's cache of answers; it calls this where the cache is on."""
        raise InputError(NO_CACHE)
