"""How often does each test call a difference where there is none? One simulation per column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from activation_analysis.statistics.hypothesis_tests import TESTS
from activation_analysis.statistics.permutation import unit_permutation
from benchmarks.validation.rates import Rate, table

ALPHA = 0.05
GOAL = (0.045, 0.055)
SIZES = (5, 10, 20, 100)
OFFSET = 100.0  # float16 steps by 1/16 there
BLOCK_VALUES = 2**23
LARGEST_COUNTED = 20  # prompts of a condition; with more, ranks allow .05 nearly

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape)


def t3(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_t(3, shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.exp(rng.standard_normal(shape)) - np.exp(0.5)


def half_precision(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """What a float16 capture holds of a unit with an offset: steps of 1/16 sd, hence ties."""
    return (OFFSET + rng.standard_normal(shape)).astype(np.float16).astype(np.float32)


DISTRIBUTIONS: dict[str, Draw] = {
    "normal": normal,
    "t3": t3,
    "lognormal": lognormal,
    "float16": half_precision,
}
MEANS = {"float16": OFFSET}
N_GROUPS = {"one_sample": 1, "f": 3, "kruskal": 3, "glm_f": 3}
WITH_COVARIATE = ("glm_t", "glm_f")

T_TESTS = ("student", "welch", "paired", "one_sample", "f", "glm_t", "glm_f")


@dataclass(frozen=True)
class Exempt:
    """Where a test misses .05 by nature, between which rates, and why."""

    mark: str
    tests: tuple[str, ...]
    distributions: tuple[str, ...]
    sizes: tuple[int, ...]  # prompts in the smallest condition
    low: float
    high: float
    why: str


EXEMPT = (
    Exempt(
        "a",
        ("mannwhitney", "wilcoxon"),
        tuple(DISTRIBUTIONS),
        (5, 10),
        0.0,
        0.055,
        "few ranks, few p-values: the exact null allows .0317 and .0433 (Mann-Whitney, 5 and 10 "
        "a group), 0 and .0488 (Wilcoxon, 5 and 10 pairs), and less with ties. With 5 pairs no p "
        "is below 2/32 = .0625: nothing can ever be found.",
    ),
    Exempt(
        "b",
        T_TESTS,
        ("t3", "lognormal"),
        SIZES,
        0.015,
        0.055,
        "an outlier inflates the standard deviation more than the mean, so a t of heavy-tailed "
        "data is too small: conservative, less so with more prompts. The permutation p of the "
        "same statistic (below) is at its level.",
    ),
    Exempt(
        "c",
        ("one_sample",),
        ("lognormal",),
        SIZES,
        0.055,
        0.2,
        "the mean of a skewed distribution against its true value: **too liberal**, .18 with 5 "
        "prompts and still .09 with 100, as every one-sample t. Not for raw activations; in a "
        "difference of pairs the skew cancels (`paired`).",
    ),
    Exempt(
        "d",
        ("brunnermunzel",),
        tuple(DISTRIBUTIONS),
        (5, 10),
        0.045,
        0.085,
        "**too liberal** below about ten prompts a group (.08 with 5), as the docstring says.",
    ),
    Exempt(
        "e",
        ("kruskal",),
        tuple(DISTRIBUTIONS),
        (5, 10),
        0.035,
        0.055,
        "chi-square stands in for the exact null of few ranks: conservative; take a permutation p.",
    ),
    Exempt(
        "f",
        ("welch",),
        ("normal", "float16"),
        (5,),
        0.04,
        0.055,
        "Satterthwaite's df is itself estimated from 5 values: a little conservative.",
    ),
)


@dataclass(frozen=True)
class FalsePositives:
    """The rate of one test in one situation."""

    test: str
    distribution: str
    sizes: tuple[int, ...]
    rate: Rate
    attainable: float = np.nan  # the rate that the discrete null of ranks allows; NaN: .05

    @property
    def within_goal(self) -> bool:
        return GOAL[0] <= self.rate.value <= GOAL[1]

    @property
    def exempt(self) -> Exempt | None:
        """Why this rate may miss the goal; None where it must not."""
        return next((e for e in self._exemptions if e.low <= self.rate.value <= e.high), None)

    @property
    def allowed(self) -> tuple[float, float]:
        """Lowest and highest true rate of this situation: the goal, and what is exempt."""
        ranges = [GOAL, *((e.low, e.high) for e in self._exemptions)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def _exemptions(self) -> list[Exempt]:
        return [
            e
            for e in EXEMPT
            if self.test in e.tests
            and self.distribution in e.distributions
            and min(self.sizes) in e.sizes
        ]

    def __str__(self) -> str:
        if self.within_goal:
            return f"{self.rate.value:.4f}"
        mark = "**missed**" if self.exempt is None else f"({self.exempt.mark})"
        return f"{self.rate.value:.4f} {mark}"


def false_positives(
    test: str,
    distribution: str,
    sizes: Sequence[int],
    *,
    n_simulations: int,
    sds: Sequence[float] = (),
    seed: int = 0,
) -> FalsePositives:
    """Share of null units with p <= .05.

    Parameters
    ----------
    test : an entry of ``TESTS``
        Those with covariates get one that the activations follow (slope .5) and that differs
        between conditions by half an SD.
    distribution : an entry of ``DISTRIBUTIONS``
    sizes : prompts of every condition
    n_simulations : independent null units
    sds : of every condition; equal where left out
    """
    rng = np.random.default_rng([seed, *map(ord, test + distribution), *sizes])
    sds = tuple(sds) or (1.0,) * len(sizes)
    rejected, n = [], sum(sizes)
    for start in range(0, n_simulations, BLOCK_VALUES // n):
        n_units = min(BLOCK_VALUES // n, n_simulations - start)
        samples = [
            sd * DISTRIBUTIONS[distribution](rng, (size, n_units))
            for size, sd in zip(sizes, sds, strict=True)
        ]
        p = TESTS[test](*samples, **_options(test, distribution, samples, rng)).p_value
        rejected.append(p <= ALPHA)
    is_known = distribution != "float16" and max(sizes) <= LARGEST_COUNTED
    attainable = attainable_level(test, tuple(sizes)) if is_known else np.nan
    rate = Rate.of(np.concatenate(rejected))
    return FalsePositives(test, distribution, tuple(sizes), rate, attainable)


def _options(test: str, distribution: str, samples, rng) -> dict:
    """What the test takes beside the samples, which follow the covariate from here on."""
    if test == "one_sample":
        return {"mean": MEANS.get(distribution, 0.0)}
    if test not in WITH_COVARIATE:
        return {}
    covariate = [0.5 * k + rng.standard_normal(len(s)) for k, s in enumerate(samples)]
    for sample, z in zip(samples, covariate, strict=True):
        sample += 0.5 * z[:, None].astype(sample.dtype)
    return {"nuisance": np.concatenate(covariate)[:, None]}


def permutation_false_positives(
    test: str,
    distribution: str,
    n: int,
    *,
    n_simulations: int,
    n_permutations: int = 999,
    n_chunks: int = 20,
    seed: int = 0,
) -> FalsePositives:
    """The same of the permutation p of every unit, relabellings drawn anew for each chunk."""
    rng = np.random.default_rng([seed, 1, *map(ord, test + distribution), n])
    rejected, attainable = [], np.nan
    for _ in range(n_chunks):
        samples = [
            DISTRIBUTIONS[distribution](rng, (n, -(-n_simulations // n_chunks)))
            for _ in range(N_GROUPS.get(test, 2))
        ]
        found = unit_permutation(samples, test, n_permutations=n_permutations, rng=rng)
        rejected.append(found.p_value <= ALPHA)
        if found.exact and test != "mannwhitney":
            # A relabelling and its mirror image tie.
            attainable = np.floor(ALPHA * found.n_permutations / 2) * 2 / found.n_permutations
    if test == "mannwhitney" and distribution != "float16":
        attainable = attainable_level(test, (n, n))
    rate = Rate.of(np.concatenate(rejected))
    return FalsePositives(test, distribution, (n, n), rate, attainable)


@lru_cache
def attainable_level(test: str, sizes: tuple[int, ...]) -> float:
    """P(p <= .05) under the exact null of an untied rank test; NaN for other tests."""
    if test == "mannwhitney":
        n_a, n_b = sizes
        u = np.arange(n_a * n_b + 1)
        at_most = mannwhitneyu_cdf(n_a, n_b)
        ranks = [_ranks_with(int(k), n_a, n_b) for k in u]
        a = np.array([r[0] for r in ranks], dtype=float).T
        b = np.array([r[1] for r in ranks], dtype=float).T
        p = TESTS[test](a, b).p_value
        return float(np.diff(at_most, prepend=0.0)[p <= ALPHA].sum())
    if test == "wilcoxon":
        n = sizes[0]
        v = np.arange(n * (n + 1) // 2 + 1)
        share = _signed_rank_share(n)
        d = np.array([_signs_with(int(k), n) for k in v]).T * np.arange(1, n + 1)[:, None]
        p = TESTS[test](d.astype(float), np.zeros(d.shape)).p_value
        return float(share[p <= ALPHA].sum())
    return np.nan


def mannwhitneyu_cdf(n_a: int, n_b: int) -> np.ndarray:
    """P(U <= u) for u = 0..n_a n_b, from counts."""
    counts = np.zeros(n_a * n_b + 1)
    counts[0] = 1.0
    for k in range(1, n_a + 1):  # Gaussian binomial, one factor after the other
        top = n_b + k
        for u in range(len(counts) - 1, top - 1, -1):
            counts[u] -= counts[u - top]
        for u in range(k, len(counts)):
            counts[u] += counts[u - k]
    return np.cumsum(counts) / counts.sum()


def _ranks_with(u: int, n_a: int, n_b: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of two groups without ties whose U of the first is ``u``."""
    beyond = np.full(n_a, u // n_a)
    beyond[n_a - u % n_a :] += 1
    of_a = np.arange(1, n_a + 1) + beyond
    return of_a, np.setdiff1d(np.arange(1, n_a + n_b + 1), of_a)


def _signed_rank_share(n: int) -> np.ndarray:
    """P(V = v) for v = 0..n(n+1)/2."""
    share = np.array([1.0])
    for rank in range(1, n + 1):
        longer = np.zeros(len(share) + rank)
        longer[: len(share)] += share / 2
        longer[rank:] += share / 2
        share = longer
    return share


def _signs_with(v: int, n: int) -> np.ndarray:
    """Signs of ranks 1..n whose positive ranks add up to ``v``."""
    signs = -np.ones(n)
    for rank in range(n, 0, -1):
        if rank <= v:
            signs[rank - 1], v = 1.0, v - rank
    return signs


UNEQUAL = ("student", "welch", "mannwhitney", "brunnermunzel")
PERMUTED = ("student", "welch", "mannwhitney", "paired")


def section(n_simulations: int) -> tuple[str, list[FalsePositives]]:
    """The tables, and what the figure draws."""
    by_test = {
        (test, law): [
            false_positives(test, law, (n,) * N_GROUPS.get(test, 2), n_simulations=n_simulations)
            for n in SIZES
        ]
        for test in TESTS
        for law in DISTRIBUTIONS
    }
    rows = [[test, law, *cells] for (test, law), cells in by_test.items()]
    parts = [table(["test", "distribution", *(f"n = {n}" for n in SIZES)], rows)]
    every = [cell for cells in by_test.values() for cell in cells]
    used = {e.mark for c in every if not c.within_goal and (e := c.exempt) is not None}
    parts += ["\n".join(f"- ({e.mark}) {e.why}" for e in EXEMPT if e.mark in used)]
    unequal = [
        [
            test,
            *(
                false_positives(test, "normal", (20, 60), sds=sds, n_simulations=n_simulations).rate
                for sds in ((3.0, 1.0), (1.0, 3.0))
            ),
        ]
        for test in UNEQUAL
    ]
    parts += ["Groups of 20 and 60 prompts with unequal variance (normal):"]
    parts += [table(["test", "sd 3 : 1", "sd 1 : 3"], unequal)]
    permuted = []
    for test in PERMUTED:
        for law in DISTRIBUTIONS:
            cells = [
                permutation_false_positives(test, law, n, n_simulations=n_simulations)
                for n in (5, 10)
            ]
            permuted += [[test, law, *(_with_attainable(c) for c in cells)]]
    parts += ["Permutation p of every unit (`unit_permutation`, B = 999, or all where fewer):"]
    parts += [table(["test", "distribution", "n = 5", "n = 10"], permuted)]
    return "\n\n".join(parts), every


def _with_attainable(cell: FalsePositives) -> str:
    told = f"{cell.rate.value:.4f}"
    return told if np.isnan(cell.attainable) else f"{told} (attainable {cell.attainable:.4f})"
