"""How long work takes: its arithmetic and its reads of weights, over what a device does in a second.

`docs/models.md` says how the numbers are made. Rates are assumed; who has measured such work scales them.
"""

from dataclasses import dataclass

from dsmoe.models.needs import Needs

CHARACTERS = 4
"""Of English text to a token, about."""
FORWARD = 2
"""FLOP a token and active parameter: a multiplication and an addition."""
GPU = {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12}
"""Published FLOP/s of an A100, by the weights' number type."""
GPU_BANDWIDTH = 2.0e12
"""Published bytes/s of its memory, with 80 GB."""
GPU_SHARE = 0.25
"""What of both is assumed to be reached."""
THREAD, CPU_BANDWIDTH = 10e9, 10e9
"""FLOP/s of a CPU thread and bytes/s of a machine's memory that are assumed to be reached."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, and the bytes of weights that are read from memory: once a pass."""

    flop: float = 0.0
    read_bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flop + other.flop, self.read_bytes + other.read_bytes)


@dataclass(frozen=True, slots=True)
class Rate:
    """FLOP/s and bytes/s. A model that is spread over several GPUs is as fast as one: they take turns."""

    flops: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """How long the work takes: first the one, then the other."""
        return work.flop / self.flops + work.read_bytes / self.bandwidth

    def __str__(self) -> str:
        return f"{_short(self.flops)}FLOP/s and {_short(self.bandwidth)}B/s"


def assumed(device: str, threads: int, dtype: str) -> Rate:
    """The rate that is assumed of a device: a quarter of an A100's, or that of CPU threads."""
    if device == "cuda":
        return Rate(GPU_SHARE * GPU[dtype], GPU_SHARE * GPU_BANDWIDTH)
    return Rate(THREAD * threads, CPU_BANDWIDTH)


def forward(model: Needs, tokens: float, passes: float) -> Work:
    """`tokens` through the model once, in so many passes."""
    return Work(FORWARD * model.active * tokens, model.weights * passes)


def backward(model: Needs, tokens: float, passes: float, checkpointing: bool) -> Work:
    """Forward, and back to the input through frozen weights, which costs as much; layers made again cost it again."""
    times = 3 if checkpointing else 2
    return forward(model, times * tokens, times * passes)


def training(model: Needs, tokens: float, passes: float) -> Work:
    """Forward and backward with gradients of all weights."""
    return forward(model, 3 * tokens, 3 * passes)


def tokens_of(characters: float) -> float:
    """How many tokens a text of so many characters has, about."""
    return characters / CHARACTERS


def _short(number: float) -> str:
    """A rate as one says it: 78 T, 500 G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
