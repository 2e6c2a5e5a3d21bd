"""How many prompts a study needs, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from activation_analysis.analyses.power_plan import PROMPTS_A_GROUP, PowerPlan
from activation_analysis.statistics.planning import FALSE_DISCOVERY
from activation_analysis.terminal import console, shown

ENOUGH = ("*", "bold green")  # mark and style: they say the same, for eyes and files


def show_power(plan: PowerPlan) -> None:
    """The table of powers, the numbers needed, and one sentence that says what to do."""
    out = console()
    if plan.at_hand:
        out.print(shown(plan.at_hand.contrast, "bold"), soft_wrap=not out.is_terminal)
    _say(out, _heading(plan))
    out.print()
    out.print(_table(plan))
    _say(out, f"{ENOUGH[0]} at least the {100 * plan.asked_power:g} % asked for", "dim")
    out.print()
    _say(out, advice(plan), "bold")


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(shown(text, style), soft_wrap=not out.is_terminal)


def _heading(plan: PowerPlan) -> str:
    family = plan.family
    if family.control == "none":
        over = f"one unit chosen beforehand, tested at {plan.alpha:g}"
    else:
        over = f"{family.control} at {plan.alpha:g} over {family.n_units:,} units"
    if family.control in FALSE_DISCOVERY:
        over += f", {100 * family.responding:.3g} % of which respond"
    if family.threshold_t is not None:
        over += f", threshold |t| = {family.threshold_t:g}"
    grouped = ""
    if plan.n_groups:
        grouped = (
            f" {'Pairs' if plan.paired else 'Prompts'} come in {plan.n_groups} groups"
            f"{'' if plan.paired else ' per condition'} and correlate by {plan.icc:g} within "
            f"them, and are tested accordingly."
        )
    effect = "d_z, the mean difference over the SD of the differences" if plan.paired else "d"
    return (
        f"Share of the responding units that is found, by number of "
        f"{'pairs' if plan.paired else 'prompts per condition'} and true effect {effect}; "
        f"{over}.{grouped}"
    )


def _table(plan: PowerPlan) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("pairs" if plan.paired else "prompts per condition", no_wrap=True)
    if plan.n_groups:
        table.add_column("count as", justify="right", no_wrap=True)
    symbol = "d_z" if plan.paired else "d"
    for effect in plan.effects:
        table.add_column(f"{symbol}={effect:g}", justify="right", no_wrap=True)
    if plan.at_hand:
        worth = (1 if plan.paired else 2) / plan.at_hand.precision.standard_error**2
        table.add_row(_n_at_hand(plan), *_worth(plan, worth), *_cells(plan, plan.at_hand.power))
        table.add_row()
    for n, worth, powers in zip(plan.numbers, plan.worth, plan.power, strict=True):
        table.add_row(f"{n:,}", *_worth(plan, worth), *_cells(plan, powers))
    table.add_row()
    empty = [""] * bool(plan.n_groups)
    table.add_row(
        f"needed for {100 * plan.asked_power:g} %", *empty, *_numbers(plan.needed), style="bold"
    )
    if plan.family.control != "none":
        table.add_row("  by one unit alone", *empty, *_numbers(plan.needed_alone), style="dim")
    return table


def _n_at_hand(plan: PowerPlan) -> str:
    first, second = plan.at_hand.n
    return f"{first:,} (now)" if first == second else f"{first:,} and {second:,} (now)"


def _worth(plan: PowerPlan, worth: float) -> list[str]:
    return [f"{worth:,.0f}"] if plan.n_groups else []


def _cells(plan: PowerPlan, powers: Sequence[float] | np.ndarray) -> list[Text]:
    cells = []
    for power in powers:
        mark, style = ENOUGH if power >= plan.asked_power else (" ", "")
        cells.append(Text(f"{_percent(float(power))}{mark}", style))
    return cells


def _percent(power: float) -> str:
    if power < 0.01:
        return "<1 %"
    return f"{int(100 * power)} %" if power <= 0.99 else ">99 %"  # 79.6 % is not yet 80 %


def _numbers(needed: Sequence[int | None]) -> list[str]:
    """Aligned with the percentages, whose mark takes a place."""
    return [f"{n:,} " if n else "none " for n in needed]


def advice(plan: PowerPlan) -> str:
    """What to do, in one sentence."""
    symbol = "d_z" if plan.paired else "d"
    effect = f"{symbol} = {plan.asked_effect:g}"
    what = "pairs" if plan.paired else "prompts per condition"
    found = f"{100 * plan.asked_power:g} % of the units that respond with {effect}"
    if plan.family.control == "none":
        found = f"a unit that responds with {effect} in {100 * plan.asked_power:g} % of studies"
    needed = plan.needed_for_asked
    what_there = "pairs" if plan.paired else "prompts"
    if plan.at_hand and needed and needed <= min(plan.at_hand.n):
        return (
            f"Enough: these {what_there} find {found}; {100 * plan.asked_power:g} % is reached for "
            f"{symbol} from {plan.at_hand.detectable:.2f} on."
        )
    now = ""
    if plan.at_hand:
        can = plan.at_hand.detectable
        smallest = f"{symbol} from {can:.2f} on" if np.isfinite(can) else "no effect"
        now = f"With these {what_there} {100 * plan.asked_power:g} % is reached for {smallest}. "
    if needed is None:
        each = "" if plan.paired else " per condition"
        groups = (
            f"write at least {plan.needed_groups:,} groups{each} with {PROMPTS_A_GROUP} "
            f"{what_there} each"
            if plan.needed_groups
            else "look for a larger effect"
        )
        where = f"in {plan.n_groups} groups " if plan.n_groups else ""
        return f"{now}No number of {what} {where}finds {found}; {groups}."
    more = ""
    if plan.at_hand:
        more = f", {needed - min(plan.at_hand.n):,} more than now"
    return f"{now}To find {found}, write at least {needed:,} {what}{more}."
