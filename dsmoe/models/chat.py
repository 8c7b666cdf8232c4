"""The chat template of a checkpoint: whether there is one, and whether it takes what a config gives it."""

from typing import Any

from dsmoe.config import GenerationConfig, ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.load import tokenizer_of


def check_chat(model: ModelConfig, generation: GenerationConfig) -> None:
    """Raise InputError where the model's chat template is missing, or would leave out what the config gives it.

    lm-eval drops a system prompt that a template refuses, and templates pass over arguments that they do not know.
    """
    tokenizer = None if model.path is None else tokenizer_of(model)
    template = tokenizer and tokenizer.chat_template
    if not template:
        raise InputError(f"generation.chat_template: {model.name} has no chat template")
    text = template if isinstance(template, str) else "".join(template.values())
    for name in generation.template_args:
        if name not in text:
            raise InputError(f"generation.template_args.{name}: the chat template of {model.name} does not know it")
    turns = [{"role": "user", "content": "question"}]
    if generation.system_prompt is not None:
        turns.insert(0, {"role": "system", "content": generation.system_prompt})
    shown = _rendered(tokenizer, turns, model, generation)
    if generation.system_prompt is not None and generation.system_prompt.strip() not in shown:
        raise InputError(f"generation.system_prompt: the chat template of {model.name} leaves it out")


def _rendered(tokenizer: Any, turns: list[dict[str, str]], model: ModelConfig, generation: GenerationConfig) -> str:
    from jinja2 import TemplateError

    try:
        shown: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **generation.template_args
        )
    except TemplateError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"generation: the chat template of {model.name} refuses what it is given: {reason}") from error
    return shown
