"""One file a mode of steering (DSMoE, arXiv 2604.05267, Eq. 11, and others), named as in `steering.mode`."""
