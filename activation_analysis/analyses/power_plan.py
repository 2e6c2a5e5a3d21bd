"""What a study can find: before there are prompts, and with those at hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from activation_analysis.analyses.templating import ASSUMED_ICC
from activation_analysis.contrasts import Contrast
from activation_analysis.prompts import PromptSet
from activation_analysis.statistics.designs import (
    Design,
    Precision,
    as_grouped,
    in_both_conditions,
    in_groups,
    independent,
    pairs,
    pairs_in_groups,
    two_groups,
)
from activation_analysis.statistics.planning import (
    Family,
    check_effect,
    detectable,
    expected_power,
    prompts_needed,
)

USUAL_EFFECTS = (0.2, 0.3, 0.5, 0.8, 1.2)
USUAL_NUMBERS = (10, 20, 30, 50, 100, 200, 500)
USUAL_SIZES = (1, 2, 5, 10, 20, 50)  # prompts of one group
PROMPTS_A_GROUP = 10  # of which the plan says how many groups it takes


@dataclass(frozen=True)
class DesignAtHand:
    """The prompts of one contrast as they are."""

    contrast: str
    n: tuple[int, int]  # prompts of each side, or pairs twice
    n_groups: tuple[int, int] | None  # with some prompt on each side; None without groups
    precision: Precision
    detectable: float  # abs(d) at which the power asked for is reached
    power: np.ndarray  # (n_effects,)


@dataclass(frozen=True)
class PowerPlan:
    """Power by number of prompts and effect, under the stated control."""

    paired: bool
    n_groups: int | None  # per condition; None where prompts are independent
    icc: float  # of the groups
    family: Family
    alpha: float
    asked_power: float
    asked_effect: float
    effects: tuple[float, ...]
    numbers: tuple[int, ...]  # prompts per condition, or pairs
    worth: np.ndarray  # (n_numbers,) independent prompts that they amount to
    power: np.ndarray  # (n_numbers, n_effects)
    needed: tuple[int | None, ...]  # per effect, for the power asked; None where none will do
    needed_alone: tuple[int | None, ...]  # for one unit chosen beforehand
    needed_groups: int | None  # of 10 prompts each, for the effect asked; None without groups
    at_hand: DesignAtHand | None = None

    @property
    def needed_for_asked(self) -> int | None:
        return self.needed[self.effects.index(self.asked_effect)]


def power_plan(
    *,
    effect: float = 0.5,
    power: float = 0.8,
    alpha: float = 0.05,
    family: Family | None = None,
    paired: bool = False,
    n_groups: int | None = None,
    icc: float = ASSUMED_ICC,
) -> PowerPlan:
    """How many prompts per condition find which effects.

    Parameters
    ----------
    effect : the abs(d) (abs(d_z) of pairs) that the study is about
    power : share of responding units to be found
    alpha, family : error rate of the family, and the family
    paired : prompts come in pairs, and effects are d_z
    n_groups : groups (templates, authors) per condition, each in one condition; of pairs, groups
        of pairs
    icc : intraclass correlation of the groups

    Raises
    ------
    ValueError
        If a number is outside of what can be planned.
    """
    design = _design(paired, n_groups, icc)
    return _plan(design, None, effect, power, alpha, family, paired, n_groups, icc)


def plan_for(
    prompts: PromptSet,
    contrast: Contrast,
    *,
    effect: float = 0.5,
    power: float = 0.8,
    alpha: float = 0.05,
    family: Family | None = None,
    paired: bool = False,
    icc: float = ASSUMED_ICC,
) -> PowerPlan:
    """The same for prompts at hand: what they can find, and how many more it takes.

    A column ``group`` counts: the test that is right for grouped prompts is planned, whatever
    the experiment runs. Pairs are matched by ``item``; those of one group count as its mean.

    Raises
    ------
    ValueError, PromptError
        As `power_plan`; if pairs are incomplete, or groups leave nothing to compare.
    """
    if paired:
        first, _ = prompts.pairs(contrast.first, contrast.second)
        n = len(first)
        design, precision, n_pair, n_groups = pairs, pairs(n), (n, n), None
        if "group" in prompts.table:
            found = prompts.table["group"].to_numpy()[first]
            n_groups = (len(set(found)),) * 2
            design = partial(pairs_in_groups, n_groups=n_groups[0], icc=icc)
            precision = design(n)
    else:
        sides = prompts.rows_of(contrast.first), prompts.rows_of(contrast.second)
        n_pair = len(sides[0]), len(sides[1])
        design, precision, n_groups = independent, two_groups(*n_pair), None
        if "group" in prompts.table:
            groups = [prompts.table["group"].to_numpy()[rows] for rows in sides]
            n_groups = len(set(groups[0])), len(set(groups[1]))
            precision = as_grouped(_in_first(*n_pair), np.concatenate(groups), icc)
            crossed = set(groups[0]) & set(groups[1])
            kind = in_both_conditions if crossed else in_groups
            design = partial(kind, n_groups=min(n_groups), icc=icc)
    family = family or Family()
    at_hand = DesignAtHand(
        contrast=str(contrast),
        n=n_pair,
        n_groups=n_groups,
        precision=precision,
        detectable=detectable(precision, alpha, family, power=power),
        power=np.array([expected_power(d, precision, alpha, family) for d in _effects(effect)]),
    )
    planned = min(n_groups) if n_groups else None
    return _plan(design, at_hand, effect, power, alpha, family, paired, planned, icc)


def _in_first(n_a: int, n_b: int) -> np.ndarray:
    return np.repeat([True, False], [n_a, n_b])


def _design(paired: bool, n_groups: int | None, icc: float) -> Design:
    if n_groups is None:
        return pairs if paired else independent
    return partial(pairs_in_groups if paired else in_groups, n_groups=n_groups, icc=icc)


def _effects(asked: float) -> tuple[float, ...]:
    check_effect(asked)
    return tuple(sorted({*USUAL_EFFECTS, abs(asked)}))


def _plan(
    design: Design,
    at_hand: DesignAtHand | None,
    effect: float,
    power: float,
    alpha: float,
    family: Family | None,
    paired: bool,
    n_groups: int | None,
    icc: float,
) -> PowerPlan:
    family = family or Family()
    effects = _effects(effect)
    numbers = tuple(n_groups * m for m in USUAL_SIZES) if n_groups else USUAL_NUMBERS
    measured = [design(n) for n in numbers]

    def needed(d: float, in_family: Family, of: Design = design) -> int | None:
        return prompts_needed(d, power, alpha, family=in_family, design=of)

    def filled_groups(n: int) -> Precision:
        kind = pairs_in_groups if paired else in_groups
        return kind(n * PROMPTS_A_GROUP, n_groups=n, icc=icc)

    return PowerPlan(
        paired=paired,
        n_groups=n_groups,
        icc=icc,
        family=family,
        alpha=alpha,
        asked_power=power,
        asked_effect=abs(effect),
        effects=effects,
        numbers=numbers,
        worth=np.array([(1 if paired else 2) / m.standard_error**2 for m in measured]),
        power=np.array([[expected_power(d, m, alpha, family) for d in effects] for m in measured]),
        needed=tuple(needed(d, family) for d in effects),
        needed_alone=tuple(needed(d, Family()) for d in effects),
        needed_groups=needed(abs(effect), family, filled_groups) if n_groups else None,
        at_hand=at_hand,
    )
