"""The methods: discovery, steering and supervised fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Interval, MinLen

from dsmoe.config.types import Auto, Count, Finite, Mode, Positive, Share, Span, Strength, Text


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    rule: str
    """How counts become scores: a module of dsmoe/discovery/rules."""
    quantile: Annotated[float, Interval(ge=0, lt=1)]
    """Tokens above this quantile of the pooled saliencies are important."""
    stop_words: str | tuple[str, ...]
    """Never important: english, a file with a word a line, or a list."""
    span: Span
    """Tokens that are counted: of the prompt, its question or its options, or those generated after it."""
    max_new_tokens: Count
    """Most tokens that are generated after a prompt, for span=generated."""
    markers: Mapping[Text, Finite] = field(hash=False)
    """Texts whose tokens rule rice scores by, each with its coefficient: +discovery.markers.TEXT=1."""
    other_domain: str | None
    """The domain of method other_domain; null takes the one after the target in the alphabet."""
    batch_tokens: Count
    """Padded tokens a forward and backward pass."""
    checkpointing: bool | None
    """Run each layer twice to save memory; null does so from a billion parameters."""
    limit: Count | None
    """Most records to discover from; null takes the whole split."""
    profile: str | None
    """An expert profile of your own in place of discovery: of the domain, by the rule."""


@dataclass(frozen=True, slots=True)
class SteeringConfig:
    strength: Strength | Auto
    """Steered experts count 1 + strength times; 0 changes nothing, below 0 suppresses; auto chooses on dev."""
    strength_grid: Annotated[tuple[Strength, ...], MinLen(1)]
    """What strength=auto chooses from."""
    num_experts: Count | Share | Auto
    """Experts to steer over all layers: a count, or a fraction below 1; auto chooses on dev."""
    num_experts_grid: Annotated[tuple[Count | Share, ...], MinLen(1)]
    """What num_experts=auto chooses from."""
    random_draws: Annotated[int, Ge(1)]
    """Draws of method random on the target: the first stands in the table, dsmoe is ranked among all."""
    layers: tuple[int, int] | None
    """Only experts of these layers: [first,last], both counted in; null takes all."""
    mode: Mode
    """What is scaled: logit, score (softmax or sigmoid) or gate (weights); force chooses always, or never below 0."""
    scale_back: bool
    """Whether mode gate keeps the sum of the weights."""
    file: str | None
    """A steering file of your own, for method steering."""

    def __post_init__(self) -> None:
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers: {list(self.layers)} is no window [first,last] of layers, counted from 0")


@dataclass(frozen=True, slots=True)
class SftConfig:
    adapter: str | None
    """A LoRA adapter of your own in place of fine-tuning."""
    rank: Count | Share
    """Rank of the LoRA matrices; below 1, the share of the model's parameters to train."""
    alpha: Positive
    """LoRA's scale: its matrices' product counts alpha / rank times."""
    learning_rate: Positive | Auto
    """Peak learning rate of AdamW; auto chooses on dev."""
    learning_rate_grid: Annotated[tuple[Positive, ...], MinLen(1)]
    """What learning_rate=auto chooses from."""
    epochs: Count | Auto
    """Passes over the training questions; auto chooses on dev."""
    epochs_grid: Annotated[tuple[Count, ...], MinLen(1)]
    """What epochs=auto chooses from."""
    batch_size: Count
    """Questions a step."""
    train_size: Count | None
    """Most questions to train on; null takes the whole discover split."""
    processes: Count
    """Processes that train together, one a GPU, each with its share of the weights; another number gives other bits."""

    def __post_init__(self) -> None:
        if self.processes > self.batch_size:
            raise ValueError(
                f"processes is {self.processes}, but a step has only batch_size={self.batch_size} questions"
            )
