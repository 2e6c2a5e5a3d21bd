"""Representational dissimilarity: which prompts does a representation tell apart?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import kendalltau, rankdata


def rdm(patterns: np.ndarray, metric: str = "correlation") -> np.ndarray:
    """Representational dissimilarity matrix: how far apart is every pair of prompts?

        correlation   1 - r of the two patterns over units
        cosine        1 - cosine of the angle between them
        euclidean     length of their difference

    A few massive units can carry all of it: z-score the units first, or compare with and
    without them.

    Parameters
    ----------
    patterns : (n_prompts, n_units)
        One row per prompt (or per condition mean).
    metric : str
        An entry of ``METRICS``.

    Returns
    -------
    (n_pairs,) array
        The pairs (0, 1), (0, 2), ..., (1, 2), ... as ``scipy.spatial.distance.pdist`` orders
        them; ``squareform`` makes the matrix.

    Raises
    ------
    ValueError
        If ``patterns`` is not a finite matrix of two prompts or more, a pattern has no
        direction (constant for ``correlation``, zero for ``cosine``), or the metric is unknown.

    References
    ----------
    Kriegeskorte et al. (2008), Frontiers in Systems Neuroscience 2:4.
    """
    if metric not in METRICS:
        raise ValueError(f"no metric {metric!r}; known: {', '.join(METRICS)}")
    patterns = np.asarray(patterns, dtype=np.float64)
    if patterns.ndim != 2 or len(patterns) < 2:
        raise ValueError(
            f"patterns have shape {patterns.shape}; expected (n_prompts, n_units) with two "
            f"prompts or more"
        )
    bad = ~np.isfinite(patterns).all(axis=0)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(bad)} units hold NaN or inf; leave them out: "
            f"patterns[:, np.isfinite(patterns).all(axis=0)]"
        )
    return METRICS[metric](patterns)


def compare(rdm1: np.ndarray, rdm2: np.ndarray, metric: str = "rho_a") -> float:
    """Compare two RDMs over the same prompts: do both tell the same prompts apart?

        rho_a      expected Spearman correlation, ties broken at random
        spearman   correlation of midranks
        tau_a      (concordant - discordant pairs) / all pairs
        pearson    correlation of the dissimilarities
        cosine     of the angle between the two vectors

    ``rho_a`` is the default: it asks for the same order only, as Spearman does, but gives no
    advantage to an RDM with ties, as of a model of categories; without ties they are equal.

    Parameters
    ----------
    rdm1, rdm2 : (n_pairs,) each
        As ``rdm`` returns them.
    metric : str
        An entry of ``COMPARISONS``.

    Returns
    -------
    float
        At most 1; NaN where an RDM does not vary.

    Raises
    ------
    ValueError
        If the RDMs differ in size, have fewer than three pairs or hold NaN, or the metric is
        unknown.

    References
    ----------
    Schütt et al. (2023), eLife 12:e82566.
    """
    if metric not in COMPARISONS:
        raise ValueError(f"no comparison {metric!r}; known: {', '.join(COMPARISONS)}")
    rdm1, rdm2 = np.asarray(rdm1, dtype=np.float64), np.asarray(rdm2, dtype=np.float64)
    if rdm1.ndim != 1 or rdm1.shape != rdm2.shape or len(rdm1) < 3:
        raise ValueError(
            f"the RDMs have shapes {rdm1.shape} and {rdm2.shape}; expected the same number of "
            f"pairs, three or more (three prompts): build both from the same prompts"
        )
    if not (np.isfinite(rdm1).all() and np.isfinite(rdm2).all()):
        raise ValueError("an RDM holds NaN or inf; leave out those prompts in both")
    return float(COMPARISONS[metric](rdm1, rdm2))


def _correlation_distance(patterns: np.ndarray) -> np.ndarray:
    patterns = patterns - patterns[:, :1]  # a constant pattern becomes exactly zero
    return _cosine_distance(patterns - patterns.mean(axis=1, keepdims=True))


def _cosine_distance(patterns: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(patterns, axis=1, keepdims=True)
    flat = np.flatnonzero(length == 0)
    if len(flat):
        raise ValueError(
            f"prompts {', '.join(map(str, flat[:5]))} ({len(flat)} in all) have a pattern without "
            f"direction (no unit varies, or all are zero); leave them out, or use 'euclidean'"
        )
    directions = patterns / length
    # A product of many rows at once; pdist would take minutes at 10,000 prompts.
    similarity = directions @ directions.T
    return np.clip(1 - similarity[np.triu_indices(len(patterns), 1)], 0, 2)


def _euclidean_distance(patterns: np.ndarray) -> np.ndarray:
    return pdist(patterns)  # differences first: a Gram matrix would cancel for near neighbours


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return _cosine(x - x.mean(), y - y.mean())


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return np.clip(x @ y / lengths, -1, 1) if lengths > 0 else np.nan


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return _pearson(rankdata(x), rankdata(y))


def _rho_a(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    n = len(x)
    middle = (n + 1) / 2
    return 12 * ((rankdata(x) - middle) @ (rankdata(y) - middle)) / (n**3 - n)


def _tau_a(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    n_pairs = len(x) * (len(x) - 1) / 2
    # Kendall's tau-b divides by the untied pairs only; tau-a divides by all.
    counts = [np.unique(v, return_counts=True)[1] for v in (x, y)]
    untied = [n_pairs - np.sum(c * (c - 1) / 2) for c in counts]
    return kendalltau(x, y).statistic * np.sqrt(untied[0] * untied[1]) / n_pairs


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "correlation": _correlation_distance,
    "cosine": _cosine_distance,
    "euclidean": _euclidean_distance,
}
COMPARISONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "rho_a": _rho_a,
    "spearman": _spearman,
    "tau_a": _tau_a,
    "pearson": _pearson,
    "cosine": _cosine,
}
DEFAULT_COMPARISON = "rho_a"
