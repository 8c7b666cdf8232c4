"""From a model to samples, and from samples to verdicts."""
