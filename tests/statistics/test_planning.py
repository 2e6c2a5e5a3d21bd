"""Numbers of prompts and levels of a corrected family, against simulated families."""

from functools import partial

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from activation_analysis.statistics.designs import (
    as_grouped,
    in_both_conditions,
    in_groups,
    independent,
    pairs,
    pairs_in_groups,
    two_groups,
)
from activation_analysis.statistics.planning import (
    THRESHOLDS,
    Family,
    bh_alpha,
    detectable,
    expected_power,
    per_unit_alpha,
    prompts_needed,
)

M = 115_200


def found_in_simulation(control, *, responding, d, n, n_units=20_000, alpha=0.05):
    """Share of responding units that a control finds in one large family of independent units."""
    rng = np.random.default_rng(3)
    n_responding = round(responding * n_units)
    a, b = rng.normal(size=(2, n, n_units))
    a[:, :n_responding] += d
    rejected = multipletests(stats.ttest_ind(a, b).pvalue, alpha, method=control)[0]
    return rejected[:n_responding].mean()


@pytest.mark.parametrize("control", ["fdr_bh", "fdr_by", "fdr_tsbky", "bonferroni"])
@pytest.mark.parametrize(("responding", "d", "n"), [(0.05, 1.0, 30), (0.3, 0.8, 30)])
def test_the_share_found_is_the_one_predicted(control, responding, d, n):
    found = found_in_simulation(control, responding=responding, d=d, n=n)
    family = Family(control, 20_000, responding)
    # Binomial error of 1000 responding units: .016; the level itself varies a little, too.
    assert expected_power(d, independent(n), 0.05, family) == pytest.approx(found, abs=0.045)


def test_the_level_of_benjamini_hochberg_is_its_own_fixed_point():
    family, design = Family("fdr_bh", M, 0.1), independent(40)
    level = per_unit_alpha(0.05, family, 0.9, design)
    power = expected_power(0.9, design, 0.05, family)
    below = 0.9 * level + 0.1 * power
    assert level == pytest.approx(0.05 * below, rel=1e-8)
    assert level == pytest.approx(bh_alpha(0.05, 0.1, power), rel=1e-8)


def test_where_nothing_can_be_found_the_first_step_is_left():
    level = per_unit_alpha(0.05, Family("fdr_bh", M, 1e-4), 0.1, independent(5))
    assert level == 0.05 / M


def test_every_unit_responding_fully_is_the_whole_level():
    assert bh_alpha(0.05, 1 - 1e-12, 1.0) == pytest.approx(0.05)
    level = per_unit_alpha(0.05, Family("fdr_bh", M, 0.5), 50.0, independent(50))
    assert level == bh_alpha(0.05, 0.5, 1.0)


def test_stricter_controls_find_less():
    def power(control):
        return expected_power(0.7, independent(60), 0.05, Family(control, M, 0.05))

    order = ["max_t", "fdr_by", "fdr_bh", "none"]
    assert np.all(np.diff([power(c) for c in order]) > 0)
    assert power("holm") == power("bonferroni") == power("max_t")
    assert set(THRESHOLDS) >= {*order, "holm", "bonferroni", "fdr_tsbky"}


def test_max_t_follows_the_threshold_of_a_run():
    design = independent(60)
    level = per_unit_alpha(0.05, Family("max_t", M, threshold_t=5.0), 0.5, design)
    assert level == pytest.approx(2 * stats.t.sf(5.0, 118), rel=1e-12)
    level = per_unit_alpha(0.05, Family("max_t", M, effective_tests=100), 0.5, design)
    assert level == 0.05 / 100


@pytest.mark.parametrize("control", THRESHOLDS)
@pytest.mark.parametrize("n", [5, 60])
def test_the_detectable_effect_has_the_power_asked_for(control, n):
    family, design = Family(control, M, 0.05), independent(n)
    d = detectable(design, 0.05, family, power=0.8)
    assert expected_power(d, design, 0.05, family) == pytest.approx(0.8, abs=1e-4)


# Numbers of prompts.


def test_prompts_needed_agrees_with_published_numbers():
    # Cohen (1988), table 2.4.1, two-sided .05, power .80; R pwr.t.test: 393.4, 63.77, 25.52.
    assert [prompts_needed(d) for d in (0.2, 0.5, 0.8)] == [394, 64, 26]
    # R power.t.test(power = .90, delta = 1): n = 22.02.
    assert prompts_needed(1.0, 0.9) == 23
    # R pwr.t.test(d = .5, power = .8, type = "paired"): n = 33.37.
    assert prompts_needed(0.5, design=pairs) == 34


@pytest.mark.parametrize("control", ["none", "bonferroni", "fdr_bh", "fdr_by"])
def test_one_prompt_fewer_is_not_enough(control):
    family = Family(control, M, 0.05)
    for d in (0.3, 0.8, 2.5):
        n = prompts_needed(d, 0.8, 0.05, family=family)
        assert expected_power(d, independent(n), 0.05, family) >= 0.8
        assert expected_power(d, independent(n - 1), 0.05, family) < 0.8


def test_larger_effects_need_fewer_prompts_and_more_power_more():
    family = Family("fdr_bh", M, 0.05)
    assert np.all(np.diff([prompts_needed(d, family=family) for d in (0.2, 0.4, 0.8, 1.6)]) < 0)
    assert prompts_needed(0.5, 0.9, family=family) > prompts_needed(0.5, 0.8, family=family)


# Groups.


def test_prompts_alike_count_as_their_groups():
    alone, grouped = independent(10), in_groups(1000, n_groups=10, icc=1.0)
    assert grouped.standard_error == pytest.approx(alone.standard_error, rel=1e-12)
    assert grouped.df == alone.df
    unrelated = in_groups(1000, n_groups=10, icc=0.0)
    assert unrelated.standard_error == pytest.approx(independent(1000).standard_error, rel=1e-12)


def test_a_few_groups_limit_what_any_number_of_prompts_finds():
    few = partial(in_groups, n_groups=10, icc=0.3)
    assert prompts_needed(0.5, design=few) is None
    assert prompts_needed(0.5, design=partial(in_groups, n_groups=30, icc=0.3)) is not None
    # Of 10 prompts each, it takes 25 groups; see the test below for their power.
    assert prompts_needed(0.5, design=lambda g: in_groups(10 * g, n_groups=g, icc=0.3)) == 25


@pytest.mark.parametrize("icc", [0.1, 0.5])
def test_power_of_group_means_matches_simulation(icc):
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(12), 10)
    x = np.sqrt(icc) * rng.normal(size=(24, 20_000))
    means = x + np.sqrt((1 - icc) / 10) * rng.normal(size=x.shape)  # of ten prompts each
    means[:12] += 0.6
    found = np.mean(stats.ttest_ind(means[:12], means[12:]).pvalue < 0.05)
    design = in_groups(120, n_groups=12, icc=icc)
    assert expected_power(0.6, design, 0.05, Family()) == pytest.approx(found, abs=0.012)
    at_hand = as_grouped(np.repeat([True, False], 120), np.r_[group, group + 12], icc)
    assert at_hand.standard_error == pytest.approx(design.standard_error, rel=1e-12)
    assert at_hand.df == design.df


def test_power_within_groups_matches_simulation():
    rng = np.random.default_rng(5)
    icc, n_groups, m = 0.5, 8, 3
    group = np.tile(np.repeat(np.arange(n_groups), m), 2)
    in_first = np.repeat([True, False], n_groups * m)
    x = np.sqrt(icc) * rng.normal(size=(n_groups, 5000))[group]
    x += np.sqrt(1 - icc) * rng.normal(size=x.shape) + 0.5 * in_first[:, None]
    blocks = np.eye(n_groups)[group]
    hat = np.column_stack([in_first, blocks])
    df = len(group) - n_groups - 1
    beta, residual, *_ = np.linalg.lstsq(hat, x, rcond=None)
    t = beta[0] / np.sqrt(residual / df * np.linalg.inv(hat.T @ hat)[0, 0])
    found = np.mean(np.abs(t) > stats.t.ppf(0.975, df))
    design = in_both_conditions(n_groups * m, n_groups=n_groups, icc=icc)
    assert expected_power(0.5, design, 0.05, Family()) == pytest.approx(found, abs=0.02)
    at_hand = as_grouped(in_first, group, icc)
    assert at_hand.standard_error == pytest.approx(design.standard_error, rel=1e-12)
    assert at_hand.df == design.df


def test_pairs_in_groups_are_worth_less():
    assert pairs_in_groups(100, n_groups=10, icc=1.0) == pytest.approx(pairs(10))
    ungrouped = pairs_in_groups(100, n_groups=100, icc=0.4)
    assert ungrouped == pairs(100)


def test_plans_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="no control 'fdr'; known: none, bonferroni"):
        Family("fdr")
    with pytest.raises(ValueError, match="share of responding units is 5"):
        Family("fdr_bh", 10, 5)
    with pytest.raises(ValueError, match="threshold_t goes with control 'max_t', not 'fdr_bh'"):
        Family("fdr_bh", 10, threshold_t=5.0)
    with pytest.raises(ValueError, match="between 1 and the 10 units"):
        Family("max_t", 10, effective_tests=11)
    with pytest.raises(ValueError, match="the effect is 0; no number of prompts finds that"):
        prompts_needed(0)
    with pytest.raises(ValueError, match="intraclass correlation is 3; it lies between"):
        in_groups(10, n_groups=5, icc=3)
    with pytest.raises(ValueError, match="1 group per condition; at least 2"):
        in_groups(10, n_groups=1, icc=0.3)
    with pytest.raises(ValueError, match="cannot be told apart; at least 2 groups each"):
        as_grouped(np.repeat([True, False], 10), np.repeat([0, 1], 10), 0.3)
    with pytest.raises(ValueError, match="groups of 1 and 5 prompts cannot be tested"):
        two_groups(1, 5)
