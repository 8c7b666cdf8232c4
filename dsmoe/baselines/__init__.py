"""What steering is compared with."""
