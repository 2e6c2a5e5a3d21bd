"""Power and minimum detectable effects, and the noncentral t beneath them."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import noncentral_t
from activation_analysis.statistics.designs import Precision, independent, weighted_means
from activation_analysis.statistics.power import (
    contrast_power,
    detectable_effect,
    eta_squared_of_f,
    f_of_eta_squared,
    f_power,
    minimum_detectable_effect,
    minimum_detectable_f,
    paired_power,
    t_power,
    two_sample_power,
)


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 0.05 / 115_000])
@pytest.mark.parametrize("n", [(2, 2), (10, 30), (60, 60), (500, 400)])
def test_power_agrees_with_statsmodels(n, alpha):
    from statsmodels.stats.power import TTestIndPower

    for d in (0.0, 0.1, 0.5, 2.0):
        expected = TTestIndPower().power(d, n[0], alpha, ratio=n[1] / n[0])
        if np.isnan(expected):  # scipy's noncentral t gives up where power is high
            continue
        assert two_sample_power(d, *n, alpha) == pytest.approx(expected, abs=1e-10)


def test_power_agrees_with_cohens_tables():
    # Cohen (1988), table 2.3.5 and R power.t.test(n = 64, delta = .5): power .80 at d = .5.
    assert two_sample_power(0.5, 64, 64, 0.05) == pytest.approx(0.8015, abs=5e-5)
    assert minimum_detectable_effect(64, 64, 0.05) == pytest.approx(0.4991, abs=5e-4)


def test_power_is_found_where_scipys_is_nan():
    # scipy 1.17: stats.nct.cdf(3.37, 118, 11) is NaN.
    power = two_sample_power(np.array([0.5, 2.0, 5.0, 50.0]), 60, 60, 1e-3)
    assert np.all(np.isfinite(power))
    assert np.all(np.diff(power) >= 0)
    assert power[-1] == 1.0


def test_power_matches_simulation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, size=(12, 40_000)), rng.normal(size=(18, 40_000))
    found = np.mean(stats.ttest_ind(a, b).pvalue < 0.05)
    assert two_sample_power(0.8, 12, 18) == pytest.approx(found, abs=0.01)


def test_no_effect_is_found_at_the_rate_alpha():
    assert two_sample_power(0.0, 20, 30, 0.01) == pytest.approx(0.01, rel=1e-10)
    assert two_sample_power(-0.7, 20, 30) == two_sample_power(0.7, 20, 30)


@pytest.mark.parametrize("n", [(2, 2), (15, 15), (60, 20), (5000, 5000)])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 115_000])
def test_the_minimum_detectable_effect_has_the_power_asked_for(n, alpha):
    for power in (0.5, 0.8, 0.95):
        d = minimum_detectable_effect(*n, alpha, power=power)
        assert two_sample_power(d, *n, alpha) == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize("df", [1, 2, 10, 98, 100_000])
def test_noncentral_t_agrees_with_scipy_where_scipy_answers(df):
    t, delta = np.meshgrid([-50, -5, -0.01, 0, 0.5, 3, 12, 100], [-5, 0, 0.5, 2, 10, 31])
    expected = stats.nct.cdf(t, df, delta)
    found = noncentral_t.cdf(t, df, delta)
    answered = ~np.isnan(expected)
    np.testing.assert_allclose(found[answered], expected[answered], atol=1e-11)
    assert np.all((found >= 0) & (found <= 1))


def test_impossible_designs_are_refused():
    with pytest.raises(ValueError, match="groups of 1 and 9 prompts cannot be tested"):
        two_sample_power(0.5, 1, 9)
    with pytest.raises(ValueError, match="alpha is 0"):
        minimum_detectable_effect(9, 9, 0)
    with pytest.raises(ValueError, match="power is 80; it lies between alpha"):
        minimum_detectable_effect(9, 9, power=80)


# Pairs.


def test_paired_power_agrees_with_published_values():
    # R pwr.t.test(d = .2, n = 60, sig.level = .10, type = "one.sample"), Cohen (1988) ex. 2.5:
    # power = 0.4555818.
    assert paired_power(0.2, 60, 0.10) == pytest.approx(0.4555818, abs=5e-8)
    # G*Power 3.1 manual, matched pairs: dz = 0.421637, n = 50, alpha = .05: power = 0.832114.
    assert paired_power(0.421637, 50) == pytest.approx(0.832114, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 0.05 / 115_000])
@pytest.mark.parametrize("n", [2, 5, 30, 200])
def test_paired_power_agrees_with_statsmodels(n, alpha):
    from statsmodels.stats.power import TTestPower

    for d_z in (0.0, 0.1, 0.5, 1.0):
        expected = TTestPower().power(d_z, n, alpha)
        if not np.isnan(expected):
            assert paired_power(d_z, n, alpha) == pytest.approx(expected, abs=1e-10)


# Omnibus F.


def test_f_power_agrees_with_published_values():
    # R pwr.anova.test(f = .28, k = 4, n = 20, sig.level = .05), Cohen (1988) ex. 8.1:
    # power = 0.5149793.
    assert f_power(0.28, [20] * 4) == pytest.approx(0.5149793, abs=5e-8)
    # G*Power 3.1 manual, one-way ANOVA: f = .25, k = 10, N = 390: power = 0.952363.
    assert f_power(0.25, [39] * 10) == pytest.approx(0.952363, abs=5e-7)


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 0.05 / 115_000])
@pytest.mark.parametrize("k", [2, 4, 10])
def test_f_power_agrees_with_statsmodels(k, alpha):
    from statsmodels.stats.power import FTestAnovaPower

    for f in (0.1, 0.25, 1.0, 3.0):
        for n in (3, 20, 200):
            expected = FTestAnovaPower().power(f, n * k, alpha, k)
            if not np.isnan(expected):  # as for t
                assert f_power(f, [n] * k, alpha) == pytest.approx(expected, abs=1e-10)


def test_f_of_two_groups_is_the_t_test():
    for n in ((10, 10), (12, 30)):
        share = n[0] * n[1] / sum(n) ** 2  # f = d sqrt(n_a n_b) / N
        for d in (0.0, 0.4, 1.5):
            f = d * np.sqrt(share)
            assert f_power(f, n, 1e-4) == pytest.approx(two_sample_power(d, *n, 1e-4), abs=1e-11)


def test_f_power_of_unequal_groups_matches_simulation():
    rng = np.random.default_rng(1)
    sizes, means = (10, 20, 30), (0.0, 0.5, 0.8)
    samples = [rng.normal(m, size=(n, 20_000)) for n, m in zip(sizes, means, strict=True)]
    found = np.mean(stats.f_oneway(*samples).pvalue < 0.05)
    centre = np.average(means, weights=sizes)
    f = np.sqrt(np.average((np.array(means) - centre) ** 2, weights=sizes))
    assert f_power(f, sizes) == pytest.approx(found, abs=0.012)


def test_f_is_eta_squared_spelled_otherwise():
    # Cohen (1988), table 8.2.2: f = .25 is eta^2 = .0588.
    assert eta_squared_of_f(0.25) == pytest.approx(0.0588, abs=5e-5)
    assert f_of_eta_squared(eta_squared_of_f(0.7)) == pytest.approx(0.7, rel=1e-14)
    with pytest.raises(ValueError, match="share of variance from 0 to below 1"):
        f_of_eta_squared(1.0)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 115_000])
def test_the_minimum_detectable_f_has_the_power_asked_for(alpha):
    f = minimum_detectable_f([15, 20, 30], alpha, power=0.9)
    assert f_power(f, [15, 20, 30], alpha) == pytest.approx(0.9, abs=1e-9)


# Contrasts.


def test_a_contrast_of_two_groups_is_the_t_test():
    assert contrast_power(0.5, [1, -1], [20, 30]) == two_sample_power(0.5, 20, 30)


def test_contrast_power_matches_simulation():
    rng = np.random.default_rng(2)
    sizes, weights, means = (10, 15, 20, 25), np.array([0.5, 0.5, -1, 0]), (1.0, 0.6, 0.2, 3.0)
    samples = [rng.normal(m, size=(n, 20_000)) for n, m in zip(sizes, means, strict=True)]
    pooled = sum(x.var(axis=0, ddof=1) * (len(x) - 1) for x in samples) / (sum(sizes) - 4)
    estimate = sum(w * x.mean(axis=0) for w, x in zip(weights, samples, strict=True))
    t = estimate / np.sqrt(pooled * np.sum(weights**2 / sizes))
    found = np.mean(np.abs(t) > stats.t.ppf(0.975, sum(sizes) - 4))
    assert contrast_power(weights @ means, weights, sizes) == pytest.approx(found, abs=0.012)


def test_power_rises_with_effect_prompts_and_alpha():
    effects = np.linspace(0, 3, 40)
    by_n = np.array([t_power(effects, independent(n), 1e-4) for n in (2, 3, 5, 10, 30, 100)])
    assert np.all(np.diff(by_n, axis=0) >= -1e-12)
    assert np.all(np.diff(by_n, axis=1) >= -1e-12)
    by_alpha = [f_power(0.3, [20] * 3, alpha) for alpha in (1e-8, 1e-4, 0.01, 0.2)]
    assert np.all(np.diff(by_alpha) > 0)


def test_impossible_comparisons_are_refused():
    with pytest.raises(ValueError, match="1 pair cannot be tested; at least 2"):
        paired_power(0.5, 1)
    with pytest.raises(ValueError, match="groups of 9 prompts cannot be compared by F"):
        f_power(0.5, [9])
    with pytest.raises(ValueError, match="more prompts than groups"):
        f_power(0.5, [1, 1])
    with pytest.raises(ValueError, match="2 weights and 3 sizes"):
        weighted_means([1, -1], [5, 5, 5])
    with pytest.raises(ValueError, match="give some weight"):
        weighted_means([0, 0], [5, 5])
    with pytest.raises(ValueError, match=r"power is 1\.0"):
        detectable_effect(Precision(0.1, 10), power=1.0)


def test_d_and_shares_of_variance_convert_as_published(oracle):
    # d = 2 f for two equal groups.
    for case in oracle("effect_sizes")["conversions"]:
        assert eta_squared_of_f(case["d"] / 2) == pytest.approx(case["eta2"], abs=6e-5)
        assert 2 * f_of_eta_squared(case["eta2"]) == pytest.approx(case["d"], rel=1e-3)
        assert np.sqrt(eta_squared_of_f(case["d"] / 2)) == pytest.approx(case["r_pb"], abs=6e-5)
