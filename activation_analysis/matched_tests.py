"""Which test fits prompts that come in matched sets: paired, blocked, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from activation_analysis.contrasts import Contrast
from activation_analysis.errors import PromptError
from activation_analysis.options import UnivariateOptions
from activation_analysis.prompts import PromptSet


def matched(
    options: UnivariateOptions,
    prompts: PromptSet,
    contrasts: Sequence[Contrast],
    *,
    streamed: bool = False,
) -> UnivariateOptions:
    """The options with the test that fits the prompts instead of ``auto``.

    ``paired`` where every contrast finds each item once on either side. A randomised block
    design, ``glm_t`` with the item as a nuisance regressor (of three conditions, an F of the
    conditions within items), where most items otherwise appear in several conditions. ``glm_t``
    where nuisance regressors are asked for. Else, and where only moments are kept, ``welch``.
    """
    blocked = not streamed and "item" in prompts.table and _is_crossed(prompts, contrasts)
    if blocked and not options.nuisance and all(_is_paired(prompts, c) for c in contrasts):
        return replace(options, test="paired")
    if blocked:
        return replace(options, test="glm_t", nuisance=_with_item(options.nuisance))
    return replace(options, test="glm_t" if options.nuisance else "welch")


def _is_paired(prompts: PromptSet, contrast: Contrast) -> bool:
    if contrast.is_omnibus:
        return False
    try:
        prompts.pairs(contrast.first, contrast.second)
    except PromptError:
        return False
    return True


def _is_crossed(prompts: PromptSet, contrasts: Sequence[Contrast]) -> bool:
    """Whether most items of every contrast have prompts in two conditions or more of it."""
    for contrast in contrasts:
        table = prompts.table[prompts.table["condition"].isin(contrast.conditions)]
        spread = table.groupby("item", sort=False)["condition"].nunique()
        if np.mean(spread >= 2) < 0.5:
            return False
    return True


def _with_item(nuisance: tuple[str, ...]) -> tuple[str, ...]:
    return nuisance if "item" in nuisance else (*nuisance, "item")
