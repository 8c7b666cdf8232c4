"""From records to expert profiles."""
