"""Family-wise error on activations of a real model: random halves of prompts of one condition.

Nothing differs between random halves of one condition but by chance. Every honest run draws
its prompts and its halves and calls `max_t` afresh. The pool is a short cut over many more
relabellings: the maxima of a split's own relabellings are a sample of the maxima of all
labellings of the same prompts, since a relabelling of a relabelling is a labelling like any
other. So one pool of random labellings of one set of prompts serves every split of them, and
a split's p is (1 + how many of 999 others of the pool are as large) / 1000.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr

from activation_analysis.activations import SITES
from activation_analysis.statistics.multiplicity import reject
from activation_analysis.statistics.permutation import max_t
from benchmarks.validation.rates import Rate, table

if TYPE_CHECKING:
    from activation_analysis import ActivationCapture

ALPHA = 0.05
GOAL = (0.037, 0.064)
PROMPTS = Path("experiments/math_vs_nonmath/prompts.csv")
CONDITION = "nonmath"
SELECTED = 40  # prompts of a run, drawn from the condition
PART = 250  # runs that are kept together


def one_condition(path: Path = PROMPTS, condition: str = CONDITION) -> list[str]:
    """The prompts of one condition: no effect among them."""
    with path.open(encoding="utf-8") as stream:
        return [row["prompt"] for row in csv.DictReader(stream) if row["condition"] == condition]


def activations(texts: Sequence[str], capture: ActivationCapture | None = None) -> np.ndarray:
    """Every unit of the embedded model at the last token, (n_texts, 115200) float32."""
    if capture is None:
        from activation_analysis import ActivationCapture

        capture = ActivationCapture("smollm2-135m", device="cpu", progress=False)
    recorded = capture.capture_batch(texts, SITES)
    return np.hstack([recorded.matrix(site) for site in recorded.sites])


@dataclass(frozen=True, eq=False)
class HonestRuns:
    """Splits of real activations, each tested from scratch."""

    test: str
    n_units: int
    any_significant: Rate  # single-step max-T
    p_smallest: np.ndarray  # (n_splits,) family-wise p of the strongest unit
    by_p_value: dict[str, Rate]  # control of parametric p-values -> any unit significant

    @classmethod
    def of(cls, test: str, n_units: int, parts: Sequence[dict[str, np.ndarray]]) -> HonestRuns:
        """Of one part of `split_by_split` or several."""
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        p = whole.pop("p_smallest")
        by_p_value = {control: Rate.of(hit) for control, hit in whole.items()}
        return cls(test, n_units, Rate.of(p <= ALPHA), p, by_p_value)


def honest_runs(
    x: np.ndarray,
    n_splits: int,
    *,
    test: str = "student",
    n_permutations: int = 999,
    n_selected: int = SELECTED,
    seed: int = 0,
) -> HonestRuns:
    """`split_by_split`, summed up."""
    part = split_by_split(
        x, n_splits, test=test, n_permutations=n_permutations, n_selected=n_selected, seed=seed
    )
    return HonestRuns.of(test, x.shape[1], [part])


def split_by_split(
    x: np.ndarray,
    n_splits: int,
    *,
    test: str = "student",
    n_permutations: int = 999,
    n_selected: int = SELECTED,
    first: int = 0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw prompts, halve them, test every unit with max-T; also with Bonferroni and BH.

    Splits are numbered from ``first``, so that parts of a long run can be put together.
    """
    p_smallest = np.empty(n_splits)
    controls = ("bonferroni", "fdr_bh") if test == "student" else ()
    hits = {c: np.empty(n_splits, dtype=bool) for c in controls}
    for i in range(n_splits):
        rng = np.random.default_rng([seed, first + i, len(test)])
        a, b = np.split(x[rng.permutation(len(x))[:n_selected]], 2)
        found = max_t(a, b, test, n_permutations, rng=rng, n_threads=1)
        p_smallest[i] = np.nanmin(found.p_value)
        for control in controls:
            p = 2 * stdtr(n_selected - 2, -np.abs(found.statistic))
            hits[control][i] = reject(p, control, ALPHA).any()
    return {"p_smallest": p_smallest, **hits}


@dataclass(frozen=True, eq=False)
class PooledSplits:
    """Splits compared with others of the same prompts."""

    test: str
    n_sets: int  # sets of prompts
    any_significant: Rate
    null_max: np.ndarray  # (n_sets, n_pool) maxima of every labelling


def pooled_splits(
    x: np.ndarray,
    n_splits: int,
    *,
    test: str = "student",
    n_sets: int = 10,
    n_pool: int = 2000,
    n_selected: int = SELECTED,
    seed: int = 0,
) -> PooledSplits:
    """Maxima of many labellings of each of several sets of prompts; each split against 999."""
    rng = np.random.default_rng([seed, 1, len(test)])
    per_set = -(-n_splits // n_sets)
    null_max, errors = [], []
    for _ in range(n_sets):
        a, b = np.split(x[rng.permutation(len(x))[:n_selected]], 2)
        pool = max_t(a, b, test, n_pool, exact=False, rng=rng, n_threads=1).null_max
        null_max.append(pool)
        for split in rng.choice(n_pool, per_set, replace=False):
            others = rng.choice(np.delete(pool, split), 999, replace=False)
            errors.append((1 + np.sum(others >= pool[split] * (1 - 1e-12))) / 1000 <= ALPHA)
    return PooledSplits(test, n_sets, Rate.of(np.array(errors)), np.array(null_max))


def kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What ``make`` makes, from the file of an earlier run where there is one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
    with np.load(path) as arrays:
        return dict(arrays)


def section(n_simulations: int, cache: Path) -> tuple[str, tuple[HonestRuns, PooledSplits]]:
    """``cache`` keeps activations and finished parts: a run that was cut off goes on from there."""
    x = kept(cache / "activations.npz", lambda: {"x": activations(one_condition())})["x"]
    every = []
    for test in ("student", "welch"):
        parts = []
        for first in range(0, n_simulations, PART):
            size = min(PART, n_simulations - first)
            run = partial(split_by_split, x, size, test=test, first=first)
            parts.append(kept(cache / f"{test}_{first}_{size}.npz", run))
        every.append(HonestRuns.of(test, x.shape[1], parts))
    honest = every[0]
    pooled = pooled_splits(x, 1000)
    rows = [
        [f"max-T, {r.test}, each run from scratch", r.any_significant.n, r.any_significant]
        for r in every
    ]
    rows += [
        [
            f"max-T, student, pool of {pooled.null_max.size:,} labellings of "
            f"{pooled.n_sets} sets of prompts",
            pooled.any_significant.n,
            pooled.any_significant,
        ]
    ]
    rows += [
        [f"{control} of Student's p, the same runs", rate.n, rate]
        for control, rate in honest.by_p_value.items()
    ]
    told = table(["control", "splits", "any unit significant"], rows)
    return f"{x.shape[1]:,} units, {x.shape[0]} prompts.\n\n{told}", (honest, pooled)
