"""What a design can find under its own control, said with every result."""

from __future__ import annotations

from collections.abc import Sequence

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.effects import precision_of
from activation_analysis.results import Power
from activation_analysis.statistics.planning import (
    Family,
    detectable,
    expected_power,
    per_unit_alpha,
)
from activation_analysis.statistics.power import f_power, minimum_detectable_f, t_power

FEWEST_PROMPTS = 15  # per condition, for any power to speak of
EFFECT_ASKED_FOR = 0.5  # abs(d) that the power is stated for


def power_of(
    design: Design,
    sizes: tuple[int, int],
    *,
    alpha: float = 0.05,
    family_size: int = 1,
    control: str = "bonferroni",
    threshold_t: float | None = None,
) -> Power:
    """What a design can detect by its t, or its omnibus F, under its control of the family.

    Under ``max_t`` by what its permutations asked for, where that is known; under the false
    discovery rates on the assumption that 5 % of the units respond. Pairs detect d_z. The F is
    asked at the strictest threshold of the family, alpha over its size, and detects 2f.

    Parameters
    ----------
    sizes : of two groups that stand for the design in messages
    alpha : error rate of the family
    family_size : units tested, all sites, layers and contrasts
    control : an entry of ``CONTROLS``
    threshold_t : the abs(t) that a single step of max_t asked for

    Returns
    -------
    Power
    """
    family = Family(control, max(family_size, 1), threshold_t=threshold_t)
    if design.is_omnibus:
        strictest = alpha / family.n_units
        return Power(
            n=sizes,
            alpha=strictest,
            minimum_detectable_d=2 * minimum_detectable_f(design.n, strictest),
            power_at_half=float(f_power(EFFECT_ASKED_FOR / 2, design.n, strictest)),
            power_at_half_uncorrected=float(f_power(EFFECT_ASKED_FOR / 2, design.n, alpha)),
            control="F at its strictest",
            effect="2f",
        )
    precision = precision_of(design)
    detected = detectable(precision, alpha, family)
    return Power(
        n=sizes,
        alpha=per_unit_alpha(alpha, family, detected, precision),
        minimum_detectable_d=detected,
        power_at_half=expected_power(EFFECT_ASKED_FOR, precision, alpha, family),
        power_at_half_uncorrected=float(t_power(EFFECT_ASKED_FOR, precision, alpha)),
        control=control,
        effect="d_z" if design.is_paired else "d",
    )


def small_sample_warning(conditions: Sequence[str], power: Power, counted: str = "prompts") -> str:
    """What to tell a user whose conditions have fewer than 15 prompts; "" where all have more.

    ``counted`` is what is compared: prompts, or groups.
    """
    small = [
        f"{condition!r} has {n} {counted if n != 1 else counted.removesuffix('s')}"
        for condition, n in zip(conditions, power.n, strict=True)
        if n < FEWEST_PROMPTS
    ]
    if not small:
        return ""
    return (
        f"{' and '.join(small)}; at least {FEWEST_PROMPTS} to 20 per condition are advisable. "
        f"With {power.n[0]} and {power.n[1]} {counted}, a true {power.effect} of "
        f"{EFFECT_ASKED_FOR} is found in {power.power_at_half_uncorrected:.0%} of studies for one "
        f"unit chosen beforehand, and in {power.power_at_half:.2%} after correction over all "
        f"units; 80 % power needs abs({power.effect}) = {power.minimum_detectable_d:.2f}"
    )
