"""What a calibration finds: the error rates of an analysis where nothing is to be found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from activation_analysis.results.wording import many

PASSES, FLAGGED, CONSERVATIVE = "passes", "flagged", "conservative"
MEANING = {
    "relabelled": "conditions exchanged among the prompts, as the design says they may be",
    "halves": "one condition divided at random and compared with itself, what belongs together "
    "kept together",
    "flipped": "every condition's deviations from its mean with random signs, what belongs "
    "together flipped together; sizes and variances stay",
}


@dataclass(frozen=True)
class ErrorRate:
    """How often something was found that is not there, with its 95 % interval."""

    value: float
    low: float
    high: float
    verdict: str  # "passes", "flagged" or "conservative" at the analysis' alpha


@dataclass(frozen=True, eq=False)
class NullPValues:
    """How the p-values of null repetitions lie beside the uniform distribution."""

    level: np.ndarray  # (n_levels,) from 0 to 1, closer where small
    share: np.ndarray  # (n_levels,) of p-values at or below each level; uniform: the level
    low: np.ndarray  # (n_levels,) where chance alone may take the share of uniform p-values
    high: np.ndarray  # (n_levels,) in 95 % of calibrations
    density: np.ndarray  # (n_bins,) of a histogram over 0..1; uniform: 1
    distance: float  # Kolmogorov's: the largest abs(share - level)


@dataclass(frozen=True, eq=False)
class NullRates:
    """One kind of null, repeated: how often the analysis found what was not there."""

    null: str  # "relabelled", "halves" or "flipped"
    n: int  # repetitions
    n_possible: int  # distinct ones that the prompts allow
    n_clusters: int  # kept whole; 0 where every prompt stands for itself
    alpha: float
    fpr: ErrorRate  # of a single unit, uncorrected
    family_wise: ErrorRate  # anything significant after the control
    false_discovery: float  # mean proportion; nothing is true, so that any discovery makes it 1
    false_discovery_error: float  # its standard error
    n_found: float  # median of significant units, where there were any
    p_values: NullPValues  # uncorrected
    by_layer: np.ndarray  # (n_cells,) rate at each of `Calibration.cells`

    @property
    def verdict(self) -> str:
        """The worse of the two rates'."""
        if FLAGGED in (self.fpr.verdict, self.family_wise.verdict):
            return FLAGGED
        return self.fpr.verdict

    @property
    def repetitions(self) -> str:
        """How many, and of how many that there are."""
        if self.n >= self.n_possible:
            return f"all {self.n_possible}"
        return f"{self.n:,} of {many(self.n_possible)}"


@dataclass(frozen=True, eq=False)
class Calibration:
    """The error rates of one analysis on nulls made of its own activations."""

    nulls: tuple[NullRates, ...]
    skipped: dict[str, str]  # kind of null -> why it could not be made
    cells: pd.DataFrame  # columns site, layer: one row per entry of `NullRates.by_layer`
    test: str
    control: str
    alpha: float
    n_units: int  # units that were tested in each repetition
    n_all_units: int  # of so many in the recording
    n_permutations: int = 0  # inner relabellings of control max_t

    @property
    def worst(self) -> NullRates:
        """The null with the most false positives."""
        return max(self.nulls, key=lambda null: null.fpr.value)

    @property
    def flagged(self) -> bool:
        return any(null.verdict == FLAGGED for null in self.nulls)

    @property
    def verdict(self) -> str:
        if self.flagged:
            return FLAGGED
        alike = {null.verdict for null in self.nulls}
        return CONSERVATIVE if alike == {CONSERVATIVE} else PASSES

    def metrics(self) -> dict[str, float]:
        """Numbers of the worst null, then of each, keyed ``calibration/...``."""
        named = {f"calibration/{k}": v for k, v in _numbers(self.worst).items()}
        named["calibration/flagged"] = float(self.flagged)
        named["calibration/n_units"] = self.n_units
        for null in self.nulls:
            named |= {f"calibration/{k}/{null.null}": v for k, v in _numbers(null).items()}
        return named

    def table(self) -> pd.DataFrame:
        """One row per null."""
        return pd.DataFrame(
            [
                {"null": n.null, **_numbers(n), "n_found": n.n_found, "verdict": n.verdict}
                for n in self.nulls
            ]
        )

    def layer_table(self) -> pd.DataFrame:
        """One row per site and layer: the false-positive rate under every null."""
        return self.cells.assign(**{null.null: null.by_layer for null in self.nulls})

    def p_value_table(self) -> pd.DataFrame:
        """How often p lies at or below each level under every null; uniform where share = p."""
        columns = {"p": self.nulls[0].p_values.level}
        for null in self.nulls:
            found = null.p_values
            columns |= {
                null.null: found.share,
                f"{null.null}_low": found.low,
                f"{null.null}_high": found.high,
            }
        return pd.DataFrame(columns)

    @property
    def lines(self) -> tuple[str, ...]:
        """Verdict, nulls and what was left out, for a log."""
        return (
            self.sentence,
            *(
                f"{n.null}: {n.repetitions} repetitions, {n.verdict}; {MEANING[n.null]}"
                for n in self.nulls
            ),
            *(f"{name}: left out, {why}" for name, why in self.skipped.items()),
        )

    @property
    def sentence(self) -> str:
        """The verdict in a line, numbers first."""
        rates = "; ".join(
            f"{n.null} {n.fpr.value:.3f} [{n.fpr.low:.3f}, {n.fpr.high:.3f}], any unit after "
            f"{self.control} {n.family_wise.value:.3f} [{n.family_wise.low:.3f}, "
            f"{n.family_wise.high:.3f}]"
            for n in self.nulls
        )
        return (
            f"calibration {self.verdict}: false positives at {self.alpha:g} where nothing differs "
            f"({self.worst.n} null repetitions, {self.n_units:,} of {self.n_all_units:,} units): "
            f"{rates}"
        )

    @property
    def warning(self) -> str:
        """What to tell a user whose analysis finds what is not there; "" where it does not."""
        if not self.flagged:
            return ""
        bad = [n for n in self.nulls if n.verdict == FLAGGED]
        named = ", ".join(
            f"{n.fpr.value:.3f} of units ({n.null}, {self.control} finds something in "
            f"{n.family_wise.value:.0%} of repetitions)"
            for n in bad
        )
        return (
            f"this analysis finds what is not there: at alpha = {self.alpha:g} it calls {named} "
            f"where no condition differs; prompts that are alike (templates, authors) need a "
            f"column 'group', unequal variances test = \"welch\""
        )


def _numbers(null: NullRates) -> dict[str, float]:
    return {
        "fpr": null.fpr.value,
        "fpr_low": null.fpr.low,
        "fpr_high": null.fpr.high,
        "family_wise": null.family_wise.value,
        "family_wise_low": null.family_wise.low,
        "family_wise_high": null.family_wise.high,
        "false_discovery": null.false_discovery,
        "false_discovery_error": null.false_discovery_error,
        "distance": null.p_values.distance,
        "n_repetitions": null.n,
        "log10_possible": math.log10(null.n_possible),  # trackers chart no 10^58
    }


@dataclass(frozen=True, eq=False)
class CalibratedContrast:
    """The calibration of one contrast of a recording, and what it is of."""

    model: str
    experiment: str
    position: str
    contrast: str
    conditions: tuple[str, ...]
    n: tuple[int, ...]  # units of analysis in each condition: prompts, or groups
    n_layers: int  # blocks in the whole model
    calibration: Calibration

    def series(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """False-positive rate of the worst null, ``<site>/false_positive_rate`` -> layer, rate."""
        cells, rates = self.calibration.cells, self.calibration.worst.by_layer
        return {
            f"{site}/false_positive_rate": (own["layer"].to_numpy(), rates[own.index])
            for site, own in cells.groupby("site", sort=False)
        }
