"""What templated prompts would do to a test that takes them for independent."""

from __future__ import annotations

import numpy as np

from activation_analysis import cautions
from activation_analysis.activations import Activations
from activation_analysis.analyses.samples import Recording
from activation_analysis.contrasts import Contrast
from activation_analysis.options import PAIRED_TESTS
from activation_analysis.prompts import PromptSet
from activation_analysis.statistics.clustering import intraclass_correlation
from activation_analysis.statistics.naive_tests import (
    naive_false_positive_rate,
    naive_paired_false_positive_rate,
)
from activation_analysis.templates import Templates, find_templates

ASSUMED_ICC = 0.3  # of fillings of one template, until it is measured
MEASURED_UNITS = 64  # of a layer


def naive_rate(
    found: Templates,
    prompts: PromptSet,
    contrast: Contrast,
    *,
    test: str = "welch",
    icc: float = ASSUMED_ICC,
    alpha: float = 0.05,
) -> float:
    """The share of null units that a test of the contrast calls significant, templates ignored.

    For a paired test, pairs belong together where their first prompts do.
    """
    if test in PAIRED_TESTS:
        pairs, _ = prompts.pairs(contrast.first, contrast.second)
        return naive_paired_false_positive_rate(found.groups[pairs], icc, alpha)
    omnibus = contrast.is_omnibus
    sides = contrast.conditions if omnibus else (contrast.first, contrast.second)
    rows = [prompts.rows_of(side) for side in sides]
    side = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    return naive_false_positive_rate(side, found.groups[np.concatenate(rows)], icc, alpha)


def measured_icc(
    recording: Recording, prompts: PromptSet, contrast: Contrast, found: Templates
) -> float:
    """How alike fillings of one template are in the activations: mean ICC(1) of some units.

    Of the first 64 units of every layer and site, effects of the conditions taken out; 0 at
    least, and what is assumed otherwise where templates do not allow it to be measured.
    """
    sides = contrast.conditions if contrast.is_omnibus else (contrast.first, contrast.second)
    parts = [prompts.rows_of(side) for side in sides]
    rows = np.concatenate(parts)
    conditions = np.repeat(np.arange(len(parts)), [len(r) for r in parts])
    values = []
    for site in recording.sites:
        for layer in recording.units(site).layers:
            x = recording.sample(rows, site, int(layer), slice(0, MEASURED_UNITS))
            try:
                values.append(intraclass_correlation(x, found.groups[rows], conditions))
            except ValueError:  # one template a condition, or no template twice
                return ASSUMED_ICC
    every = np.concatenate(values)
    return max(float(np.nanmean(every)), 0.0) if np.any(~np.isnan(every)) else ASSUMED_ICC


def templating(
    prompts: PromptSet,
    contrast: Contrast,
    *,
    test: str = "welch",
    icc: float | None = None,
    alpha: float = 0.05,
    found: Templates | None = None,
    recording: Recording | None = None,
) -> str:
    """One sentence on templates that no column declares, for one contrast; "" where none.

    Parameters
    ----------
    icc : of fillings of one template; measured where there is a recording, else assumed to be .3
    found : what `find_templates` says of these prompts, where it is known already
    recording : of these prompts, with the values of every prompt
    """
    found = find_templates(prompts) if found is None else found
    if not len(found):
        return ""
    if icc is None:
        icc = ASSUMED_ICC
        if isinstance(recording, Activations):
            icc = measured_icc(recording, prompts, contrast, found)
    rate = naive_rate(found, prompts, contrast, test=test, icc=icc, alpha=alpha)
    return cautions.templated(found, prompts, contrast, rate, icc=icc, alpha=alpha)
