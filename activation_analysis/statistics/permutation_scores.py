"""Scores of relabelled data as matrix products: what a max-statistic test compares.

Every column is centred and scaled to unit norm, so that its product with a unit-norm vector of
the design is a correlation. A score rises with the size of the statistic and is cheaper;
``as_statistic`` and ``of_statistic`` go from one to the other.

    Correlation   abs(r)                                 Student's t, ranks, paired differences
    Explained     b^2 / (1 - a^2)                        F, and regressions by Freedman and Lane
    Unpooled      r^2 over the groups' own variances     Welch's t

Each works on products in float32, in float64, or on a few chosen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtr, stdtr

MOST_REMEMBERED = 2**25  # bytes of a nuisance matrix
SMALLEST_ERROR = 1e-14  # of a unit-norm column: below it, rounding decides
NEGLIGIBLE = 1e-10  # relative size of a direction that others span


@dataclass(frozen=True)
class Correlation:
    """abs(r) of values and one vector of the design: t = r sqrt(df / (1 - r^2))."""

    vectors: np.ndarray  # (1, n) unit norm
    df: float  # of the t statistic; infinite where z = sqrt(scale) r is meant
    scale: float = 0.0  # of z, for ranks
    sensitivity = 1.0  # how much an error of the product may grow
    squared = (False,)  # which products are of squared columns

    def __call__(self, products: Sequence[np.ndarray]) -> np.ndarray:
        return np.abs(products[0], out=products[0])

    def as_statistic(self, score: np.ndarray) -> np.ndarray:
        if np.isinf(self.df):
            return score * np.sqrt(self.scale)
        return score * np.sqrt(self.df / np.maximum(1 - score**2, SMALLEST_ERROR))

    def of_statistic(self, statistic: np.ndarray) -> np.ndarray:
        if np.isinf(self.df):
            return np.abs(statistic) / np.sqrt(self.scale)
        return np.abs(statistic) / np.sqrt(statistic**2 + self.df)

    def parametric_p(self, statistic: np.ndarray) -> np.ndarray:
        tail = ndtr if np.isinf(self.df) else lambda t: stdtr(self.df, t)
        return 2 * tail(-np.abs(statistic))


@dataclass(frozen=True)
class Explained:
    """Share of the remaining variance that the effect explains, nuisance directions left out.

    s = b^2 / (1 - a^2), b^2 along the effect's directions and a^2 along the nuisance ones;
    F = (s / q) / ((1 - s) / df), and abs(t) = sqrt(F) for one direction.
    """

    vectors: np.ndarray  # (n_effects + n_nuisance, n) orthonormal, the effect's first
    n_effects: int
    df: float  # infinite where H = scale s is meant
    is_t: bool  # statistic is abs(t), not F
    scale: float = 0.0  # of H, for ranks

    @property
    def squared(self) -> tuple[bool, ...]:
        return (False,) * len(self.vectors)

    @property
    def sensitivity(self) -> float:
        return 3.0 if len(self.vectors) == self.n_effects else 80.0  # 1 - a^2 of .05 or more

    def __call__(self, products: Sequence[np.ndarray]) -> np.ndarray:
        score = np.square(products[0], out=products[0])
        for other in products[1 : self.n_effects]:
            score += np.square(other, out=other)
        if len(products) > self.n_effects:
            taken = np.square(products[self.n_effects], out=products[self.n_effects])
            for other in products[self.n_effects + 1 :]:
                taken += np.square(other, out=other)
            np.subtract(1, taken, out=taken)
            np.maximum(taken, SMALLEST_ERROR, out=taken)
            score /= taken
        return score

    def as_statistic(self, score: np.ndarray) -> np.ndarray:
        if np.isinf(self.df):
            return score * self.scale
        f = (score / self.n_effects) * self.df / np.maximum(1 - score, SMALLEST_ERROR)
        return np.sqrt(f) if self.is_t else f

    def of_statistic(self, statistic: np.ndarray) -> np.ndarray:
        if np.isinf(self.df):
            return statistic / self.scale
        f = statistic**2 if self.is_t else statistic
        return f * self.n_effects / (f * self.n_effects + self.df)

    def parametric_p(self, statistic: np.ndarray) -> np.ndarray:
        if np.isinf(self.df):
            return chdtrc(self.n_effects, statistic)
        return fdtrc(self.n_effects, self.df, statistic**2 if self.is_t else statistic)


@dataclass(frozen=True)
class Unpooled:
    """Welch's t from two products, of the labels with y and with y^2.

    With r the correlation, S the first group's share of the sum of squares and w = 1/(n(n - 1))
    of each group,  score = r^2 / D,  D = ((w_a - w_b) S + w_b) / max(w), and
    t^2 = h score / (1 - g score).
    """

    vectors: np.ndarray  # (2, n) unit-norm labels; 1 in the first group
    n_a: int
    n_b: int
    squared = (False, True)

    @property
    def _weights(self) -> tuple[float, float, float]:
        w_a, w_b = 1 / ((self.n_a - 1) * self.n_a), 1 / ((self.n_b - 1) * self.n_b)
        return w_a, w_b, max(w_a, w_b)

    @property
    def sensitivity(self) -> float:
        w_a, w_b, largest = self._weights
        return 3 * (largest / min(w_a, w_b)) ** 2

    def __call__(self, products: Sequence[np.ndarray]) -> np.ndarray:
        w_a, w_b, largest = self._weights
        score, spread = np.square(products[0], out=products[0]), products[1]
        spread *= (w_a - w_b) / largest
        spread += w_b / largest
        score /= spread
        return score

    @property
    def _h_and_g(self) -> tuple[float, float]:
        w_a, w_b, largest = self._weights
        h = (1 / self.n_a + 1 / self.n_b) / largest
        n = self.n_a + self.n_b
        return h, (w_a * self.n_b / n + w_b * self.n_a / n) / largest

    def as_statistic(self, score: np.ndarray) -> np.ndarray:
        h, g = self._h_and_g
        return np.sqrt(h * score / np.maximum(1 - g * score, SMALLEST_ERROR))

    def of_statistic(self, statistic: np.ndarray) -> np.ndarray:
        h, g = self._h_and_g
        return statistic**2 / (h + g * statistic**2)

    def parametric_p(self, statistic: np.ndarray) -> np.ndarray:
        return 2 * stdtr(self.n_a + self.n_b - 2, -np.abs(statistic))


Score = Correlation | Explained | Unpooled


@dataclass(frozen=True)
class Rows:
    """The prompts of all groups, one group after the other, without a copy of them."""

    groups: Sequence[np.ndarray]  # each (n_k, n_units)

    @property
    def shape(self) -> tuple[int, int]:
        return sum(len(g) for g in self.groups), self.groups[0].shape[1]

    def float64(self, units: slice | np.ndarray) -> np.ndarray:
        """Some units, (n, k)."""
        return np.concatenate([g[:, units] for g in self.groups], dtype=np.float64)

    def deviations(self, units: slice) -> np.ndarray:
        """Some units less the first prompt's, in float32 but for one rounding of each."""
        blocks = [g[:, units] for g in self.groups]
        first = blocks[0][0]
        if any(b.dtype != np.float32 for b in blocks):
            blocks, first = [b.astype(np.float64) for b in blocks], first.astype(np.float64)
        columns = np.empty((self.shape[0], len(first)), np.float32)
        start = 0
        with np.errstate(invalid="ignore", over="ignore"):
            for block in blocks:
                into = columns[start : start + len(block)]
                np.subtract(block, first, out=into, casting="same_kind")
                start += len(block)
        return columns


@dataclass(frozen=True)
class Columns:
    """Unit-norm columns of some units: values, ranks or residuals, whatever the test is of."""

    transform: Callable[[np.ndarray], np.ndarray] | None = None  # float64 (n, k) -> (m, k)
    centred: bool = True  # sign flips do not centre
    nuisance: np.ndarray | None = None  # (n, rank) orthonormal, projected out

    def exact(self, x: Rows, units: slice | np.ndarray) -> np.ndarray:
        """(m, k) float64; zero where nothing varies or a value is not finite."""
        values = x.float64(units)
        values = values if self.transform is None else self.transform(values)
        columns = _unit_norm(values, self.centred)
        if self.nuisance is None:
            return columns
        for _ in range(2):  # twice: the second pass removes what rounding left
            columns -= self.nuisance @ (self.nuisance.T @ columns)
        left = np.square(columns).sum(axis=0)
        columns[:, left < NEGLIGIBLE**2] = 0.0  # nothing that the nuisance does not span
        return _unit_norm(columns, self.centred)

    def fast(self, x: Rows, units: slice) -> np.ndarray:
        """The same in float32, centred before anything is rounded."""
        if self.transform is not None or not self.centred:
            return self.exact(x, units).astype(np.float32)
        columns = x.deviations(units)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            columns -= columns.sum(axis=0) / np.float32(len(columns))
            norm = _norm(columns)
            columns *= 1 / norm
            odd = ~((norm > 1e-15) & (norm < 1e15))  # beyond float32, constant, or not finite
            if self.nuisance is not None:
                nuisance = self.nuisance.astype(np.float32)
                columns -= nuisance @ (nuisance.T @ columns)
                left = _norm(columns)
                columns *= 1 / left
                odd |= ~(left > 0.05)  # what is left is mostly rounding
        odd = np.flatnonzero(odd)
        if len(odd):
            columns[:, odd] = self.exact(x, units.start + odd)
        return columns


def _norm(columns: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->j", columns, columns))


def _unit_norm(values: np.ndarray, centred: bool) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if centred:
            values = values - values[0]
            values -= values.sum(axis=0) / len(values)
        largest = np.abs(values).max(axis=0, initial=0.0)
        values = values / largest  # so that no square overflows
        norm = np.sqrt(np.square(values).sum(axis=0))
        values /= norm
    values[:, ~((norm > 0) & np.isfinite(largest))] = 0.0
    return values


def blocks_of(n: int, width: int) -> Iterator[slice]:
    """Slices that cover ``n`` places, ``width`` each, the last one shorter."""
    return (slice(start, min(start + width, n)) for start in range(0, n, width))


def two_sample(n_a: int, n_b: int) -> np.ndarray:
    """The unit-norm vector whose product with a column is its correlation with the label."""
    vector = np.repeat([1 / n_a, -1 / n_b], [n_a, n_b])
    return vector / np.sqrt(1 / n_a + 1 / n_b)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """A basis of what some columns span, (n, rank)."""
    size = np.linalg.norm(columns, axis=0)
    varying = size > 0
    if not varying.any():
        return np.empty((len(columns), 0))
    left, singular, _ = np.linalg.svd(columns[:, varying] / size[varying], full_matrices=False)
    return left[:, singular > NEGLIGIBLE * singular.max()]


def residual_directions(
    effect: np.ndarray, nuisance: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal directions of an effect beyond the nuisance, and of the nuisance itself.

    Parameters
    ----------
    effect : (n, q) columns of the design that are tested
    nuisance : (n, c) columns that are not, or None; an intercept is implied

    Returns
    -------
    (n, q) and (n, rank) arrays, orthogonal to each other and to the intercept

    Raises
    ------
    ValueError
        If the nuisance determines the effect.
    """
    effect = np.asarray(effect, dtype=np.float64)
    if nuisance is None:
        return _residual_directions(effect, None)
    nuisance = np.asarray(nuisance, dtype=np.float64)
    if nuisance.nbytes > MOST_REMEMBERED:
        return _residual_directions(effect, nuisance)
    others = nuisance.tobytes(), nuisance.shape
    return _remembered_directions(effect.tobytes(), effect.shape, others)


@lru_cache(maxsize=8)  # every layer and site of a contrast asks for the same
def _remembered_directions(
    effect: bytes, shape: tuple[int, int], nuisance: tuple[bytes, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    found = _residual_directions(
        np.frombuffer(effect).reshape(shape),
        np.frombuffer(nuisance[0]).reshape(nuisance[1]),
    )
    for array in found:
        array.setflags(write=False)
    return found


def _residual_directions(
    effect: np.ndarray, nuisance: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """`residual_directions`, not remembered."""
    effect = effect - effect.mean(axis=0)
    space = np.empty((len(effect), 0))
    if nuisance is not None:
        centred = nuisance - nuisance.mean(axis=0)
        varies = np.linalg.norm(centred, axis=0) > NEGLIGIBLE * np.linalg.norm(nuisance, axis=0)
        space = orthonormal(centred[:, varies])  # the mean of a constant is rounded, too
    beyond = effect.copy()
    for _ in range(2):
        beyond -= space @ (space.T @ beyond)
    kept = np.linalg.norm(beyond, axis=0) > 1e-5 * np.linalg.norm(effect, axis=0)
    directions = orthonormal(beyond[:, kept])
    n, rank = space.shape
    if (
        not kept.all()
        or directions.shape[1] < effect.shape[1]
        or n - 1 - rank < effect.shape[1] + 1
    ):
        raise ValueError(
            f"the covariates leave nothing of the condition to test (rank {rank} of {n} "
            f"prompts); they determine it, or there are too many of them"
        )
    return directions, space
