"""Power and minimum detectable effects, and the noncentral t beneath them."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import noncentral_t
from activation_analysis.statistics.power import minimum_detectable_effect, two_sample_power


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
