"""One file a scoring rule, named by the rule, with a RULE: how evidence becomes scores of experts (see `rule.py`)."""
