"""Everything that one contrast of one recording yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from activation_analysis.options import OMNIBUS_TESTS
from activation_analysis.results.calibration import Calibration
from activation_analysis.results.design import PermutationSummary, Power
from activation_analysis.results.layer_profile import LayerProfile, largest
from activation_analysis.results.stat_map import StatMap
from activation_analysis.results.surface import SurfaceBaseline
from activation_analysis.results.top_units import TopUnits
from activation_analysis.results.wording import percent


@dataclass(frozen=True)
class ContrastResult:
    """Everything that one contrast of one recording yields."""

    model: str
    experiment: str  # the prompt set's name
    question: str
    contrast: str  # "math - nonmath"
    contrast_name: str  # "math"
    conditions: tuple[str, ...]  # labels: first minus second side, or all of an omnibus contrast
    position: str
    maps: Mapping[str, StatMap]  # by site
    profiles: Mapping[str, LayerProfile]  # by site
    top_units: TopUnits
    n_significant_by_control: Mapping[str, int]  # the same p-values under every control
    balance: pd.DataFrame  # one row per covariate: means, standardised mean difference
    power: Power
    warnings: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # what `n` counts, where these are not the two sides
    counted: str = "prompts"  # or "groups", where their means are the unit of analysis
    n_true_at_least: int | None = None  # units of the whole contrast that respond, at least (ARI)
    permutation: PermutationSummary | None = None  # where labels were shuffled
    calibration: Calibration | None = None  # where nulls of these activations were analysed
    surface: SurfaceBaseline | None = None  # what words alone tell; None where none are held out

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.maps)

    @property
    def first_map(self) -> StatMap:
        return next(iter(self.maps.values()))

    @property
    def n(self) -> tuple[int, ...]:
        """Prompts of each condition that was compared."""
        return self.first_map.n

    @property
    def counts(self) -> tuple[tuple[int, str], ...]:
        """How many prompts (or groups) of each condition, with its name."""
        return tuple(zip(self.n, self.groups or self.conditions, strict=True))

    @property
    def is_omnibus(self) -> bool:
        """Whether it asks for any difference, which has no direction."""
        return self.first_map.test in OMNIBUS_TESTS and len(self.n) > 2

    @property
    def effect_name(self) -> str:
        """What effect sizes are."""
        return "2f" if self.is_omnibus else "Cohen's d"

    @property
    def effect_label(self) -> str:
        """Their size, short."""
        return "2f" if self.is_omnibus else "|d|"

    def metrics(self) -> dict[str, float]:
        """Stepless metrics of the whole contrast."""
        merged: dict[str, float] = {}
        for profile in self.profiles.values():
            merged |= profile.summary()
        merged |= {f"n_significant_{c}": k for c, k in self.n_significant_by_control.items()}
        merged |= self.power.metrics() | {"n_tested": self.first_map.family_size or 0}
        if self.n_true_at_least is not None:
            merged["n_true_at_least"] = self.n_true_at_least
        for part in (self.calibration, self.surface):
            merged |= part.metrics() if part is not None else {}
        return merged | (self.permutation.metrics() if self.permutation else {})

    def layer_table(self) -> pd.DataFrame:
        """One row per site and layer."""
        return pd.concat([p.table() for p in self.profiles.values()], ignore_index=True)

    @property
    def n_significant(self) -> int:
        return sum(int(m.significant.sum()) for m in self.maps.values())

    @property
    def n_tested(self) -> int:
        return sum(int(m.tested.sum()) for m in self.maps.values())

    @property
    def peak_site(self) -> str:
        """The site whose strongest layer has the largest mean abs(d)."""
        return max(self.profiles, key=lambda s: np.nan_to_num(largest(self.profiles[s].mean_abs_d)))

    @property
    def finding(self) -> str:
        """The result in one sentence, numbers first."""
        first = self.first_map
        how = f"{first.test}, {first.control} at {first.alpha:g}"
        share = self.n_significant / max(self.n_tested, 1)
        found = (
            f"{self.contrast}: {self.n_significant:,} of {self.n_tested:,} units "
            f"({percent(share)}) differ ({how})"
        )
        profile = self.profiles[self.peak_site]
        if profile.peak_layer < 0:
            return found + "; no unit could be tested"
        if not self.n_significant:
            return found
        at = int(np.flatnonzero(profile.layer == profile.peak_layer)[0])
        found += (
            f"; strongest in {self.peak_site}, layer {profile.peak_layer} of 0-"
            f"{profile.n_layers - 1} (mean {self.effect_label} {profile.mean_abs_d[at]:.2f}, "
            f"{percent(profile.prop_significant[at])} significant)"
        )
        if np.isnan(profile.peak_held_out_d):
            return found
        return found + (
            f"; the top 1 % of a layer's {self.peak_site} units, chosen on half of the prompts: "
            f"{'2f' if self.is_omnibus else 'd'} = {profile.peak_held_out_d:.2f} on the other half"
        )
