"""Generalised Pareto tails of permutation nulls, against distributions whose tail is known."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.tail import _estimate, tail_p_values


def quantile_of_max_z(p, n_units=2000):
    """Where the largest abs(z) of independent units is exceeded with chance p."""
    return stats.norm.isf(-np.expm1(np.log1p(-p) / n_units) / 2)


def quantile_of_max_t(p, n_units=200):
    return stats.t.isf(-np.expm1(np.log1p(-p) / n_units) / 2, 10)


KNOWN = {"max z": quantile_of_max_z, "max t": quantile_of_max_t, "exponential": stats.expon.isf}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_tail_is_recovered_within_the_stated_error(name):
    isf, rng = KNOWN[name], np.random.default_rng(0)
    at = isf(np.array([1e-2, 1e-3, 1e-4]))
    fits = [tail_p_values(isf(rng.uniform(size=1000)), at, rng=rng) for _ in range(60)]
    found = np.array([fit.p_value for fit in fits if fit.passed])
    assert len(found) >= 55
    off = np.log10(found / [1e-2, 1e-3, 1e-4])
    assert np.all(np.abs(np.median(off, axis=0)) < np.log10([1.2, 1.5, 2.2]))
    low, high = np.quantile(off, [0.1, 0.9], axis=0)
    assert np.all(high < np.log10([1.5, 3, 8]))
    assert np.all(low > np.log10([1 / 2, 1 / 10, 1 / 10]) - 1e-9)  # the floor, at 1e-4
    assert np.all(found >= 1e-5)


def test_the_estimate_finds_shape_and_scale():
    rng = np.random.default_rng(1)
    for shape in (-0.3, 0.2, 0.6):
        draws = stats.genpareto.rvs(shape, scale=2.5, size=(200, 500), random_state=rng)
        found = _estimate(np.sort(draws, axis=1))
        assert found[0].mean() == pytest.approx(shape, abs=0.04)
        assert found[1].mean() == pytest.approx(2.5, abs=0.1)


def test_the_gate_passes_a_pareto_tail_as_often_as_it_says():
    rng = np.random.default_rng(2)
    first = [
        tail_p_values(stats.expon.rvs(size=400, random_state=rng), 0.0, rng=rng).n_exceedances
        == 100
        for _ in range(200)
    ]
    assert 0.90 <= np.mean(first) <= 0.99  # .95 is the chance that the first threshold passes


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_a_lumpy_null_fails_the_gate(step):
    rng = np.random.default_rng(3)
    null = np.round(rng.exponential(size=1000) / step) * step
    fit = tail_p_values(null, np.array([3.0, 8.0, 20.0]), rng=rng)
    assert not fit.passed
    assert np.isnan(fit.p_value).all()


def test_two_values_are_no_tail():
    fit = tail_p_values(np.repeat([1.0, 2.0], 500), 3.0, rng=np.random.default_rng(0))
    assert not fit.passed
    assert np.isnan(fit.fit_p_value)


def test_a_bend_moves_the_threshold_up():
    rng = np.random.default_rng(4)
    # A wide lump up to the 85 % quantile, an exponential tail beyond.
    null = np.r_[rng.uniform(0.9, 1, 850), 3 + rng.exponential(size=150)]
    fit = tail_p_values(null, 3 + np.log(1.5e3), rng=rng)
    assert fit.passed
    assert fit.n_exceedances <= 150
    assert 2e-5 < fit.p_value < 5e-4  # truly 1e-4


def test_only_small_counted_p_values_are_replaced():
    rng = np.random.default_rng(5)
    null = rng.exponential(size=999)
    at = np.quantile(null, [0.2, 0.8, 0.89, 0.91, 0.999])
    fit = tail_p_values(null, np.r_[at, np.nan, 1e6, np.inf], rng=rng)
    assert np.isnan(fit.p_value).tolist() == [True] * 3 + [False] * 2 + [True] + [False] * 2
    assert fit.p_value[3] == pytest.approx(0.09, abs=0.01)  # joins the counted one
    assert fit.p_value[-1] == fit.floor <= fit.p_value[-2]
    assert fit.floor == pytest.approx(1e-5, rel=2e-3)


def test_p_values_and_fit_are_the_formulas():
    rng = np.random.default_rng(8)
    null, at = rng.gumbel(size=1000), np.array([3.5, 5.0])
    fit = tail_p_values(null, at, rng=rng)
    pareto = stats.genpareto(fit.shape, fit.threshold, fit.scale)
    np.testing.assert_allclose(fit.p_value, fit.n_exceedances / 1000 * pareto.sf(at), rtol=1e-9)
    u = np.sort(pareto.cdf(null[null > fit.threshold]))
    n = len(u)
    weights = 2 * np.arange(1, n + 1) - 1
    expected = -n - np.sum(weights * (np.log(u) + np.log1p(-u[::-1]))) / n
    assert fit.fit_statistic == pytest.approx(expected, rel=1e-9)


def test_the_scale_of_the_statistic_does_not_matter():
    null = np.random.default_rng(6).gumbel(size=1000)
    at = np.array([3.0, 5.0, 9.0])
    one = tail_p_values(null, at, rng=np.random.default_rng(0))
    other = tail_p_values(null * 1e6, at * 1e6, rng=np.random.default_rng(0))
    np.testing.assert_allclose(one.p_value, other.p_value, rtol=1e-9)
    assert other.scale == pytest.approx(one.scale * 1e6)
    assert one.fit_p_value == other.fit_p_value


def test_null_p_values_of_the_tail_are_as_frequent_as_they_say():
    rng = np.random.default_rng(7)
    null = quantile_of_max_z(rng.uniform(size=5000))
    p = tail_p_values(null, quantile_of_max_z(rng.uniform(size=200_000)), rng=rng).p_value
    for level in (0.05, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.15)


def test_bad_nulls_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"shape \(199,\) and 199 finite .* at least 200"):
        tail_p_values(np.arange(199.0), 3.0, rng=rng)
    with pytest.raises(ValueError, match="299 finite values"):
        tail_p_values(np.r_[np.arange(299.0), np.nan], 3.0, rng=rng)
