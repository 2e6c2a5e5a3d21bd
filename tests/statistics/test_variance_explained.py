"""Eta squared and its noncentral F interval."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ncfdtr

from activation_analysis.statistics.effect_size import cohens_d_interval
from activation_analysis.statistics.noncentral_f import noncentralities_at
from activation_analysis.statistics.variance_explained import (
    eta_squared,
    eta_squared_interval,
    omega_squared,
)


def f_and_eta(groups):
    f = stats.f_oneway(*groups).statistic
    pooled = np.concatenate(groups)
    total = ((pooled - pooled.mean(axis=0)) ** 2).sum(axis=0)
    within = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups)
    return f, 1 - within / total


def test_eta_and_omega_agree_with_r_effectsize(oracle):
    # R effectsize, in statsmodels' test_oneway.py.
    data = oracle("effect_sizes")["F_effectsizes_R"]
    at = data["F"], data["df1"], data["df2"]
    assert eta_squared(*at) == pytest.approx(data["eta2"], rel=1e-12)
    assert omega_squared(*at) == pytest.approx(data["omega2"], rel=1e-12)
    # R divides the noncentrality by itself + df2, and stops its search early.
    low, high = eta_squared_interval(*at, confidence=0.9)
    in_r = [x * 39 / (x * 39 + (1 - x) * 35) for x in (low, high)]
    assert in_r == pytest.approx(data["eta2_ci90"], abs=1e-4)


def test_eta_interval_agrees_with_stata(oracle):
    data = oracle("effect_sizes")["F_effectsizes_Stata"]
    at = data["F"], data["df1"], data["df2"]
    assert eta_squared(*at) == pytest.approx(data["eta2"], rel=1e-12)
    found = eta_squared_interval(*at, confidence=0.9)
    assert tuple(found) == pytest.approx(tuple(data["eta2_ci90"]), abs=5e-8)


def test_noncentrality_agrees_with_steiger(oracle):
    # The lof/hif macro, and Steiger (2004), example 3.
    for case in oracle("effect_sizes")["noncentral_F"]:
        found = [noncentralities_at(case["F"], case["df1"], case["df2"], p) for p in (0.975, 0.025)]
        assert [float(x) for x in found] == pytest.approx(case["ncp_ci95"], abs=5e-4)


def test_eta_is_the_share_of_the_sum_of_squares():
    groups = np.random.default_rng(0).normal(size=(3, 8, 5))
    f, expected = f_and_eta(groups)
    np.testing.assert_allclose(eta_squared(f, 2, 21), expected, rtol=1e-12)


def test_two_groups_have_the_interval_of_d():
    # eta^2 / (1 - eta^2) = noncentrality / N; away from 0, where F and t have the same tail.
    n_a, n_b, d = 14, 20, 2.0
    f = d**2 / (1 / n_a + 1 / n_b)
    low, high = eta_squared_interval(f, 1, n_a + n_b - 2)
    limits = np.array(cohens_d_interval(d, n_a, n_b)) ** 2 / (1 / n_a + 1 / n_b)
    assert [low, high] == pytest.approx(list(limits / (limits + n_a + n_b)), rel=1e-7)


@pytest.mark.parametrize(("k", "n", "spread"), [(3, 7, 0.0), (3, 7, 0.6), (5, 20, 0.3)])
def test_interval_covers_the_true_eta_as_often_as_it_says(k, n, spread):
    rng = np.random.default_rng(1)
    means = np.linspace(-1, 1, k) * spread
    f = stats.f_oneway(*(rng.normal(m, size=(n, 20_000)) for m in means)).statistic
    true = means.var() / (means.var() + 1)
    low, high = eta_squared_interval(f, k - 1, k * (n - 1))
    expected = 0.975 if spread == 0 else 0.95  # the low limit is never above 0
    assert np.mean((low <= true) & (true <= high)) == pytest.approx(expected, abs=0.006)


def test_omega_of_noise_is_nearly_unbiased_and_eta_is_not():
    f = stats.f.rvs(3, 36, size=50_000, random_state=2)
    assert omega_squared(f, 3, 36).mean() == pytest.approx(0, abs=2e-3)
    assert eta_squared(f, 3, 36).mean() == pytest.approx(3 / 39, abs=2e-3)


@pytest.mark.parametrize("probability", [0.975, 0.025])
@pytest.mark.parametrize(("df1", "df2"), [(1, 6), (2, 20), (4, 398), (9, 5000)])
def test_many_noncentralities_are_within_1e_9_of_the_exact_ones(df1, df2, probability):
    f = np.sort(stats.f.rvs(df1, df2, size=5000, random_state=3) * 4)
    found = noncentralities_at(f, df1, df2, probability)
    exact = np.concatenate(
        [noncentralities_at(part, df1, df2, probability) for part in np.split(f, 250)]
    )
    assert np.all(np.abs(found - exact) <= 1e-9 * np.maximum(1, exact))
    assert np.all(np.diff(found) >= 0)
    assert found[0] == 0 < found[-1]


@pytest.mark.parametrize("probability", [0.9995, 0.995, 0.95, 0.05, 0.005, 0.0005])
@pytest.mark.parametrize(("df1", "df2"), [(1, 6), (2, 20), (3, 396), (30, 60)])
def test_noncentralities_put_f_at_their_quantile(df1, df2, probability):
    f = np.geomspace(stats.f.ppf(probability, df1, df2) * 1.001, 1500 / df1, 40)
    found = noncentralities_at(f, df1, df2, probability)
    reached = ncfdtr(df1, df2, found, f)
    tail = min(probability, 1 - probability)
    np.testing.assert_allclose(reached, probability, rtol=0, atol=1e-7 * tail)


def test_noncentralities_far_out_join_the_near_ones():
    for df1, df2 in ((1, 6), (4, 398), (10, 50)):
        inner, outer = noncentralities_at(np.array([2000, 2001]) / df1, df1, df2, 0.025)
        assert outer / inner == pytest.approx(2001 / 2000, rel=1e-4)
        limit = noncentralities_at(np.array([1e12]), df1, df2, 0.025) / (1e12 * df1)
        assert limit[0] == pytest.approx(stats.chi2.isf(0.025, df2) / df2, rel=1e-5)


def test_edges():
    low, high = eta_squared_interval(np.array([0, 1e-9, np.nan, np.inf]), 3, 20)
    assert low[0] == high[0] == low[1] == 0
    assert np.isnan([low[2:], high[2:]]).all()
    np.testing.assert_array_equal(eta_squared([0.0, np.inf], 3, 20), [0, 1])


def test_what_is_no_design_is_refused():
    with pytest.raises(
        ValueError, match="F has 0 and 20 degrees of freedom; both must be positive"
    ):
        eta_squared(1.0, 0, 20)
    with pytest.raises(ValueError, match="confidence is 95"):
        eta_squared_interval(1.0, 2, 20, confidence=95)
