"""Nulls made of the user's own activations: no condition differs, all else stays as it was.

    relabelled   conditions are exchanged as the design says they may be
    halves       one condition, divided at random, is compared with itself
    flipped      each condition's deviations from its mean get random signs

The first takes the design's word for what is exchangeable: ten templates of ten fillings look
harmless once their prompts are shuffled one by one, for shuffling itself breaks the dependence
that makes the naive test wrong. The other two keep it. What belongs together (a declared group,
a pair, a cluster of near-duplicates) is never divided: a cluster within one condition goes to one
half as a whole, as it lies in the design; one that spans conditions is divided itself. Signs go by
whole clusters in every condition, so that a difference within a cluster still cancels what its
prompts share; they alone keep each condition's own size and variance. They make deviations
symmetric, so that skewness is for the halves to show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.statistics.exchangeability import Exchangeability

FEWEST_A_PART = 2  # clusters, for a part to have a variance of its own
ENUMERATED = 4096  # possibilities that may be listed


@dataclass(frozen=True, eq=False)
class NullDraw:
    """One null repetition of a design."""

    design: Design
    sign: np.ndarray | None = None  # (n_prompts,) of deviations from the condition's mean


@dataclass(frozen=True)
class NullDesigns:
    """Repetitions of one kind; ``n_possible`` are distinct, a mirrored one not counted twice."""

    draws: Sequence[NullDraw]
    n_possible: int
    n_clusters: int  # that are kept whole


def relabelled(
    design: Design, clusters: np.ndarray, n: int, rng: np.random.Generator, of: int | None = None
) -> NullDesigns:
    """The design's own exchanges; ``clusters`` and ``of`` do not matter."""
    possible = design.exchangeable.n_relabellings
    draws = [NullDraw(design.relabelled(rng)) for _ in range(n)]
    mirrored = design.is_paired or len(set(design.n)) == 1 == design.is_simple
    return NullDesigns(draws, possible // (2 if mirrored else 1), 0)


def halves(
    design: Design, clusters: np.ndarray, n: int, rng: np.random.Generator, of: int | None = None
) -> NullDesigns:
    """One condition (the one numbered ``of``, else each in turn) as if it were all of them.

    Raises
    ------
    ValueError
        If the test is paired, or no condition has clusters enough.
    """
    if design.is_paired:
        raise ValueError("a half of one condition has no pairs")
    asked = range(len(design.rows)) if of is None else (of,)
    divided = [_division(design, clusters, k) for k in asked]
    fewest = FEWEST_A_PART * len(design.rows)
    able = [d for d in divided if len(d.label) >= fewest]
    if not able:
        most = max(len(d.label) for d in divided)
        raise ValueError(
            f"a condition has at most {most} clusters; {fewest} are needed to divide it"
        )
    mirrored = [len(set(np.bincount(d.label).tolist())) == 1 and design.is_simple for d in able]
    distinct = [d.n_relabellings // (1 + m) for d, m in zip(able, mirrored, strict=True)]
    possible, whole = sum(distinct), sum(len(d.label) < len(d.atom) for d in able)
    if possible <= min(n, ENUMERATED):
        labels = [(d, row) for d, m in zip(able, mirrored, strict=True) for row in _distinct(d, m)]
    else:
        labels = [(d, _drawn(d, rng)) for d in (able[i % len(able)] for i in range(n))]
    rows_of = {id(d): design.rows[k] for d, k in zip(divided, asked, strict=True)}
    draws = [NullDraw(_as_conditions(design, rows_of[id(d)], label)) for d, label in labels]
    return NullDesigns(draws, possible, max(len(d.label) for d in able) if whole else 0)


def flipped(
    design: Design, clusters: np.ndarray, n: int, rng: np.random.Generator, of: int | None = None
) -> NullDesigns:
    """Random signs of the deviations from each condition's mean, one sign for a cluster.

    Raises
    ------
    ValueError
        If a condition has one cluster, which cannot be told from it.
    """
    inside = [len(np.unique(clusters[rows])) for rows in design.rows]
    if min(inside) < FEWEST_A_PART:
        raise ValueError(
            f"a condition has {min(inside)} cluster: what its prompts share cannot be told from "
            f"what the condition does"
        )
    rows = np.unique(design.every_row)
    cluster = np.unique(clusters[rows], return_inverse=True)[1]
    n_clusters = int(cluster.max()) + 1
    possible = 2 ** (n_clusters - 1)
    if possible <= min(n, ENUMERATED):
        patterns = [np.array((1, *p)) for p in product((1, -1), repeat=n_clusters - 1)]
    else:
        patterns = [rng.choice((-1, 1), n_clusters) for _ in range(n)]
    draws = []
    for pattern in patterns:
        sign = np.ones(len(clusters), dtype=np.float32)
        sign[rows] = pattern[cluster]
        draws.append(NullDraw(design, sign))
    return NullDesigns(draws, possible, n_clusters if n_clusters < len(rows) else 0)


NULLS: dict[str, Callable[..., NullDesigns]] = {
    "relabelled": relabelled,
    "halves": halves,
    "flipped": flipped,
}


def clusters_of(design: Design, clusters: Sequence | np.ndarray | None, n: int) -> np.ndarray:
    """What must stay together, of every prompt: clusters, blocks and pairs joined, (n,) int.

    Raises
    ------
    ValueError
        If there is not one cluster per prompt.
    """
    joined = np.arange(n)
    if clusters is not None:
        clusters = np.asarray(clusters)
        if clusters.shape != (n,):
            raise ValueError(
                f"clusters has shape {clusters.shape}; expected one per prompt, ({n},)"
            )
        joined = np.unique(clusters, return_inverse=True)[1]
    if design.blocks is not None:
        joined = _joined(joined, np.unique(design.blocks, return_inverse=True)[1])
    if design.is_paired:
        pairs = np.arange(n)
        pairs[design.rows[1]] = design.rows[0]
        joined = _joined(joined, pairs)
    return joined


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The finest labels under which whatever shares a label of either shares one, (n,) int."""
    label, before = a, None
    while before is None or not np.array_equal(label, before):
        before = label
        for group in (a, b):
            least = np.full(int(group.max()) + 1, len(a))
            np.minimum.at(least, group, label)
            label = least[group]
    return label


def _division(design: Design, clusters: np.ndarray, condition: int) -> Exchangeability:
    """How the prompts of one condition may be divided among as many parts as there are sides."""
    rows = design.rows[condition]
    others = np.concatenate([r for k, r in enumerate(design.rows) if k != condition])
    own = clusters[rows]
    spans = np.isin(own, clusters[others])
    # A whole cluster is one atom of the first stratum; a prompt of a spanning one is its own.
    key = np.where(spans, -1 - np.arange(len(rows)), own)
    _, first, atom = np.unique(key, return_index=True, return_inverse=True)
    names, counts = np.unique(own, return_counts=True)
    alone = np.isin(own, names[counts == 1])
    stratum = np.where(spans & ~alone, own + 2, np.where(spans, 1, 0))[first]
    stratum = np.unique(stratum, return_inverse=True)[1]
    label = np.empty(len(first), dtype=int)
    # One after the other over all strata, so that parts of equal size come out.
    label[np.argsort(stratum, kind="stable")] = np.arange(len(first)) % len(design.rows)
    return Exchangeability("whole", atom, stratum, label)


def _distinct(division: Exchangeability, mirrored: bool) -> Iterator[np.ndarray]:
    labels = division.labellings()
    return iter(labels[labels[:, 0] == labels[0, 0]] if mirrored else labels)


def _drawn(division: Exchangeability, rng: np.random.Generator) -> np.ndarray:
    label = division.label.copy()
    for k in np.unique(division.stratum):
        inside = np.flatnonzero(division.stratum == k)
        label[inside] = rng.permutation(label[inside])
    return label[division.atom]


def _as_conditions(design: Design, rows: np.ndarray, label: np.ndarray) -> Design:
    return replace(design, rows=tuple(rows[label == k] for k in range(len(design.rows))))
