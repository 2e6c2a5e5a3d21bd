"""What an analysis finds: frozen tables that figures, tracking and comparisons share.

Each result has ``table()`` (a tidy DataFrame) and, where there is something to chart,
``metrics()`` (numbers for a tracker). They hold no model and no activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from activation_analysis.activations import Units, relative_depth

if TYPE_CHECKING:
    from activation_analysis.results_calibration import Calibration

OMNIBUS_TESTS = ("f", "kruskal", "glm_f")


@dataclass(frozen=True)
class StatMap:
    """One contrast at every unit of one site (or of one bare matrix): the contrast map.

    Positive where the first group responds more. NaN where a unit was excluded.
    """

    statistic: np.ndarray  # (n_units,)
    p_value: np.ndarray  # (n_units,) two-sided, uncorrected
    df: np.ndarray  # (n_units,) NaN for rank tests
    effect_size: np.ndarray  # (n_units,) Cohen's d
    hedges_g: np.ndarray  # (n_units,) d times the exact small-sample correction
    mean_difference: np.ndarray  # (n_units,) in the model's own units
    excluded: np.ndarray  # (n_units,) reason as text, "" where tested
    test: str
    n: tuple[int, ...]  # prompts in each group
    p_adjusted: np.ndarray | None = None  # (n_units,) under `control`, over `family_size` units
    control: str | None = None
    alpha: float = 0.05
    family_size: int | None = None  # units that the correction ran over, all that it spans
    units: Units | None = None  # addresses, where the matrix came from a recording
    effect_low: np.ndarray | None = None  # (n_units,) 95 % interval of the effect size
    effect_high: np.ndarray | None = None  # (n_units,)
    more: Mapping[str, np.ndarray] = field(default_factory=dict)  # further columns, (n_units,)

    def __len__(self) -> int:
        return len(self.statistic)

    @property
    def tested(self) -> np.ndarray:
        """Where a unit was tested, (n_units,) bool."""
        return self.excluded == ""

    @property
    def significant(self) -> np.ndarray:
        """Where the adjusted p-value (the uncorrected one before any control) is <= alpha."""
        p = self.p_value if self.p_adjusted is None else self.p_adjusted
        return np.nan_to_num(p, nan=1.0) <= self.alpha

    def table(self) -> pd.DataFrame:
        """One row per unit."""
        columns = {} if self.units is None else _addresses(self.units)
        columns |= {
            "statistic": self.statistic,
            "p_value": self.p_value,
            "df": self.df,
            "effect_size": self.effect_size,
            "hedges_g": self.hedges_g,
            "mean_difference": self.mean_difference,
            "excluded": self.excluded,
        }
        if self.effect_low is not None:
            columns |= {"effect_low": self.effect_low, "effect_high": self.effect_high}
        columns |= self.more
        if self.p_adjusted is not None:
            columns |= {"p_adjusted": self.p_adjusted, "significant": self.significant}
        return pd.DataFrame(columns)


def _addresses(units: Units) -> dict[str, object]:
    return {"site": units.site, "layer": units.layer, "index": units.index, "depth": units.depth}


@dataclass(frozen=True)
class LayerProfile:
    """One site's contrast, layer by layer."""

    site: str
    layer: np.ndarray  # (n_layers_recorded,)
    n_layers: int  # blocks in the whole model
    n_tested: np.ndarray  # (n_layers_recorded,) and so are all below
    n_excluded: np.ndarray
    mean_abs_d: np.ndarray
    median_abs_d: np.ndarray
    max_abs_d: np.ndarray
    n_large_d: np.ndarray  # units with abs(d) > 0.5
    n_significant: np.ndarray
    prop_significant: np.ndarray
    selected_d: np.ndarray  # top 1 % units: effect on the prompts that chose them
    held_out_d: np.ndarray  # the same units: effect on the other prompts; NaN where too few
    n_true_at_least: np.ndarray | None = (
        None  # units that respond, at least (ARI), all layers at once
    )
    top_variance_share: np.ndarray | None = None  # of the layer's variance, in its 3 largest units

    STATISTICS = (
        "n_tested",
        "n_excluded",
        "mean_abs_d",
        "median_abs_d",
        "max_abs_d",
        "n_large_d",
        "n_significant",
        "prop_significant",
        "selected_d",
        "held_out_d",
        "n_true_at_least",
        "top_variance_share",
    )

    def __post_init__(self) -> None:
        for name in ("n_true_at_least", "top_variance_share"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.layer), np.nan))

    @property
    def depth(self) -> np.ndarray:
        """Relative depth of each layer, 0..1."""
        return relative_depth(self.layer, self.n_layers)

    @property
    def peak_layer(self) -> int:
        """The layer with the largest mean abs(d); -1 where no unit was tested."""
        if np.all(np.isnan(self.mean_abs_d)):
            return -1
        return int(self.layer[np.nanargmax(self.mean_abs_d)])

    @property
    def peak_depth(self) -> float:
        if self.peak_layer < 0:
            return float("nan")
        return float(relative_depth(np.array(self.peak_layer), self.n_layers))

    @property
    def peak_held_out_d(self) -> float:
        """``held_out_d`` of the layer with the largest ``selected_d``.

        The held-out prompts choose neither the units nor the layer; the largest ``held_out_d``
        of all layers would be chosen by them.
        """
        if np.all(np.isnan(self.selected_d)):
            return float("nan")
        return float(self.held_out_d[np.nanargmax(self.selected_d)])

    def metrics(self) -> dict[str, np.ndarray]:
        """Per-layer series, keyed ``<site>/<statistic>``, each (n_layers_recorded,)."""
        return {f"{self.site}/{name}": getattr(self, name) for name in self.STATISTICS}

    def summary(self) -> dict[str, float]:
        """Stepless companions, keyed ``<statistic>/<site>``."""
        return {
            f"peak_layer/{self.site}": self.peak_layer,
            f"peak_depth/{self.site}": self.peak_depth,
            f"max_prop_significant/{self.site}": _max(self.prop_significant),
            f"n_significant/{self.site}": int(self.n_significant.sum()),
            f"max_abs_d/{self.site}": _max(self.max_abs_d),
            f"held_out_d/{self.site}": self.peak_held_out_d,
            f"n_true_at_least/{self.site}": _max(self.n_true_at_least),
            f"top_variance_share/{self.site}": _max(self.top_variance_share),
        }

    def table(self) -> pd.DataFrame:
        """One row per layer."""
        columns = {"site": self.site, "layer": self.layer, "depth": self.depth}
        return pd.DataFrame(columns | {name: getattr(self, name) for name in self.STATISTICS})


def percent(share: float) -> str:
    """A share as people read it; never 0 % of something or 100 % of not quite everything."""
    if np.isnan(share):
        return "-"
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def number(value: float, form: str = ".2f") -> str:
    """A number as people read it; a dash where there is none."""
    return "-" if np.isnan(value) else format(value, form)


def _max(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.any(~np.isnan(values)) else float("nan")


@dataclass(frozen=True)
class TopUnits:
    """The most discriminative units, with an honest effect beside the flattering one.

    Units are chosen by abs(d) on a selection half of the prompts of each condition;
    ``held_out_d`` is measured on the other half, which had no say. ``effect_size``, ``p_value``
    and ``p_adjusted`` come from all prompts and the whole family of tests.
    """

    units: pd.DataFrame
    """Columns site, layer, index, depth, effect_size, hedges_g, p_value, p_adjusted,
    significant, selected_d, held_out_d, held_out_low, held_out_high, held_out_p;
    one row per unit, strongest first."""
    n_selection: tuple[int, ...]  # prompts of each group that chose the units
    n_held_out: tuple[int, ...]  # prompts of each group that measured them
    confidence: float = 0.95

    def __len__(self) -> int:
        return len(self.units)

    def table(self) -> pd.DataFrame:
        return self.units


@dataclass(frozen=True)
class PermutationSummary:
    """What a family-wise permutation test of a contrast shuffled, and how far chance reached."""

    n_permutations: int  # relabellings used; all of them, the observed one included, if exact
    exact: bool
    n_possible: int  # relabellings that the design allows
    exchangeable: str  # "free", "within", "whole" or "signs"
    null_max: np.ndarray  # (n_permutations,) largest of each relabelling, over the whole family
    critical: float  # what a unit must reach in a single step
    is_statistic: bool  # both are abs(statistic); else -log10 of its parametric p
    is_abs_t: bool  # the statistic is a t
    tail_shape: float  # of the generalised Pareto tail; NaN where none was fitted
    tail_fit_p: float  # its goodness of fit
    tail_passed: bool

    @property
    def smallest_p(self) -> float:
        """No p-value can be smaller."""
        return 1 / (self.n_permutations + (not self.exact))

    def metrics(self) -> dict[str, float]:
        return {"n_permutations": self.n_permutations, "max_t_critical": self.critical}

    @property
    def sentence(self) -> str:
        """How labels were shuffled, for a reader."""
        how = {
            "free": "any prompt may take any other's place",
            "within": "prompts exchange within their group",
            "whole": "whole groups exchange",
            "signs": "the two prompts of an item exchange",
        }[self.exchangeable]
        used = "all of them" if self.exact else f"{self.n_permutations:,} drawn"
        return (
            f"{many(self.n_possible)} relabellings are possible ({how}); {used}: "
            f"no p below {self.smallest_p:.2g}"
        )


def many(count: int) -> str:
    """A count that may be astronomical."""
    return f"{count:,}" if count < 10**7 else f"10^{len(str(count)) - 1}"


@dataclass(frozen=True)
class Power:
    """What the design at hand can detect under the stated control."""

    n: tuple[int, int]
    alpha: float  # per unit, where the control tests an effect of the minimum detectable size
    minimum_detectable_d: float  # abs(d) found in 80 % of studies at that alpha
    power_at_half: float  # power for abs(d) = 0.5 at that alpha
    power_at_half_uncorrected: float  # the same for one unit chosen beforehand
    control: str = "bonferroni"
    effect: str = "d"  # or "d_z", of pairs

    @property
    def sentence(self) -> str:
        """What the design can find, for a reader."""
        assumed = ", if 5 % of the units respond" if self.control.startswith("fdr") else ""
        return (
            f"{self.effect} = {self.minimum_detectable_d:.2f} is found in 80 % of studies, "
            f"{self.effect} = 0.5 in {percent(self.power_at_half)} ({self.control}{assumed})"
        )

    def metrics(self) -> dict[str, float]:
        return {
            "minimum_detectable_d": self.minimum_detectable_d,
            "power_at_d_0.5": self.power_at_half,
        }


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
        if self.calibration is not None:
            merged |= self.calibration.metrics()
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
        return max(self.profiles, key=lambda s: np.nan_to_num(_max(self.profiles[s].mean_abs_d)))

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
