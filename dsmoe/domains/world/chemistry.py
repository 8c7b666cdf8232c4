"""The chemical elements, from periodictable."""

import periodictable

from dsmoe.domains.world import Fact


def facts() -> list[Fact]:
    """Symbol, atomic number and atomic mass of every element."""
    known = []
    for number, element in sorted((element.number, element) for element in periodictable.elements if element.number):
        name, mass = element.name, round(element.mass)
        known += [
            Fact("symbol", name, f"The chemical symbol of {name} is", element.symbol),
            Fact("number", name, f"The atomic number of {name} is", str(number), (f"The protons of {name} number",)),
            Fact("mass", name, f"The atomic mass of {name} is about", str(mass), (f"The molar mass of {name} is",)),
        ]
    return known
