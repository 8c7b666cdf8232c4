"""What is asked of a model and of the instrument beside a comparison."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from dsmoe.config.types import Count, Share, Strength, Text


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    seeds: Count
    """Planted models on which rules are to find the truth, with seeds from 0."""
    strength: Strength
    """At which their found experts are steered."""
    studies: Count
    """Studies that are made from kept answers, for each true gain."""
    effects: Annotated[tuple[Share, ...], MinLen(1)]
    """True gains on the target, as fractions, whose finding is counted."""


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    texts: Text | None
    """A folder of your own texts, a file a domain, paragraphs apart; null takes the data set's prompts."""
    limit: Count | None
    """Most texts a domain; null takes all that are not test questions."""
    top_p: Share
    """A domain's top-p set is the smallest set of experts that together take this share of its choices."""
    permutations: Count
    """Permutations under each null that permutes; existence wants at least 20 a domain."""
    random_routers: Count
    """Routers drawn at random in place of each layer's own, for the null of vocabulary; at least 20 a domain."""
    sampled_tokens: Count
    """Tokens between which routing is held against hidden states, and texts likewise, in each layer."""
    rollouts: Annotated[int, Ge(0)]
    """Texts a domain whose greedy continuation is held against its prompt; 0 generates nothing."""
    new_tokens: Count
    """Tokens of each continuation."""
    causal: bool
    """Whether the domain's one best expert is steered and its test questions are asked."""
    against: Text | None
    """The folder of an analysis of another model on the same texts, to be held against this one."""
    origin: bool
    """Whether the embedded model is trained with and without load balancing, on mixed batches and on single ones."""
