"""Mass-univariate analysis: which units respond differently to two conditions, where, how much?

A recording and two sets of its rows go in; contrast maps, layer profiles, the most
discriminative units and the design's power come out. Every unit of every site and layer of
one contrast is one family, and its size is on record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from activation_analysis.activations import Units
from activation_analysis.analyses.layer_profiles import layer_profiles
from activation_analysis.analyses.samples import Recording
from activation_analysis.analyses.split_half import Rows, half_effects, split_halves
from activation_analysis.analyses.top_units import top_units
from activation_analysis.results import Power, StatMap
from activation_analysis.statistics.effect_size import cohens_d, hedges_correction
from activation_analysis.statistics.hypothesis_tests import MEAN_TESTS, TESTS, canonical_test
from activation_analysis.statistics.moments import Sample, mean_difference, two_moments
from activation_analysis.statistics.multiplicity import CONTROLS, adjust
from activation_analysis.statistics.power import minimum_detectable_effect, two_sample_power
from activation_analysis.statistics.screening import exclusion_reasons

__all__ = [
    "contrast_map",
    "contrast_maps",
    "corrected",
    "half_effects",
    "layer_profiles",
    "power_of_design",
    "significant_by_control",
    "small_sample_warning",
    "split_halves",
    "top_units",
]
FEWEST_PROMPTS = 15  # per condition, for any power to speak of
EFFECT_ASKED_FOR = 0.5  # abs(d) that the power is stated for


def contrast_map(a: Sample, b: Sample, *, test: str = "welch") -> StatMap:
    """Test every unit of two matrices: the contrast map before any correction.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups, in the model's own units. Moments will do for
        ``MEAN_TESTS``.
    test : str
        An entry of ``TESTS``. The effect size is Cohen's d (pooled SD) whatever the test,
        paired ones included, so that maps of different tests can be compared.

    Returns
    -------
    StatMap
        Positive where ``a`` responds more; NaN and a reason where a unit was excluded.

    Raises
    ------
    ValueError
        If the test is unknown, a group has fewer than two prompts, or the units do not match.
    """
    test = canonical_test(test)
    in_a, in_b = two_moments(a, b)
    result = TESTS[test](*((in_a, in_b) if test in MEAN_TESTS else (a, b)))
    excluded = exclusion_reasons(in_a, in_b)
    # What a test cannot tell for another reason is a difference that never varies (paired).
    excluded[(excluded == "") & np.isnan(result.statistic)] = "constant"
    d = cohens_d(in_a, in_b)
    numbers = {
        "statistic": result.statistic,
        "p_value": result.p_value,
        "df": result.df,
        "effect_size": d,
        "hedges_g": d * hedges_correction(len(in_a) + len(in_b) - 2),
        "mean_difference": mean_difference(in_a, in_b),
    }
    return StatMap(
        **{name: np.where(excluded == "", values, np.nan) for name, values in numbers.items()},
        excluded=excluded,
        test=test,
        n=(len(in_a), len(in_b)),
    )


def contrast_maps(
    recording: Recording,
    rows_a: Rows,
    rows_b: Rows,
    *,
    test: str = "welch",
    control: str = "fdr_bh",
    alpha: float = 0.05,
) -> dict[str, StatMap]:
    """Contrast maps of every recorded site, corrected together as one family.

    Parameters
    ----------
    recording : Activations or StreamedRecording
    rows_a, rows_b : (n_a,) and (n_b,) row numbers
        The prompts of the two conditions; aligned by item for a paired test.
    test, control : str
        Entries of ``TESTS`` and ``CONTROLS``.
    alpha : float
        Error rate over all units of all sites and layers together.

    Returns
    -------
    dict of site -> StatMap
        With ``p_adjusted``, ``family_size`` and ``units``.

    Raises
    ------
    ValueError
        As ``contrast_map`` and ``adjust``.
    """
    rows_a, rows_b = np.asarray(rows_a, dtype=int), np.asarray(rows_b, dtype=int)
    maps = {}
    for site in recording.sites:
        units = recording.units(site)
        layers = (
            [recording.sample(rows, site, int(layer)) for rows in (rows_a, rows_b)]
            for layer in units.layers
        )
        maps[site] = _site_map([contrast_map(a, b, test=test) for a, b in layers], units)
    return corrected(maps, control=control, alpha=alpha)


def corrected(
    maps: Mapping[str, StatMap], *, control: str = "fdr_bh", alpha: float = 0.05
) -> dict[str, StatMap]:
    """The same maps, adjusted as one family over all of their tested units."""
    family = adjust(_all_p_values(maps), control=control, alpha=alpha)
    ends = np.cumsum([len(stat_map) for stat_map in maps.values()])
    return {
        site: replace(
            stat_map,
            p_adjusted=p_adjusted,
            control=control,
            alpha=alpha,
            family_size=family.family_size,
        )
        for (site, stat_map), p_adjusted in zip(
            maps.items(), np.split(family.p_adjusted, ends[:-1]), strict=True
        )
    }


def significant_by_control(maps: Mapping[str, StatMap], *, alpha: float = 0.05) -> dict[str, int]:
    """How many units of all maps are significant under every control, from the same p-values."""
    p = _all_p_values(maps)
    return {name: int(adjust(p, control=name, alpha=alpha).rejected.sum()) for name in CONTROLS}


def power_of_design(n_a: int, n_b: int, *, alpha: float = 0.05, family_size: int = 1) -> Power:
    """What two groups of this size can detect, by Student's t, before their data say anything.

    ``alpha / family_size`` is the strictest threshold that a unit of the family has to pass:
    Bonferroni's for every unit, and that of Holm and Benjamini-Hochberg for the first.
    Pessimistic for ``fdr_bh`` where many units respond, and for paired prompts that go together.

    Parameters
    ----------
    n_a, n_b : int
        Prompts in the two groups, at least two each.
    alpha : float
        Error rate of the family.
    family_size : int
        Units tested, all sites and layers.

    Returns
    -------
    Power
    """
    strictest = alpha / max(family_size, 1)
    return Power(
        n=(n_a, n_b),
        alpha=strictest,
        minimum_detectable_d=minimum_detectable_effect(n_a, n_b, strictest),
        power_at_half=float(two_sample_power(EFFECT_ASKED_FOR, n_a, n_b, strictest)),
        power_at_half_uncorrected=float(two_sample_power(EFFECT_ASKED_FOR, n_a, n_b, alpha)),
    )


def small_sample_warning(conditions: Sequence[str], power: Power) -> str:
    """What to tell a user whose conditions have fewer than 15 prompts; "" where all have more."""
    small = [
        f"{condition!r} has {n} prompt{'s' * (n != 1)}"
        for condition, n in zip(conditions, power.n, strict=True)
        if n < FEWEST_PROMPTS
    ]
    if not small:
        return ""
    return (
        f"{' and '.join(small)}; at least {FEWEST_PROMPTS} to 20 per condition are advisable. "
        f"With {power.n[0]} and {power.n[1]} prompts, a true d of {EFFECT_ASKED_FOR} is found in "
        f"{power.power_at_half_uncorrected:.0%} of studies for one unit chosen beforehand, and in "
        f"{power.power_at_half:.2%} after correction over all units; "
        f"80 % power needs abs(d) = {power.minimum_detectable_d:.2f}"
    )


def _all_p_values(maps: Mapping[str, StatMap]) -> np.ndarray:
    return np.concatenate([stat_map.p_value for stat_map in maps.values()])


def _site_map(layers: Sequence[StatMap], units: Units) -> StatMap:
    """One site's layers side by side."""
    first = layers[0]
    per_unit = ("statistic", "p_value", "df", "effect_size", "hedges_g", "mean_difference")
    return replace(
        first,
        units=units,
        **{
            name: np.concatenate([getattr(layer, name) for layer in layers])
            for name in (*per_unit, "excluded")
        },
    )
