"""Plans of prompts, and what those at hand can find."""

import numpy as np
import pandas as pd
import pytest

from activation_analysis.analyses.power_plan import plan_for, power_plan
from activation_analysis.contrasts import parse
from activation_analysis.errors import PromptError
from activation_analysis.prompts import PromptSet
from activation_analysis.statistics.planning import Family
from activation_analysis.statistics.power import minimum_detectable_effect, two_sample_power
from activation_analysis.terminal_power import advice

A_MINUS_B = parse("a - b")
FAMILY = Family("fdr_bh", 115_200, 0.05)


def prompt_set(n_a, n_b, **columns):
    table = {"condition": ["a"] * n_a + ["b"] * n_b, "prompt": [f"p{i}" for i in range(n_a + n_b)]}
    return PromptSet("made", pd.DataFrame(table | columns))


def test_a_plan_agrees_with_published_numbers():
    # Cohen (1988), table 2.4.1: 64 per group for d = .5, 26 for d = .8.
    plan = power_plan()
    assert plan.effects == (0.2, 0.3, 0.5, 0.8, 1.2)
    assert plan.needed[2:4] == (64, 26)
    assert plan.needed == plan.needed_alone
    assert plan.power[plan.numbers.index(50), 2] == two_sample_power(0.5, 50, 50)


def test_the_effect_asked_for_has_its_own_column():
    plan = power_plan(effect=-0.4, family=FAMILY)
    assert plan.effects == (0.2, 0.3, 0.4, 0.5, 0.8, 1.2)
    assert plan.needed_for_asked == plan.needed[2]
    assert np.all(np.diff(plan.power, axis=0) >= 0)
    assert np.all(np.diff(plan.power, axis=1) >= 0)
    assert all(a < b for a, b in zip(plan.needed_alone, plan.needed, strict=True))


def test_prompts_at_hand_can_find_what_their_number_says():
    at_hand = plan_for(prompt_set(60, 40), A_MINUS_B).at_hand
    assert at_hand.n == (60, 40)
    assert at_hand.detectable == pytest.approx(minimum_detectable_effect(60, 40), rel=1e-9)


def test_groups_at_hand_cost_power_and_crossed_ones_gain_it():
    alone = plan_for(prompt_set(60, 60), A_MINUS_B, family=FAMILY)
    nested = plan_for(
        prompt_set(60, 60, group=[f"g{i // 5}" for i in range(120)]), A_MINUS_B, family=FAMILY
    )
    crossed = plan_for(
        prompt_set(60, 60, group=[f"g{i % 12}" for i in range(120)]), A_MINUS_B, family=FAMILY
    )
    assert nested.at_hand.n_groups == crossed.at_hand.n_groups == (12, 12)
    order = [crossed.at_hand.detectable, alone.at_hand.detectable, nested.at_hand.detectable]
    assert order == sorted(order)
    assert nested.n_groups == 12
    assert crossed.needed_for_asked < alone.needed_for_asked


def test_pairs_at_hand_are_counted_by_item():
    items = [str(i) for i in [*range(20), *range(20)]]
    plan = plan_for(prompt_set(20, 20, item=items), A_MINUS_B, paired=True)
    assert plan.at_hand.n == (20, 20)
    assert plan.at_hand.precision.df == 19
    group = [f"g{k // 5}" for k in [*range(20), *range(20)]]
    grouped = plan_for(prompt_set(20, 20, item=items, group=group), A_MINUS_B, paired=True)
    assert (grouped.at_hand.n_groups, grouped.at_hand.precision.df) == ((4, 4), 3)
    assert grouped.at_hand.detectable > plan.at_hand.detectable
    with pytest.raises(PromptError, match="no item column"):
        plan_for(prompt_set(20, 20), A_MINUS_B, paired=True)


def test_the_advice_says_what_to_do():
    assert advice(power_plan(family=FAMILY)) == (
        "To find 80 % of the units that respond with d = 0.5, write at least 126 prompts per "
        "condition."
    )
    few = advice(plan_for(prompt_set(60, 60), A_MINUS_B, family=FAMILY))
    assert few.startswith("With these prompts 80 % is reached for d from 0.73 on. To find")
    assert few.endswith("write at least 126 prompts per condition, 66 more than now.")
    enough = advice(plan_for(prompt_set(60, 60), A_MINUS_B, family=FAMILY, effect=0.9))
    assert enough.startswith("Enough: these prompts find 80 % of the units that respond")
    never = advice(power_plan(n_groups=10, icc=0.3))
    assert never.startswith("No number of prompts per condition in 10 groups finds a unit")
    assert never.endswith("write at least 25 groups per condition with 10 prompts each.")
    assert "write at least 34 pairs" in advice(power_plan(paired=True))


def test_groups_that_leave_nothing_to_compare_are_refused():
    one_each = prompt_set(10, 10, group=["x"] * 10 + ["y"] * 10)
    with pytest.raises(ValueError, match="cannot be told apart; at least 2 groups each"):
        plan_for(one_each, A_MINUS_B)
