"""Bootstrap intervals, for statistics whose sampling distribution nobody has written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from activation_analysis.statistics.intervals import Interval, upper_tail

BLOCK_VALUES = 2**22  # float64 values of replicates held at once, 32 MiB

Statistic = Callable[..., np.ndarray]  # (a, b, ...) -> (n_units,)


def bootstrap_interval(
    statistic: Statistic,
    samples: Sequence[np.ndarray],
    *,
    rng: np.random.Generator,
    groups: Sequence[np.ndarray] | None = None,
    method: str = "bca",
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap confidence interval of any statistic, for every unit.

        percentile   the (1 +- confidence) / 2 quantiles of the resampled statistic
        bca          the same at levels moved for its bias z0 and its acceleration from jackknife

    Prompts are drawn with replacement within their sample; where ``groups`` are given, whole
    groups are, and a group that is in several samples (items of a paired design, sources crossed
    with conditions) is drawn for all of them together. All units share the resamples: the
    interval of a unit does not depend on the company that it is computed in. Use an exact interval
    where there is one: at 95 %, BCa covers a difference of normal means in 91 % with 10 prompts a
    side, 93 % with 20, 95 % with 50, and Cohen's d in 94, 95 and 95 %. With 20 groups a side and
    intraclass correlation .5 it covers 93 %, and 73 % if the groups are not named. Not
    appropriate with fewer than about 10 prompts or groups per sample, nor for maxima.

    Parameters
    ----------
    statistic : callable
        Of as many matrices as there are samples, to (n_units,); unit by unit.
    samples : sequence of (n, n_units)
        One, two or more groups of prompts.
    rng : np.random.Generator
    groups : sequence of (n,), optional
        The exchangeability block of every prompt of every sample.
    method : str
        An entry of ``METHODS``.
    n_resamples : int
    confidence : float
        Coverage, between 0 and 1.

    Returns
    -------
    Interval
        (n_units,) each; NaN where the statistic, or any replicate of it, is NaN.

    Raises
    ------
    ValueError
        If samples, groups, method, ``n_resamples`` or ``confidence`` do not fit.

    References
    ----------
    Efron (1987), JASA 82:171-185. Davison & Hinkley (1997), Bootstrap Methods, ch. 2 and 5.
    """
    tail = upper_tail(confidence)
    samples = [np.asarray(sample) for sample in samples]
    _refuse_unfit(samples, groups, method, n_resamples, tail)
    members, strata = _drawing_units(samples, groups)
    draws = [_resampled(members, strata, rng) for _ in range(n_resamples)]
    left_out = [_without(members, unit) for unit in range(len(members))] if method == "bca" else []
    n_units = samples[0].shape[1]
    low, high = np.empty((2, n_units))
    width = max(1, BLOCK_VALUES // (n_resamples + max(len(sample) for sample in samples)))
    for start in range(0, n_units, width):
        columns = slice(start, start + width)
        block = [sample[:, columns].astype(float) for sample in samples]
        observed, replicates, jackknife = (
            np.array(
                [statistic(*(x[i] for x, i in zip(block, rows, strict=True))) for rows in sets]
            )
            for sets in ([[slice(None)] * len(block)], draws, left_out)
        )
        levels = METHODS[method](tail, observed[0], replicates, jackknife)
        low[columns], high[columns] = _quantiles(replicates, levels)
    return Interval(low, high)


def percentile(tail, observed, replicates, jackknife) -> np.ndarray:
    """Levels of the two quantiles, (2, n_units)."""
    return np.broadcast_to(np.array([[tail], [1 - tail]]), (2, len(observed)))


def bca(tail, observed, replicates, jackknife) -> np.ndarray:
    """Levels of the two quantiles, corrected for bias and acceleration, (2, n_units)."""
    # Ties count half: a statistic of few values, as delta, is not biased by them.
    below = (np.mean(replicates < observed, axis=0) + np.mean(replicates <= observed, axis=0)) / 2
    z0 = ndtri(np.clip(below, 0.5 / len(replicates), 1 - 0.5 / len(replicates)))
    influence = _column_sums(jackknife) / len(jackknife) - jackknife
    squares = _column_sums(influence**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = _column_sums(influence**3) / (6 * squares**1.5)
    acceleration = np.where(squares > 0, acceleration, 0)
    z = z0 + ndtri(np.array([[tail], [1 - tail]]))
    return ndtr(z0 + z / np.maximum(1 - acceleration * z, 1e-3))


def _column_sums(x: np.ndarray) -> np.ndarray:
    # numpy sums one lone column pairwise, and several row by row: other last bits.
    return np.add.accumulate(x)[-1]


METHODS: dict[str, Callable[..., np.ndarray]] = {"bca": bca, "percentile": percentile}


def _drawing_units(
    samples: list[np.ndarray], groups: Sequence[np.ndarray] | None
) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
    """The rows of each sample that each prompt or group holds; and which are drawn in one urn.

    Groups that touch the same samples share an urn, so that no resample leaves a sample empty.
    """
    if groups is None:
        labels = [[(k, row) for row in range(len(x))] for k, x in enumerate(samples)]
    else:
        labels = [np.asarray(sample_groups).tolist() for sample_groups in groups]
    rows: dict[object, list[list[int]]] = {}
    for k, sample_labels in enumerate(labels):
        for row, label in enumerate(sample_labels):
            rows.setdefault(label, [[] for _ in samples])[k].append(row)
    members = [[np.array(part, dtype=int) for part in unit] for unit in rows.values()]
    touched = [tuple(len(part) > 0 for part in unit) for unit in members]
    urns = [
        np.array([i for i, t in enumerate(touched) if t == urn]) for urn in sorted(set(touched))
    ]
    return members, urns


def _resampled(members, urns, rng: np.random.Generator) -> list[np.ndarray]:
    drawn = np.concatenate([rng.choice(urn, size=len(urn)) for urn in urns])
    return _rows([members[i] for i in drawn])


def _without(members, unit: int) -> list[np.ndarray]:
    return _rows([m for i, m in enumerate(members) if i != unit])


def _rows(members) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*members, strict=True)]


def _quantiles(replicates: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantile (level (n + 1)) of every column at its own two levels, (2, n_units)."""
    ascending = np.sort(replicates, axis=0)  # NaN last
    n = len(ascending)
    at = np.clip(levels * (n + 1) - 1, 0, n - 1)
    lower = np.floor(np.nan_to_num(at)).astype(int)
    below, above = (
        np.take_along_axis(ascending, i, axis=0) for i in (lower, np.minimum(lower + 1, n - 1))
    )
    found = below + (at - lower) * (above - below)
    return np.where(np.isnan(ascending[-1]), np.nan, found)


def _refuse_unfit(samples, groups, method: str, n_resamples: int, tail: float) -> None:
    if method not in METHODS:
        raise ValueError(f"no bootstrap method {method!r}; known: {', '.join(METHODS)}")
    shapes = [x.shape for x in samples]
    if not samples or any(len(s) != 2 or s[0] < 2 or s[1] != shapes[0][-1] for s in shapes):
        raise ValueError(
            f"the samples have shapes {shapes}; expected (n_prompts, n_units) each, two prompts "
            f"or more, of the same units"
        )
    if n_resamples * tail < 1:
        raise ValueError(
            f"{n_resamples} resamples hold no quantile at {tail:g}; "
            f"at least {int(np.ceil(1 / tail))}"
        )
    if groups is None:
        return
    lengths = [len(g) for g in groups]
    if lengths != [len(x) for x in samples]:
        raise ValueError(
            f"groups name {lengths} prompts, the samples have {[len(x) for x in samples]}; "
            f"give one group per prompt of every sample"
        )
    counts = [len(np.unique(np.asarray(g))) for g in groups]
    if min(counts) < 2:
        raise ValueError(
            f"the samples hold {counts} groups; whole groups are drawn, so each needs at least two"
        )
