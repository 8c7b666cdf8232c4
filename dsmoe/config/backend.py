"""What answers the questions: transformers, or an engine of vLLM."""

from dataclasses import dataclass

from dsmoe.config.types import Count, Share, Text


@dataclass(frozen=True, slots=True)
class VllmConfig:
    python: Text | None
    """A Python that has vLLM, lm-eval and this dsmoe; null is the one that runs here."""
    tensor_parallel: Count
    """GPUs that share each layer of the model."""
    max_model_len: Count | None
    """Longest sequence, prompt and answer together; null takes the model's context."""
    memory: Share
    """Share of each GPU's memory that the engine takes; on CPUs, of the host's."""
    eager: bool
    """Run without compiling: starts sooner, answers slower."""
