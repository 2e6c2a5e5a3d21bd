"""Error rates of whole families: FWE of joint max-T over contrasts, FDP and FWE of p-values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.activations import Activations
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.error_control import ErrorControl, controlled
from activation_analysis.analyses.univariate import design_maps
from activation_analysis.statistics.hypothesis_tests import student_t
from activation_analysis.statistics.multiplicity import CONTROLS, reject
from benchmarks.validation.rates import Mean, Rate, table

ALPHA = 0.05
FACTORS = 10
COMMON = 0.5  # share of a unit's variance that the ten factors carry
CONTRASTS = ("a - b", "a - c", "b - c", "a | b | c")
SHIFT = 3.0  # of condition c, in SDs, where only a - b is null


def correlated_noise(rng: np.random.Generator, n: int, n_units: int) -> np.ndarray:
    """Unit-variance noise whose correlation between units has rank 10 beside the diagonal."""
    loadings = rng.standard_normal((FACTORS, n_units))
    loadings /= np.sqrt(np.square(loadings).sum(axis=0))
    shared = rng.standard_normal((n, FACTORS)) @ loadings
    return np.sqrt(COMMON) * shared + np.sqrt(1 - COMMON) * rng.standard_normal((n, n_units))


def recording_of(values: np.ndarray, n_layers: int = 2) -> Activations:
    """A recording of one site whose layers are the columns of ``values``, side by side."""
    layers = np.split(values, n_layers, axis=1)
    return Activations(
        prompts=tuple(f"prompt {i}" for i in range(len(values))),
        n_tokens=np.full(len(values), 8),
        position="last",
        model="synthetic/noise",
        n_layers=n_layers,
        values={"mlp": dict(enumerate(layers))},
    )


def joint_designs(n: int, test: str = "student") -> list[Design]:
    """Three conditions of n prompts each: all pairs, and any difference."""
    a, b, c = np.split(np.arange(3 * n), 3)
    pairs = [Design(rows, test) for rows in ((a, b), (a, c), (b, c))]
    return [*pairs, Design((a, b, c), "f", weights=None)]


@dataclass(frozen=True)
class JointFamily:
    """Family-wise error of max-T over several contrasts, wherever the null holds."""

    step_down: bool
    shift: float  # of condition c; 0: every contrast is null
    test: str
    error: Rate  # any unit of any null contrast significant
    alone: tuple[Rate, ...]  # of every null contrast


def joint_families(
    n_families: int,
    *,
    step_down: bool,
    shift: float = 0.0,
    test: str = "student",
    n: int = 12,
    n_units: int = 100,
    n_permutations: int = 199,
    seed: int = 0,
) -> JointFamily:
    """Simulate families of four contrasts, adjusted together by ``control = "max_t"``."""
    rng = np.random.default_rng([seed, int(shift * 10), len(test)])
    designs, n_null = joint_designs(n, test), 1 if shift else len(CONTRASTS)
    errors = np.empty((n_families, n_null), dtype=bool)
    for i in range(n_families):
        values = correlated_noise(rng, 3 * n, n_units)
        values[2 * n :] += shift
        recording = recording_of(values)
        how = ErrorControl("max_t", ALPHA, n_permutations, step_down, seed=i)
        maps = [design_maps(recording, design) for design in designs]
        adjusted = controlled(recording, designs, maps, how).maps[:n_null]
        errors[i] = [(m["mlp"].p_adjusted <= ALPHA).any() for m in adjusted]
    alone = tuple(Rate.of(column) for column in errors.T)
    return JointFamily(step_down, shift, test, Rate.of(errors.any(axis=1)), alone)


@dataclass(frozen=True, eq=False)
class Discoveries:
    """What a control of p-values lets through, over many datasets."""

    control: str
    share_planted: float
    fdp: np.ndarray  # (n_datasets,) false share of the rejected, 0 where nothing is
    any_false: Rate  # family-wise error
    power: Mean  # share of the planted that is found; 0 where none is

    @property
    def mean_fdp(self) -> Mean:
        return Mean.of(self.fdp)


def discoveries(
    n_datasets: int,
    *,
    share_planted: float,
    n: int = 20,
    n_units: int = 2000,
    d: float = 1.0,
    seed: int = 0,
) -> dict[str, Discoveries]:
    """Student's t of rank-10 correlated units, some of which respond, under every control."""
    rng = np.random.default_rng([seed, int(share_planted * 1000)])
    n_planted = round(share_planted * n_units)
    fdp, found, wrong = ({c: np.empty(n_datasets) for c in CONTROLS} for _ in range(3))
    for i in range(n_datasets):
        x = correlated_noise(rng, 2 * n, n_units)
        x[:n, :n_planted] += d * rng.choice([-1.0, 1.0], n_planted)
        p = student_t(x[:n], x[n:]).p_value
        for control in CONTROLS:
            rejected = reject(p, control, ALPHA)
            false = np.count_nonzero(rejected[n_planted:])
            fdp[control][i] = false / max(np.count_nonzero(rejected), 1)
            wrong[control][i] = false > 0
            found[control][i] = rejected[:n_planted].mean() if n_planted else 0.0
    return {
        c: Discoveries(c, share_planted, fdp[c], Rate.of(wrong[c] > 0), Mean.of(found[c]))
        for c in CONTROLS
    }


FALSE_DISCOVERY = ("fdr_bh", "fdr_by", "fdr_tsbky")
PLANTED = (0.0, 0.02, 0.1, 0.5)


def joint_section(n_simulations: int) -> tuple[str, list[JointFamily]]:
    """The table over contrasts."""
    every = [
        joint_families(n_simulations, step_down=step_down, shift=shift, test=test)
        for test in ("student", "welch")
        for shift in (0.0, SHIFT)
        for step_down in (False, True)
    ]
    rows = [
        [
            f.test,
            f"only `a - b` (c shifted by {f.shift:g} sd)" if f.shift else "every contrast",
            "step-down" if f.step_down else "single step",
            f.error,
            ", ".join(f"{r.value:.3f}" for r in f.alone),
        ]
        for f in every
    ]
    head = ["test of pairs", "null", "max-T", "FWE over the null contrasts", "of each"]
    return table(head, rows), every


def discoveries_section(n_simulations: int) -> tuple[str, dict[float, dict[str, Discoveries]]]:
    """The table of false discovery proportions and family-wise errors."""
    every = {share: discoveries(n_simulations, share_planted=share) for share in PLANTED}
    rows = [
        [f"{share:.0%}", control, found.mean_fdp, found.any_false, f"{found.power.value:.3f}"]
        for share, by_control in every.items()
        for control, found in by_control.items()
    ]
    head = ["units planted", "control", "mean FDP", "any false positive", "planted found"]
    return table(head, rows), every
