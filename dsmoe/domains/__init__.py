"""Records: questions of domains, where they come from, how they are split and put."""
