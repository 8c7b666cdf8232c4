"""How attention and experts are computed, as far as it is certain that a model cannot be run so."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dsmoe.config import ModelConfig
from dsmoe.errors import InputError
from dsmoe.plugins import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FROM_HUB = ("deepgemm", "sonicmoe")
"""Of the ways to compute experts, those whose kernels are on the Hub."""


def check_implementations(config: ModelConfig, model: "PreTrainedModel") -> None:
    """Raise InputError for an implementation that there is not, that the model's class refuses or whose package lacks.

    `model` may be on the meta device. That there is no GPU here refuses nothing: the job may run where there is one.
    """
    if config.attn_implementation is not None:
        _check_attention(config.attn_implementation, config, model)
    if config.experts_implementation is not None:
        _check_experts(config.experts_implementation, model)


def _check_attention(asked: str, config: ModelConfig, model: "PreTrainedModel") -> None:
    from transformers.integrations.hub_kernels import is_kernel
    from transformers.modeling_flash_attention_utils import FLASH_ATTENTION_COMPATIBILITY_MATRIX
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.utils import is_kernels_available

    where = f"model.attn_implementation: {asked!r}"
    if is_kernel(asked):
        _check_kernels(where)
        return
    _check_known(where, asked, ALL_ATTENTION_FUNCTIONS.valid_keys())
    try:
        model.get_correct_attn_implementation(asked, is_init_check=True)
    except ValueError as error:
        raise InputError(f"{where} is not for this model: {_sentence(error)}") from error
    except ImportError as error:
        flash = FLASH_ATTENTION_COMPATIBILITY_MATRIX.get(int(asked[-1])) if asked[-1].isdecimal() else None
        here = flash is None or flash["pkg_availability_check"]() or is_kernels_available()
        if not here or config.device == "cpu":
            raise InputError(f"{where} cannot be used here: {_sentence(error)}") from error


def _check_experts(asked: str, model: "PreTrainedModel") -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    where = f"model.experts_implementation: {asked!r}"
    _check_known(where, asked, ALL_EXPERTS_FUNCTIONS.keys())
    if asked in FROM_HUB:
        _check_kernels(where)
    try:
        model.get_correct_experts_implementation(asked)
    except ValueError as error:
        raise InputError(f"{where} is not for this model: {_sentence(error)}") from error


def _check_known(where: str, asked: str, functions: Iterable[str]) -> None:
    known = sorted({"eager", *functions})
    if asked not in known:
        raise InputError(f"{where} is not one of {', '.join(known)}{did_you_mean(asked, known)}")


def _check_kernels(where: str) -> None:
    from transformers.utils import is_kernels_available

    if not is_kernels_available():
        raise InputError(f"{where} wants the package kernels, which is not installed here in a version that will do")


def _sentence(error: Exception) -> str:
    """Without transformers' advice on whom to ask for support."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
