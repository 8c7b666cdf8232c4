"""wandb mirrors what is on disk: runs and a dashboard, offline or sent. It is imported in a process of its own only."""
