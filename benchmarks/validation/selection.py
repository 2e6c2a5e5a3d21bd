"""How far off are the effects of the strongest units, on prompts that chose them and on others?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.split_half import half_effects, split_halves
from activation_analysis.analyses.top_units import top_units
from activation_analysis.analyses.univariate import contrast_maps
from activation_analysis.statistics.effect_size import hedges_correction
from benchmarks.validation.families import recording_of
from benchmarks.validation.rates import Mean, Rate, table

GOAL_HELD_OUT, GOAL_IN_SAMPLE = 0.02, 0.3


@dataclass(frozen=True, eq=False)
class Selection:
    """Bias of the effects of the top units, in the direction that they were chosen for."""

    n: int  # prompts of each condition; half of them choose
    true_sd: float  # of the units' true effects
    in_sample: Mean  # selected d - truth
    held_out: Mean
    held_out_g: Mean  # with Hedges' correction, for d itself is too large with few prompts
    covered: Rate  # held-out intervals that hold the truth
    chosen: np.ndarray  # (n_recordings, top_n) selected d, signed by the choice
    measured: np.ndarray  # (n_recordings, top_n) held-out d, the same way round
    truth: np.ndarray  # (n_recordings, top_n)


def selection(
    n_recordings: int,
    *,
    n: int = 50,
    n_units: int = 5000,
    true_sd: float = 0.25,
    top_n: int = 20,
    seed: int = 0,
) -> Selection:
    """Choose the top units on half of the prompts, measure them on the other half."""
    rng = np.random.default_rng([seed, n, int(true_sd * 100)])
    chosen, measured, truth, held = [], [], [], []
    for _ in range(n_recordings):
        d = true_sd * rng.standard_normal(n_units)
        values = rng.standard_normal((2 * n, n_units), dtype=np.float32)
        values[:n] += d.astype(np.float32)
        recording = recording_of(values)
        design = Design((np.arange(n), np.arange(n, 2 * n)), "welch")
        halves = split_halves(*design.rows, rng=rng)
        effects = half_effects(recording, halves, design)
        maps = contrast_maps(recording, *design.rows)
        top = top_units(recording, maps, effects, design, top_n=top_n).units
        at = top["layer"].to_numpy() * (n_units // 2) + top["index"].to_numpy()
        sign = np.sign(top["selected_d"].to_numpy())
        chosen.append(sign * top["selected_d"])
        measured.append(sign * top["held_out_d"])
        truth.append(sign * d[at])
        held.append((top["held_out_low"] <= d[at]) & (d[at] <= top["held_out_high"]))
    chosen, measured, truth = np.array(chosen), np.array(measured), np.array(truth)
    unbiased = hedges_correction(sum(map(len, halves.held_out)) - 2)
    return Selection(
        n,
        true_sd,
        Mean.of((chosen - truth).mean(axis=1)),
        Mean.of((measured - truth).mean(axis=1)),
        Mean.of((measured * unbiased - truth).mean(axis=1)),
        Rate.of(np.array(held)),
        chosen,
        measured,
        truth,
    )


SITUATIONS = ((20, 0.0), (50, 0.0), (20, 0.25), (50, 0.25), (50, 0.5))


def section(n_simulations: int) -> tuple[str, list[Selection]]:
    every = [selection(n_simulations, n=n, true_sd=sd) for n, sd in SITUATIONS]
    rows = [
        [
            f"{s.n} and {s.n}",
            s.true_sd,
            f"{s.chosen.mean():.2f}",
            f"{s.measured.mean():.2f}",
            f"{s.truth.mean():.2f}",
            s.in_sample,
            s.held_out,
            s.held_out_g,
            s.covered,
        ]
        for s in every
    ]
    head = ["prompts", "sd of true d", "mean d where chosen", "held out", "truth"]
    return table(
        [*head, "in-sample bias", "held-out bias", "of g", "held-out 95 % covers"], rows
    ), every
