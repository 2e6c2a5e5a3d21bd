"""Bootstrap intervals: scipy's on the same data, coverage, groups, blocks."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import bootstrap
from activation_analysis.statistics.bootstrap import METHODS, bootstrap_interval
from activation_analysis.statistics.effect_size import cohens_d


def mean_gap(a, b):
    return a.mean(axis=0) - b.mean(axis=0)


def trimmed(a):
    return np.sort(a, axis=0)[2:-2].mean(axis=0)


@pytest.mark.parametrize("method", METHODS)
def test_limits_agree_with_scipy(method):
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(25, 3)), rng.exponential(size=(40, 3))
    found = bootstrap_interval(cohens_d, [a, b], rng=rng, method=method, n_resamples=20_000)

    def d(x, y, axis):
        pooled = x.var(axis, ddof=1) * 24 + y.var(axis, ddof=1) * 39
        return (x.mean(axis) - y.mean(axis)) / np.sqrt(pooled / 63)

    peer = stats.bootstrap(
        (a, b), d, axis=0, method=method, n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(found, [peer.low, peer.high], atol=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_interval_covers_the_true_effect_as_often_as_it_says(method):
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.8, size=(50, 4000)), rng.normal(size=(50, 4000))
    low, high = bootstrap_interval(mean_gap, [a, b], rng=rng, method=method, n_resamples=1000)
    assert np.mean((low < 0.8) & (high > 0.8)) == pytest.approx(0.95, abs=0.012)


def test_bca_moves_its_levels_for_bias_and_skew_as_scipy_does():
    # A biased statistic: the variance over n, which resampling makes smaller yet.
    x, rng = np.random.default_rng(1).normal(size=(25, 4)), np.random.default_rng(2)
    found = bootstrap_interval(lambda x: x.var(axis=0), [x], rng=rng, n_resamples=20_000)
    peer = stats.bootstrap((x,), np.var, axis=0, n_resamples=20_000, rng=rng).confidence_interval
    np.testing.assert_allclose(found, [peer.low, peer.high], atol=0.03)
    plain = bootstrap_interval(lambda x: x.var(axis=0), [x], rng=rng, method="percentile")
    assert np.all(found.high > plain.high + 0.1)


def test_templated_prompts_need_their_groups():
    rng = np.random.default_rng(3)
    template = np.repeat(np.arange(20), 5)
    a, b = (
        rng.normal(size=(20, 2000))[template] * np.sqrt(0.5)
        + rng.normal(size=(100, 2000)) * np.sqrt(0.5)
        for _ in range(2)
    )
    covered = {}
    for groups in (None, [template, template + 100]):
        low, high = bootstrap_interval(mean_gap, [a, b], rng=rng, groups=groups, n_resamples=400)
        covered[groups is not None] = np.mean((low < 0) & (high > 0))
    assert covered[True] > 0.91
    assert covered[False] < 0.77


def test_pairs_that_go_together_are_drawn_together():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(30, 50)) * 3
    a, b = shared + rng.normal(size=shared.shape), shared + rng.normal(size=shared.shape)
    item = np.arange(30)
    low, high = bootstrap_interval(mean_gap, [a, b], rng=rng, groups=[item, item])
    change = stats.bootstrap(
        (a - b,), np.mean, axis=0, n_resamples=2000, rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose([low, high], [change.low, change.high], atol=0.15)
    apart = bootstrap_interval(mean_gap, [a, b], rng=rng)
    assert np.mean(apart.high - apart.low) > 2 * np.mean(high - low)


@pytest.mark.parametrize("method", METHODS)
def test_no_limit_depends_on_blocks_or_company(monkeypatch, method):
    a, b = np.random.default_rng(5).normal(size=(2, 15, 40))
    b[3, 9] = np.nan

    def limits(columns=slice(None)):
        return np.array(
            bootstrap_interval(
                cohens_d,
                [a[:, columns], b[:, columns]],
                rng=np.random.default_rng(0),
                method=method,
                n_resamples=200,
            )
        )

    whole = limits()
    assert np.flatnonzero(np.isnan(whole).any(axis=0)).tolist() == [9]
    np.testing.assert_array_equal(whole[:, 4:5], limits(slice(4, 5)))
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 1500)
    np.testing.assert_array_equal(whole, limits())


def test_any_number_of_samples_will_do():
    x = np.random.default_rng(6).normal(3, size=(40, 5))
    low, high = bootstrap_interval(trimmed, [x], rng=np.random.default_rng(0), n_resamples=500)
    assert np.all((low < trimmed(x)) & (trimmed(x) < high) & (high - low < 1.2))


def test_a_constant_unit_has_no_width():
    a = np.ones((5, 1))
    found = bootstrap_interval(mean_gap, [a, a], rng=np.random.default_rng(0), n_resamples=50)
    assert [x[0] for x in found] == [0, 0]


def test_what_does_not_fit_is_refused():
    a, rng = np.zeros((4, 2)), np.random.default_rng(0)
    with pytest.raises(ValueError, match="no bootstrap method 'bc'; known: bca, percentile"):
        bootstrap_interval(mean_gap, [a, a], rng=rng, method="bc")
    with pytest.raises(ValueError, match=r"the samples have shapes \[\(4, 2\), \(4, 1\)\]"):
        bootstrap_interval(mean_gap, [a, a[:, :1]], rng=rng)
    with pytest.raises(ValueError, match=r"20 resamples hold no quantile at 0\.025; at least 40"):
        bootstrap_interval(mean_gap, [a, a], rng=rng, n_resamples=20)
    with pytest.raises(
        ValueError, match=r"groups name \[4, 3\] prompts, the samples have \[4, 4\]"
    ):
        bootstrap_interval(mean_gap, [a, a], rng=rng, groups=[[0, 0, 1, 1], [2, 2, 3]])
    with pytest.raises(ValueError, match=r"hold \[2, 1\] groups"):
        bootstrap_interval(mean_gap, [a, a], rng=rng, groups=[[0, 0, 1, 1], [2, 2, 2, 2]])
