"""Models: checkpoints, loading, routers, and the embedded one."""
