"""Cells as Slurm jobs: frozen, submitted, watched; what became of them is read from disk and from the queue."""
