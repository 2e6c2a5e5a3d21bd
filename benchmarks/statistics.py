"""Time of the statistics over the time of what others take for the same, interleaved in one run.

    pip install -e '.[peers]'                        # nilearn, for the permutation arm
    python -m benchmarks.statistics                  # everything: about twenty minutes
    python -m benchmarks.statistics --only max_t --units 98304 --rounds 3

Every round runs every arm of a comparison once, in an order drawn anew. A ratio is taken between
best runs, where the goal says so, or within a round, and then the median over rounds is shown
with its range. Every comparison checks first that the numbers agree; a peer that is run on a
part and scaled up is marked so. One thread unless the line says two.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from activation_analysis.statistics.effect_size import (
    cohens_d,
    cohens_d_interval,
    hedges_correction,
)
from activation_analysis.statistics.hypothesis_tests import TESTS
from activation_analysis.statistics.moments import two_moments
from activation_analysis.statistics.multiplicity import adjust
from activation_analysis.statistics.permutation import max_t
from benchmarks.capture import machine

N = 400  # prompts, in two groups of 200
N_PERMUTATIONS = 1000
MANY = 1_000_000
LAYERS = 98_304  # units of a layer-by-layer recording: the facts' size
Arm = Callable[[], object]


@dataclass(frozen=True)
class Line:
    """One comparison of a table."""

    work: str
    ratio: str
    goal: str

    def __str__(self) -> str:
        return f"| {self.work} | {self.ratio} | {self.goal} |"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.peak:
        print(_peak(args.peak))
        return
    print(f"{machine()}\n\n| work | measured | goal |\n|---|---|---|")
    for name in args.only or COMPARISONS:
        for line in COMPARISONS[name](args):
            print(line, flush=True)


def data(n_units: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two groups of float32 activations with an effect in every hundredth unit."""
    x = np.random.default_rng(seed).standard_normal((N, n_units), dtype=np.float32)
    x[: N // 2, ::100] += 0.5
    return x[: N // 2], x[N // 2 :]


def times(arms: dict[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of every arm in every round, in an order drawn anew each time."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    order, rng = list(arms), random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            began = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def within(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Ratio of times round by round: median (range)."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def best(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return min(theirs) / min(ours)


def max_t_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Max-T against the bare product of the same size, for one thread and two."""
    a, b = data(args.units)
    left = np.random.default_rng(1).standard_normal((N_PERMUTATIONS, N), dtype=np.float32)
    pooled = np.concatenate([a, b])
    into = np.zeros((N_PERMUTATIONS, args.units), np.float32)
    length = np.random.default_rng(2).normal(size=N)
    uneven = pooled[: N // 4], pooled[N // 4 :]
    for n_threads in (1, 2):

        def arm(a=a, b=b, n_threads=n_threads, **options) -> Arm:
            return lambda: max_t(
                a, b, n_permutations=N_PERMUTATIONS, n_threads=n_threads, **options
            )

        with threadpool_limits(n_threads):
            found = times(
                {
                    "product": lambda: left @ pooled,
                    "product into warm memory": lambda: np.matmul(left, pooled, out=into),
                    "student": arm(),
                    "welch": arm(test="welch"),
                    "welch, 100 + 300": arm(*uneven, test="welch"),
                    "adjusted": arm(nuisance=length),
                },
                args.rounds,
            )
        size = f"{N_PERMUTATIONS} permutations, n = {N}, V = {args.units:,}, {n_threads} thread(s)"
        product = found["product"]
        yield Line(
            f"max-T over the bare float32 product, {size}",
            within(found["student"], product),
            "<= 1.2",
        )
        warm = found["product into warm memory"]
        yield Line(
            "the same over a product into memory that is there", within(found["student"], warm), ""
        )
        for name in ("welch", "welch, 100 + 300"):
            yield Line(f"{name} max-T over the product", within(found[name], product), "<= 2.5")
        yield Line(
            "Freedman-Lane, one covariate, over max-T without",
            within(found["adjusted"], found["student"]),
            "<= 2.5",
        )


def nilearn_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Max-T against nilearn's permuted_ols at its better number of jobs."""
    if find_spec("nilearn") is None:
        yield Line("nilearn permuted_ols", "not installed", ">= 45x")
        return
    from nilearn.mass_univariate import permuted_ols

    label = np.repeat([1.0, 0.0], N // 2)[:, None]
    for n_units, n_permutations in ((LAYERS, N_PERMUTATIONS), (MANY, args.nilearn_permutations)):
        a, b = data(n_units)
        target = np.concatenate([a, b])

        def nilearn(n_jobs, target=target, n_permutations=n_permutations):
            return permuted_ols(
                label, target, n_perm=n_permutations, n_jobs=n_jobs, output_type="dict", verbose=0
            )

        def ours(a=a, b=b):
            return max_t(a, b, n_permutations=N_PERMUTATIONS)

        _check_nilearn(ours(), nilearn(1))
        found = times(
            {"ours": ours, "one job": lambda: nilearn(1), "two jobs": lambda: nilearn(2)},
            args.rounds if n_units == LAYERS else 1,
        )
        scale = N_PERMUTATIONS / n_permutations
        theirs = min(*found["one job"], *found["two jobs"]) * scale
        marked = "" if scale == 1 else f" (nilearn run with {n_permutations}, scaled up)"
        yield Line(
            f"nilearn permuted_ols over max-T, {N_PERMUTATIONS} permutations, n = {N}, "
            f"V = {n_units:,}, two threads, best over best{marked}",
            f"{theirs / min(found['ours']):.0f}x",
            ">= 45x",
        )


def _check_nilearn(ours, theirs) -> None:
    t = np.asarray(theirs["t"]).ravel()
    np.testing.assert_allclose(ours.statistic, t, rtol=1e-3, atol=1e-3)
    null = np.asarray(theirs["h0_max_t"]).ravel()
    if len(null) < N_PERMUTATIONS:
        return
    # Two draws of one null distribution.
    agree = stats.ks_2samp(ours.null_max, np.abs(null)).pvalue
    if agree < 1e-4:
        raise AssertionError(f"the null maxima differ from nilearn's (p = {agree:.1e})")


def parametric_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Student, Welch, d, g and both p of a million units against scipy's two tests."""
    a, b = data(args.many)
    wide = a.astype(np.float64), b.astype(np.float64)

    def ours():
        known = two_moments(a, b)
        d = cohens_d(*known)
        return TESTS["student"](*known), TESTS["welch"](*known), d, d * hedges_correction(N - 2)

    def scipys(x, y):
        return lambda: [stats.ttest_ind(x, y, equal_var=equal) for equal in (True, False)]

    (student, welch, *_), expected = ours(), scipys(*wide)()
    for one, other in zip((student, welch), expected, strict=True):
        np.testing.assert_allclose(one.statistic, other.statistic, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.p_value, other.pvalue, rtol=1e-12)
    del student, welch, expected
    with threadpool_limits(1):
        found = times(
            {"ours": ours, "float32": scipys(a, b), "float64": scipys(*wide)}, args.rounds
        )
    work = f"Student + Welch + d + g + p, {N} x {args.many:,} float32, equal to 1e-12"
    single = best(found["ours"], found["float32"])
    yield Line(f"scipy float32 over ours: {work}, best over best", f"{single:.1f}x", ">= 3x")
    double = best(found["ours"], found["float64"])
    yield Line("scipy float64 over ours, best over best", f"{double:.1f}x", ">= 8x")


def rank_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Mann-Whitney against scipy's vectorised asymptotic test, on a part of the units."""
    a, b = data(100_000)
    part = 5_000

    def scipys():
        return stats.mannwhitneyu(a[:, :part], b[:, :part], method="asymptotic", axis=0)

    def ours():
        return TESTS["mannwhitney"](a, b)

    wide = [g[:, :part].astype(np.float64) for g in (a, b)]
    there, here = stats.mannwhitneyu(*wide, method="asymptotic", axis=0), ours()
    np.testing.assert_array_equal(here.statistic[:part], there.statistic)
    np.testing.assert_allclose(here.p_value[:part], there.pvalue, rtol=1e-12)
    with threadpool_limits(1):
        found = times({"ours": ours, "scipy": scipys}, args.rounds)
    scaled = [s * 100_000 / part for s in found["scipy"]]
    yield Line(
        f"scipy mannwhitneyu over ours, {N} x 100,000 (scipy on {part:,}, scaled up), best",
        f"{best(found['ours'], scaled):.1f}x",
        ">= 10x",
    )


def fdr_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Benjamini-Hochberg of a million p-values against scipy."""
    p = np.random.default_rng(0).random(args.many) ** 2
    np.testing.assert_allclose(adjust(p).p_adjusted, stats.false_discovery_control(p), rtol=1e-13)
    found = times(
        {"ours": lambda: adjust(p), "scipy": lambda: stats.false_discovery_control(p)},
        max(args.rounds, 5),
    )
    yield Line(
        f"BH of {args.many:,} p-values over scipy's",
        within(found["ours"], found["scipy"]),
        "<= 1.5",
    )


def interval_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Noncentral intervals of d for a million units, in seconds."""
    d = np.random.default_rng(0).normal(size=args.many)
    found = times({"ours": lambda: cohens_d_interval(d, N // 2, N // 2)}, args.rounds)
    yield Line(
        f"noncentral d intervals of {args.many:,} units", f"{min(found['ours']):.2f} s", "< 2 s"
    )


def memory_lines(args: argparse.Namespace) -> Iterator[Line]:
    """Peak memory beyond the data, each in a process of its own."""
    for what, goal in (("max_t", "<= 1.0 GiB"), ("parametric", "<= 20 % of the data")):
        peak = subprocess.run(
            [sys.executable, "-m", "benchmarks.statistics", "--peak", what],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        ).stdout.strip()
        yield Line(f"memory beyond the data: {what}, {N} x {MANY:,}", peak, goal)


def _peak(what: str) -> str:
    a, b = data(MANY)
    before = _most_memory()
    if what == "max_t":
        max_t(a, b, n_permutations=10_000)
    else:
        known = two_moments(a, b)
        [TESTS[name](*known) for name in ("student", "welch")]
        cohens_d(*known)
    beyond = _most_memory() - before
    share = beyond / (a.nbytes + b.nbytes)
    return f"{beyond / 2**30:.2f} GiB ({share:.0%} of the data)"


def _most_memory() -> int:
    """Most bytes that this process has held; getrusage would count its parent's, too (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


COMPARISONS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "max_t": max_t_lines,
    "nilearn": nilearn_lines,
    "parametric": parametric_lines,
    "ranks": rank_lines,
    "fdr": fdr_lines,
    "intervals": interval_lines,
    "memory": memory_lines,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=COMPARISONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--units", type=int, default=LAYERS, help="of the max-T comparison")
    parser.add_argument("--many", type=int, default=MANY, help="units of the other comparisons")
    parser.add_argument("--nilearn-permutations", type=int, default=100, help="at 1M units")
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
