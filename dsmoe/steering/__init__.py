"""What a steering is, and steering a model."""
