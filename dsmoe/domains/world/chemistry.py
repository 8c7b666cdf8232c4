"""The chemical elements, from periodictable."""

import periodictable

from dsmoe.domains.world import Fact


def facts() -> list[Fact]:
    """Symbol, atomic number and atomic mass of every element."""
    known = []
    for number, element in sorted((element.number, element) for element in periodictable.elements if element.number):
        known += [
            Fact("symbol", element.name, f"The chemical symbol of {element.name} is", element.symbol),
            Fact("number", element.name, f"The atomic number of {element.name} is", str(number)),
            Fact("mass", element.name, f"The atomic mass of {element.name} is about", str(round(element.mass))),
        ]
    return known
