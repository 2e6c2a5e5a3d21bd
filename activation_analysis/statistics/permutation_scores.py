"""Scores of relabelled data as matrix products: what max-T compares, for each of its tests.

Every column is centred in float64 and scaled to unit norm, so that a product with a scaled
label vector is a correlation. A score rises with abs(t); ``as_statistic`` turns it into abs(t).
"""

from __future__ import annotations

import numpy as np

SMALLEST_ERROR = 1e-14  # of a unit-norm column: below it, rounding decides


class StudentScores:
    """abs(r) of values and labels: t = r sqrt((n - 2) / (1 - r^2))."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self.a, self.b = a, b
        self.df = len(a) + len(b) - 2

    def columns(self, units: np.ndarray) -> np.ndarray:
        return _unit_norm(_pooled(self.a, self.b, units))

    def __call__(self, labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(n_relabellings, n) bool and (n, n_units) -> (n_relabellings, n_units)."""
        n_a, n_b = len(self.a), len(self.b)
        weights = np.where(labels, 1 / n_a, -1 / n_b) / np.sqrt(1 / n_a + 1 / n_b)
        r = weights @ columns
        return np.abs(r, out=r)

    def as_statistic(self, r: np.ndarray) -> np.ndarray:
        return r * np.sqrt(self.df / np.maximum(1 - r**2, SMALLEST_ERROR))


class WelchScores:
    """abs(t) of Welch's test from two products, of the labels with y and with y^2."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self.a, self.b = a, b

    def columns(self, units: np.ndarray) -> np.ndarray:
        return _unit_norm(_pooled(self.a, self.b, units))

    def __call__(self, labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
        n_a, n_b = len(self.a), len(self.b)
        in_first = labels.astype(np.float64)
        total = in_first @ columns  # that of the second group is its negative
        squares = in_first @ columns**2  # those of both groups add up to 1
        in_a = np.maximum(squares - total**2 / n_a, 0)
        in_b = np.maximum(1 - squares - total**2 / n_b, 0)
        error = in_a / ((n_a - 1) * n_a) + in_b / ((n_b - 1) * n_b)
        floor = SMALLEST_ERROR / (n_a + n_b) ** 2
        return np.abs(total) * (1 / n_a + 1 / n_b) / np.sqrt(np.maximum(error, floor))

    def as_statistic(self, t: np.ndarray) -> np.ndarray:
        return t


class AdjustedScores:
    """abs(t) of the condition in a regression on nuisance covariates, by Freedman and Lane.

    Residuals of the covariates alone are permuted and regressed on the whole design:
    ``t = b sqrt(df / (1 - a^2 - b^2))`` with b the product of a permuted unit-norm residual and
    the condition's own direction, a its projection onto the covariates.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, in_first: np.ndarray, covariates: np.ndarray):
        self.a, self.b = a, b
        self.space = _orthonormal(covariates - covariates.mean(axis=0))  # (n, rank)
        n, rank = len(in_first), self.space.shape[1]
        self.df = n - 2 - rank
        condition = in_first - in_first.mean()
        direction = condition - self.space @ (self.space.T @ condition)
        length = np.linalg.norm(direction)
        if self.df < 1 or length**2 < 1e-10 * (condition @ condition):
            raise ValueError(
                f"the covariates leave nothing of the condition to test (rank {rank} of {n} "
                f"prompts); they determine it, or there are too many of them"
            )
        self.direction = direction / length

    def columns(self, units: np.ndarray) -> np.ndarray:
        columns = _unit_norm(_pooled(self.a, self.b, units))
        for _ in range(2):  # twice: the second pass removes what rounding left
            columns -= self.space @ (self.space.T @ columns)
        return _unit_norm(columns)

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(n_permutations, n) row indices and (n, n_units) -> (n_permutations, n_units)."""
        along = self.direction[rows] @ columns
        explained = along**2
        for covariate in self.space.T:
            explained += (covariate[rows] @ columns) ** 2
        return np.abs(along) * np.sqrt(self.df / np.maximum(1 - explained, SMALLEST_ERROR))

    def as_statistic(self, t: np.ndarray) -> np.ndarray:
        return t

    def statistic(self) -> np.ndarray:
        """Signed t of the condition at every unit, NaN where nothing is left to explain."""
        statistic = np.empty(self.a.shape[1])
        for start in range(0, len(statistic), 1024):
            units = np.arange(start, min(start + 1024, len(statistic)))
            pooled = _pooled(self.a, self.b, units)
            columns = self.columns(units)
            along = self.direction @ columns
            with np.errstate(invalid="ignore"):
                statistic[units] = along * np.sqrt(
                    self.df / np.maximum(1 - along**2, SMALLEST_ERROR)
                )
                centred = _unit_norm(pooled)
                left = centred - self.space @ (self.space.T @ centred)
                untestable = ~(np.sum(left**2, axis=0) > 1e-20)
            statistic[units[untestable]] = np.nan
        return statistic


def _pooled(a: np.ndarray, b: np.ndarray, units: np.ndarray) -> np.ndarray:
    return np.concatenate([a[:, units], b[:, units]]).astype(np.float64)


def _unit_norm(columns: np.ndarray) -> np.ndarray:
    """Centred columns of norm 1; zero where nothing varies or a value is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = columns - columns[0]
        columns -= columns.sum(axis=0) / len(columns)
        norm = np.sqrt(np.square(columns).sum(axis=0))
        columns /= norm
    columns[:, ~(norm > 0)] = 0.0
    return columns


def _orthonormal(covariates: np.ndarray) -> np.ndarray:
    """A basis of what the covariates span, (n, rank)."""
    spread = np.linalg.norm(covariates, axis=0)
    varying = spread > 0
    if not varying.any():
        return np.empty((len(covariates), 0))
    left, size, _ = np.linalg.svd(covariates[:, varying] / spread[varying], full_matrices=False)
    return left[:, size > 1e-10 * size.max()]
