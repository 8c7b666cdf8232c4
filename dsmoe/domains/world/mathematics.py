"""Arithmetic: products, prime numbers and Roman numerals, computed."""

from itertools import combinations

from dsmoe.domains.world import Fact, shuffled

FACTS_OF_A_KIND = 175
FIRST_PRIME = 5
ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
    (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def facts() -> list[Fact]:
    """As many products of two-digit numbers, prime numbers by their rank, and Roman numerals."""
    factors = shuffled(combinations(range(12, 100), 2), "factors")[:FACTS_OF_A_KIND]
    ranks = range(FIRST_PRIME, FIRST_PRIME + FACTS_OF_A_KIND)
    primes = _primes(ranks[-1])
    numbers = shuffled(range(100, 1000), "numbers")[:FACTS_OF_A_KIND]
    return [
        *(Fact("product", f"{a} times {b}", f"The product of {a} and {b} is", str(a * b)) for a, b in sorted(factors)),
        *(Fact("prime", f"prime number {rank}", f"Prime number {rank} is", str(primes[rank - 1])) for rank in ranks),
        *(
            Fact("roman", _roman(number), f"The Roman numeral {_roman(number)} is", str(number))
            for number in sorted(numbers)
        ),
    ]


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _roman(number: int) -> str:
    letters = ""
    for value, letter in ROMAN:
        letters += letter * (number // value)
        number %= value
    return letters
