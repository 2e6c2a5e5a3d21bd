"""Linear contrasts of several conditions, and regressions with nuisance covariates, at every unit.

Both are one t or F per unit; the columns of the design are orthogonalised once, and the units
pass by in blocks, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import fdtrc

from activation_analysis.statistics.moments import (
    Moments,
    Sample,
    column_blocks,
    column_sums,
    float64_block,
    mean_difference,
    several_moments,
)
from activation_analysis.statistics.permutation_scores import (
    NEGLIGIBLE,
    orthonormal,
    residual_directions,
)
from activation_analysis.statistics.unit_statistics import UnitStatistics, t_statistics


def contrast_t(
    samples: Sequence[Sample], weights: Sequence[float], *, equal_variance: bool = False
) -> UnitStatistics:
    """t of a linear contrast of condition means: is sum_k c_k mean_k other than zero?

        t = sum c_k mean_k / sqrt(sum c_k^2 s_k^2 / n_k)             Satterthwaite's df
        t = sum c_k mean_k / sqrt(s^2 sum c_k^2 / n_k)               df = N - K, equal_variance

    With two conditions and weights 1 and -1 these are Welch's and Student's t.

    Parameters
    ----------
    samples : matrices (n_k, n_units), or Moments, of every condition
    weights : one per condition, adding up to 0
    equal_variance : bool
        Pool the variance within all conditions.

    Returns
    -------
    UnitStatistics
        NaN where a unit has NaN or inf, or is constant in every condition that has a weight.

    Raises
    ------
    ValueError
        If weights and conditions do not match, or a condition has fewer than two prompts.

    References
    ----------
    Welch (1951), Biometrika 38:330-336; Kirk (2013), Experimental Design, 4th ed., ch. 4.
    """
    known = several_moments(samples)
    c = checked_weights(weights, len(known))
    estimate = contrast_of_means(known, c)
    if equal_variance:
        df = float(sum(m.n for m in known) - len(known))
        variance = sum(m.sum_squares for m in known) / df
        error = variance * sum(w**2 / m.n for w, m in zip(c, known, strict=True))
        return t_statistics(estimate, error, np.full(len(estimate), df))
    parts = [w**2 * m.variance / m.n for w, m in zip(c, known, strict=True)]
    error = sum(parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [part / error for part in parts]
        df = 1 / sum(s**2 / (m.n - 1) for s, m in zip(shares, known, strict=True))
    return t_statistics(estimate, error, df)


def contrast_effect_size(samples: Sequence[Sample], weights: Sequence[float]) -> np.ndarray:
    """sum_k c_k mean_k in standard deviations pooled within all conditions, (n_units,).

    Cohen's d for two conditions with weights 1 and -1. NaN where no condition varies.
    """
    known = several_moments(samples)
    c = checked_weights(weights, len(known))
    variance = sum(m.sum_squares for m in known) / (sum(m.n for m in known) - len(known))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, contrast_of_means(known, c) / np.sqrt(variance), np.nan)


def contrast_of_means(known: Sequence[Moments], weights: Sequence[float]) -> np.ndarray:
    """sum c_k mean_k, (n_units,); differences from one condition, so that an offset cancels."""
    base = known[-1]
    return sum(w * mean_difference(m, base) for w, m in zip(weights[:-1], known[:-1], strict=True))


def weighted_t(
    samples: Sequence[np.ndarray], weights: Sequence[float], nuisance: np.ndarray | None
) -> UnitStatistics:
    """t of a linear contrast of condition means, adjusted for covariates, pooled variance.

    The t of ``contrast`` in the regression of a unit on conditions and covariates.

    Parameters
    ----------
    samples, weights : as `contrast_t`
    nuisance : (n, k), rows in the order of the samples; an intercept is implied

    Raises
    ------
    ValueError
        If the covariates determine the contrast.
    """
    column, others = weighted([len(s) for s in samples], weights)
    others = others if nuisance is None else np.hstack([others, covariates(nuisance, len(others))])
    directions, space = residual_directions(column, others)
    if column[:, 0] @ directions[:, 0] < 0:
        directions = -directions  # a basis has no sign; the first side is positive
    along, left, _ = _decomposed(samples, directions, space)
    df = float(len(column) - 2 - space.shape[1])
    return t_statistics(along[0], left / df, np.full(len(left), df))


def adjusted_f(samples: Sequence[np.ndarray], nuisance: np.ndarray | None) -> UnitStatistics:
    """F of any difference among conditions, adjusted for covariates.

        F = ((SSE without conditions - SSE) / (K - 1)) / (SSE / (N - K - rank of the covariates))

    Parameters, errors : as `weighted_t`.
    """
    sizes = [len(s) for s in samples]
    others = None if nuisance is None else covariates(nuisance, sum(sizes))
    directions, space = residual_directions(indicators(sizes), others)
    along, left, total = _decomposed(samples, directions, space)
    df1 = float(directions.shape[1])
    df2 = sum(sizes) - 1.0 - space.shape[1] - df1
    explained = np.square(along).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(left > 1e-28 * total, (explained / df1) / (left / df2), np.nan)
    full = np.where(np.isnan(f), np.nan, 1.0)
    return UnitStatistics(f, fdtrc(df1, df2, f), full * df1, full * df2)


def linear_model(y: np.ndarray, design: np.ndarray, contrast: np.ndarray) -> UnitStatistics:
    """Ordinary least squares at every unit: t of one contrast of coefficients, or F of several.

        y = X b + e,   t of c'b = 0,   F of C b = 0

    Parameters
    ----------
    y : (n, n_units)
    design : (n, p), of any rank
    contrast : (p,) for t, or (q, p) for F

    Raises
    ------
    ValueError
        If the contrast is not estimable, or nothing is left to estimate the error.

    References
    ----------
    Christensen (2011), Plane Answers to Complex Questions, 4th ed., ch. 3.
    """
    x = np.asarray(design, dtype=np.float64)
    c = np.asarray(contrast, dtype=np.float64)
    rows = np.atleast_2d(c)
    if x.ndim != 2 or len(x) != len(y) or rows.shape[1] != x.shape[1]:
        raise ValueError(
            f"design has shape {x.shape} and contrast {c.shape} for {len(y)} prompts; expected "
            f"(n_prompts, p), and (p,) or (q, p)"
        )
    if not (np.isfinite(x).all() and np.isfinite(c).all()):
        raise ValueError("the design or the contrast holds NaN or inf; leave out those prompts")
    if not rows.any(axis=1).all():
        raise ValueError(f"contrast {c.tolist()} weighs no coefficient in some row")
    basis, needed = _needed_of_prompts(x, rows)
    directions = orthonormal(needed)
    df2 = float(len(x) - basis.shape[1])
    if df2 < 1:
        raise ValueError(f"{len(x)} prompts and a design of rank {basis.shape[1]} leave no error")
    if c.ndim == 1 and needed[:, 0] @ directions[:, 0] < 0:
        directions = -directions
    # What a constant adds to each coordinate; 0 but for rounding where an intercept absorbs it.
    of_constant = directions.sum(axis=0)
    of_constant[np.abs(of_constant) < 1e-12 * np.sqrt(len(x))] = 0.0
    n_units = y.shape[1]
    along, left, total = np.empty((directions.shape[1], n_units)), *np.empty((2, n_units))
    with np.errstate(invalid="ignore", over="ignore"):
        for units in column_blocks(len(x), n_units):
            block = float64_block(y, units)
            origin = block[0].copy() if _has_intercept(basis) else np.zeros(block.shape[1])
            block -= origin
            total[units] = column_sums(np.square(block))
            along[:, units] = [
                _along(d, block) + shift * origin
                for d, shift in zip(directions.T, of_constant, strict=True)
            ]
            _remove(block, basis)
            left[units] = column_sums(np.square(block, out=block))
    left = _above_rounding(left, total)
    if c.ndim == 1:
        return t_statistics(along[0], left / df2, np.full(n_units, df2))
    df1 = float(directions.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(left > 0, (np.square(along).sum(axis=0) / df1) / (left / df2), np.nan)
    full = np.where(np.isnan(f), np.nan, 1.0)
    return UnitStatistics(f, fdtrc(df1, df2, f), full * df1, full * df2)


def _needed_of_prompts(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A basis of the design, and the weights of prompts that estimate every row, (n, q)."""
    size = np.linalg.norm(x, axis=0)
    size[size == 0] = 1.0
    left, singular, right = np.linalg.svd(x / size, full_matrices=False)
    rank = int((singular > NEGLIGIBLE * singular.max()).sum())
    left, singular, right = left[:, :rank], singular[:rank], right[:rank]
    scaled = rows / size
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    along = scaled @ right.T
    if np.abs(scaled - along @ right).max() > 1e-8:
        raise ValueError(
            "the contrast is not estimable: the design's columns depend on each other, and it "
            "weighs what only they together determine"
        )
    return left, left @ (along / singular).T


def indicators(sizes: Sequence[int]) -> np.ndarray:
    """Columns that are 1 in one group each, the last group left out, (n, n_groups - 1)."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    return (label[:, None] == np.arange(len(sizes) - 1)).astype(float)


def weighted(sizes: Sequence[int], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the model of group means: the contrast's own, and all that leaves it unchanged.

    In the model with both, the coefficient of the first is sum_k c_k mean_k over
    sum_k c_k^2 / n_k.

    Parameters
    ----------
    sizes, weights : prompts and weight of every group; weights add up to 0

    Returns
    -------
    (n, 1) and (n, n_groups - 1) arrays
    """
    c = checked_weights(weights, len(sizes))
    label = np.repeat(np.arange(len(sizes)), sizes)
    rest = orthonormal(np.eye(len(sizes)) - np.outer(c, c) / (c @ c))
    return (c / np.asarray(sizes))[label][:, None], rest[label]


def covariates(nuisance: np.ndarray, n: int) -> np.ndarray:
    """Nuisance covariates as a float64 matrix of ``n`` rows, or a ValueError."""
    values = np.asarray(nuisance, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != n:
        raise ValueError(
            f"nuisance has shape {np.shape(nuisance)}; expected one row per prompt, ({n}, k): "
            f"those of the first group, then those of the second"
        )
    if not np.isfinite(values).all():
        raise ValueError("nuisance holds NaN or inf; leave out those prompts or covariates")
    return values


def checked_weights(weights: Sequence[float], n_groups: int) -> np.ndarray:
    """The weights of a contrast, or a ValueError."""
    c = np.asarray(weights, dtype=float)
    if c.shape != (n_groups,) or not abs(c.sum()) <= 1e-9 or not c.any():
        raise ValueError(
            f"weights {c.tolist()} are no contrast of {n_groups} groups; one each, adding up to 0"
        )
    return c


def _decomposed(
    samples: Sequence[np.ndarray], directions: np.ndarray, space: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates along the tested directions, what is left as error, and all sums of squares."""
    n_units = samples[0].shape[1]
    n = sum(map(len, samples))
    along, left, total = np.empty((directions.shape[1], n_units)), *np.empty((2, n_units))
    with np.errstate(invalid="ignore", over="ignore"):
        for units in column_blocks(n, n_units):
            block = np.empty((n, units.stop - units.start))
            np.concatenate([s[:, units] for s in samples], out=block)
            block -= block[0]
            block -= column_sums(block) / n
            total[units] = column_sums(np.square(block))
            _remove(block, space)
            along[:, units] = [_along(d, block) for d in directions.T]
            for d in directions.T:
                block -= d[:, None] * _along(d, block)
            left[units] = column_sums(np.square(block, out=block))
    left = _above_rounding(left, total)
    return along, np.where(np.isnan(total), np.nan, left), total


def _remove(block: np.ndarray, space: np.ndarray) -> None:
    """Take out of every column its part in an orthonormal space, twice to be rid of rounding.

    By einsum's own loops, prompt by prompt: unlike a BLAS product's, no bit of a column depends
    on which other columns there are (but that a lone one takes another loop, hence its double).
    """
    if block.shape[1] == 1:
        double = np.repeat(block, 2, axis=1)
        _remove(double, space)
        block[:] = double[:, :1]
        return
    for _ in range(2):
        block -= np.einsum("nk,kw->nw", space, np.einsum("nk,nw->kw", space, block))


def _above_rounding(left: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Sums of squares of errors; 0 where rounding is all there is, no error to compare with."""
    return np.where(left <= 1e-28 * total, 0.0, left)


def _has_intercept(basis: np.ndarray) -> bool:
    """Whether a constant lies in the space of the orthonormal columns."""
    left = 1 - basis @ basis.sum(axis=0)
    return float(left @ left) < 1e-20 * len(basis)


def _along(direction: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Products with every column, row by row: no bit depends on which columns there are."""
    return column_sums(direction[:, None] * block)
