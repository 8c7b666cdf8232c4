"""wandb mirrors what is on disk: a run a cell, offline or sent. wandb is imported in a process of its own only."""
