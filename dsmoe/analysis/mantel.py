"""How strongly two symmetric matrices of pairs go together, and how strongly they would by chance."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Association:
    """Pearson's correlation of two matrices over pairs; the null's 95% quantile; the share of the null that reaches it.

    All are None where one of the matrices is the same for every pair, so that nothing can go with it.
    """

    correlation: float | None
    null_q95: float | None
    p: float | None

    @property
    def explained(self) -> float | None:
        """r²: the share of one matrix's variance that the other explains."""
        return None if self.correlation is None else self.correlation**2


def mantel(first_SS: Matrix, second_SS: Matrix, permutations: int, seed: int) -> Association:
    """The Mantel test (Mantel 1967, Cancer Research 27:209), one-sided: whether pairs alike in one are so in the other.

    Under the null, members of one matrix are those of the other in no order: rows and columns of one are permuted
    together. p = (1 + permutations that reach the correlation) / (1 + permutations).
    """
    first, second = _centred(first_SS), _centred(second_SS)
    if first is None or second is None:
        return Association(None, None, None)
    observed = float(np.vdot(first, second))
    generator = np.random.default_rng(seed)
    null = np.empty(permutations)
    for index in range(permutations):
        order = generator.permutation(len(first))
        null[index] = np.vdot(first.take(order, axis=0).take(order, axis=1), second)
    # Sums in another order round otherwise: what is equal shall count as equal.
    reached = int((null >= observed - 1e-6).sum())
    return Association(observed, float(np.quantile(null, 0.95)), (1 + reached) / (1 + permutations))


def partial_correlation(first_SS: Matrix, second_SS: Matrix, given_SS: Matrix) -> float | None:
    """Pearson's correlation of two matrices over pairs at equal values of a third, linearly.

    None where one of them is the same for every pair, or the third leaves nothing of one of the others.
    """
    first, second, given = _centred(first_SS), _centred(second_SS), _centred(given_SS)
    if first is None or second is None or given is None:
        return None
    together, with_first, with_second = (
        float(np.vdot(one, other)) for one, other in ((first, second), (first, given), (second, given))
    )
    left = (1 - with_first**2) * (1 - with_second**2)
    return (together - with_first * with_second) / math.sqrt(left) if left > 1e-12 else None


def _centred(matrix_SS: Matrix) -> NDArray[np.float64] | None:
    """The matrix without its diagonal, its mean off the diagonal 0 and its length 1; None where nothing varies."""
    members = len(matrix_SS)
    if members < 3:
        return None
    off = ~np.eye(members, dtype=np.bool_)
    centred = np.where(off, matrix_SS.astype(np.float64), 0.0)
    centred[off] -= centred[off].mean()
    length = float(np.linalg.norm(centred))
    if length <= 1e-9 * members:
        return None
    scaled: NDArray[np.float64] = centred / length
    return scaled
