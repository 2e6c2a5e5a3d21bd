"""What templated prompts would do to a test that takes them for independent."""

from __future__ import annotations

import numpy as np

from activation_analysis import cautions
from activation_analysis.contrasts import Contrast
from activation_analysis.prompts import PromptSet
from activation_analysis.statistics.naive_tests import (
    naive_false_positive_rate,
    naive_paired_false_positive_rate,
)
from activation_analysis.templates import Templates, find_templates

ASSUMED_ICC = 0.3  # of fillings of one template, until it is measured


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
    if test == "paired":
        pairs, _ = prompts.pairs(contrast.first, contrast.second)
        return naive_paired_false_positive_rate(found.groups[pairs], icc, alpha)
    omnibus = contrast.is_omnibus
    sides = contrast.conditions if omnibus else (contrast.first, contrast.second)
    rows = [prompts.rows_of(side) for side in sides]
    side = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    return naive_false_positive_rate(side, found.groups[np.concatenate(rows)], icc, alpha)


def templating(
    prompts: PromptSet,
    contrast: Contrast,
    *,
    test: str = "welch",
    icc: float = ASSUMED_ICC,
    alpha: float = 0.05,
    found: Templates | None = None,
) -> str:
    """One sentence on templates that no column declares, for one contrast; "" where none.

    Parameters
    ----------
    icc : of fillings of one template; `intraclass_correlation` measures it
    found : what `find_templates` says of these prompts, where it is known already
    """
    found = find_templates(prompts) if found is None else found
    if not len(found):
        return ""
    rate = naive_rate(found, prompts, contrast, test=test, icc=icc, alpha=alpha)
    return cautions.templated(found, prompts, contrast, rate, icc=icc, alpha=alpha)
