"""One file a scoring rule, named by the rule: how routing counts become scores of experts.

A rule is `score(counts, seed)`: routing counts [layers, experts] in, float64 scores [layers, experts] out, higher for
experts that belong more to the domain. `seed` is for rules that draw.
"""
