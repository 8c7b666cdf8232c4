"""Evidence about models, and about the instrument itself."""
