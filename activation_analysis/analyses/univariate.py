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
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.effects import (
    effect_interval,
    effect_of,
    further_effects,
    tested,
)
from activation_analysis.analyses.error_control import (
    CONTROLS,
    ErrorControl,
    controlled,
    every_p_value,
)
from activation_analysis.analyses.layer_profiles import layer_profiles
from activation_analysis.analyses.samples import Recording
from activation_analysis.analyses.split_half import Rows, half_effects, split_halves
from activation_analysis.analyses.top_units import top_units
from activation_analysis.results import StatMap
from activation_analysis.statistics import multiplicity
from activation_analysis.statistics.effect_size import hedges_correction
from activation_analysis.statistics.hypothesis_tests import (
    MEAN_TESTS,
    ONE_SAMPLE_TESTS,
    canonical_test,
)
from activation_analysis.statistics.linear_model import contrast_of_means
from activation_analysis.statistics.moments import Sample, several_moments
from activation_analysis.statistics.multiplicity import reject
from activation_analysis.statistics.screening import exclusion_reasons
from activation_analysis.statistics.true_discoveries import SimesFamily, lower_bound, simes_family

__all__ = [
    "CONTROLS",
    "Design",
    "ErrorControl",
    "SimesFamily",
    "contrast_map",
    "contrast_maps",
    "controlled",
    "design_maps",
    "every_p_value",
    "half_effects",
    "layer_profiles",
    "lower_bound",
    "significant_by_control",
    "simes_family",
    "split_halves",
    "top_units",
    "two_sided",
]
PER_UNIT = (
    "statistic",
    "p_value",
    "df",
    "effect_size",
    "hedges_g",
    "mean_difference",
    "effect_low",
    "effect_high",
)


def contrast_map(a: Sample, b: Sample, *, test: str = "welch") -> StatMap:
    """Test every unit of two matrices: the contrast map before any correction.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups, in the model's own units. Moments will do for
        ``MEAN_TESTS``.
    test : str
        An entry of ``TESTS`` for two groups. The effect size is Cohen's d (pooled SD) whatever
        the test, paired ones included, so that maps of different tests can be compared.

    Returns
    -------
    StatMap
        Positive where ``a`` responds more; NaN and a reason where a unit was excluded.

    Raises
    ------
    ValueError
        If the test is unknown, a group has fewer than two prompts, or the units do not match.
    """
    rows = np.arange(len(a)), len(a) + np.arange(len(b))
    return _map_of([a, b], two_sided(*rows, test=test))


def two_sided(rows_a: Rows, rows_b: Rows, *, test: str = "welch") -> Design:
    """The design of one condition against another, whose prompts are independent or paired."""
    test = canonical_test(test)
    if test in ONE_SAMPLE_TESTS:
        raise ValueError(f"test {test!r} takes one group; a contrast compares two or more")
    rows = np.asarray(rows_a, dtype=int), np.asarray(rows_b, dtype=int)
    return Design(rows, test)


def design_maps(recording: Recording, design: Design) -> dict[str, StatMap]:
    """Maps of every recorded site, uncorrected.

    Parameters
    ----------
    recording : Activations or StreamedRecording
    design : Design
        Which prompts are compared, and how.

    Returns
    -------
    dict of site -> StatMap
        With ``units``, the effect of `effects.effect_size` and its 95 % interval.

    Raises
    ------
    ValueError
        As the test.
    """
    maps = {}
    for site in recording.sites:
        units = recording.units(site)
        layers = (design.samples(recording, site, int(layer)) for layer in units.layers)
        maps[site] = _site_map([_map_of(samples, design) for samples in layers], units)
    return maps


def contrast_maps(
    recording: Recording,
    rows_a: Rows,
    rows_b: Rows,
    *,
    test: str = "welch",
    control: str = "fdr_bh",
    alpha: float = 0.05,
) -> dict[str, StatMap]:
    """Maps of one contrast at every recorded site, corrected together as one family.

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
    design = two_sided(rows_a, rows_b, test=test)
    how = ErrorControl(control=control, alpha=alpha)
    return controlled(recording, [design], [design_maps(recording, design)], how).maps[0]


def significant_by_control(maps: Mapping[str, StatMap], *, alpha: float = 0.05) -> dict[str, int]:
    """How many units of these maps are significant under every control of their p-values.

    Beside them the control that the maps were adjusted by, where it is none of these.
    """
    p = every_p_value([maps])
    counts = {
        name: int(np.count_nonzero(reject(p, control=name, alpha=alpha)))
        for name in multiplicity.CONTROLS
    }
    control = next(iter(maps.values())).control
    if control is not None and control not in counts:
        counts[control] = sum(int(m.significant.sum()) for m in maps.values())
    return counts


def _map_of(samples: Sequence[Sample], design: Design) -> StatMap:
    """One layer's map."""
    known = several_moments(samples)
    values = known if design.test in MEAN_TESTS and design.nuisance is None else samples
    result = tested(values, design)
    excluded = exclusion_reasons(*known)
    # What a test cannot tell for another reason is a difference that never varies (paired).
    excluded[(excluded == "") & np.isnan(result.statistic)] = "constant"
    whole = known if design.is_simple and not design.is_paired else values
    effect = effect_of(result, known if design.nuisance is None else samples, design)
    interval = effect_interval(effect, result, whole, design)
    n = sum(len(m) for m in known)
    unbiased = np.nan if design.is_omnibus else hedges_correction(n - len(known))
    difference = np.nan if design.is_omnibus else contrast_of_means(known, design.weights)
    numbers = {
        "statistic": result.statistic,
        "p_value": result.p_value,
        "df": result.df,
        "effect_size": effect,
        "hedges_g": effect * unbiased,
        "mean_difference": difference,
        "effect_low": interval.low,
        "effect_high": interval.high,
    }
    usable = excluded == ""
    more = further_effects(result, interval, samples, design)
    more["sd"] = np.sqrt(sum(m.sum_squares for m in known) / (n - len(known)))
    return StatMap(
        **{name: np.where(usable, values, np.nan) for name, values in numbers.items()},
        more={name: np.where(usable, values, np.nan) for name, values in more.items()},
        excluded=excluded,
        test=design.test,
        n=tuple(len(m) for m in known),
    )


def _site_map(layers: Sequence[StatMap], units: Units) -> StatMap:
    """One site's layers side by side."""
    return replace(
        layers[0],
        units=units,
        **{
            name: np.concatenate([getattr(layer, name) for layer in layers])
            for name in (*PER_UNIT, "excluded")
        },
        more={
            name: np.concatenate([layer.more[name] for layer in layers]) for name in layers[0].more
        },
    )
