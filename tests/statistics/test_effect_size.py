"""Cohen's d, Hedges' g and their intervals."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.effect_size import (
    EFFECT_SIZES,
    cohens_d,
    cohens_d_interval,
    d_z,
    d_z_interval,
    hedges_correction,
    hedges_g,
    one_sample_d,
    paired_d_interval,
)
from activation_analysis.statistics.hypothesis_tests import student_t
from activation_analysis.statistics.intervals import noncentrality_interval
from activation_analysis.statistics.moments import moments
from activation_analysis.statistics.noncentral_t import noncentralities_at, noncentrality_at


def column(values) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_d_and_g_agree_with_r(oracle):
    # R effsize cohen.d, in pingouin's tests; exact J by definition.
    data = oracle("effect_sizes")["cohen_hedges_R_effsize"]
    a, b = column(data["a"]), column(data["b"])
    assert cohens_d(a, b)[0] == pytest.approx(data["d"], abs=5e-7)
    assert hedges_correction(10) == pytest.approx(data["J_exact_df10"], rel=1e-12)
    assert hedges_g(a, b)[0] == pytest.approx(data["g_exact_J"], rel=1e-6)
    low, high = cohens_d_interval(cohens_d(a, b), 6, 6)
    assert [low[0], high[0]] == pytest.approx(data["nct_ci95_d"], rel=1e-6)


def test_mtcars_agrees_with_r_effectsize(oracle):
    # R effectsize cohens_d(mpg ~ am), hedges_g(mpg ~ am) of datasets::mtcars.
    data = oracle("effect_sizes")["two_sample_mtcars"]
    a, b = column(data["am0"]), column(data["am1"])
    d = cohens_d(a, b)[0]
    assert d == pytest.approx(data["d"], rel=1e-12)
    assert tuple(cohens_d_interval(d, 19, 13)) == pytest.approx(tuple(data["d_ci95"]), rel=1e-10)
    assert hedges_g(a, b)[0] == pytest.approx(data["g"], rel=1e-12)


def test_noncentrality_agrees_with_mbess(oracle):
    # R MBESS conf.limits.nct(1.5, 98, .95), in statsmodels' tests.
    data = oracle("effect_sizes")["noncentral_t_MBESS"]
    found = noncentrality_interval(data["t"], data["df"])
    # MBESS stops its search at 1e-6 of probability.
    assert tuple(found) == pytest.approx(tuple(data["ncp_ci95"]), abs=3e-6)


def test_paired_interval_agrees_with_r_effectsize(oracle):
    # R effectsize on datasets::sleep: dz = -1.28 [-2.12, -0.41]; here scaled to the pooled SD.
    data = oracle("effect_sizes")["paired_dz_noncentral"]
    a, b = column(data["g1"]), column(data["g2"])
    for limits, confidence in ((data["ci95"], 0.95), (data["ci99"], 0.99)):
        found = paired_d_interval(a, b, confidence=confidence)
        scale = cohens_d(a, b)[0] / data["dz"]
        assert [found.low[0], found.high[0]] == pytest.approx(np.array(limits) * scale, rel=1e-9)


def test_d_from_t_agrees_with_lakens(oracle):
    # Lakens' spreadsheet osf.io/vbdah, in pingouin's tests: d = t sqrt(1/n1 + 1/n2).
    for case in oracle("effect_sizes")["lakens_from_t"]["cases"][1:]:
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(case["n1"], 1)), rng.normal(size=(case["n2"], 1))
        spread = np.sqrt(1 / case["n1"] + 1 / case["n2"])
        # Move one group until t is the spreadsheet's.
        sd = ((a.mean() - b.mean()) / cohens_d(a, b))[0]
        a = a - a.mean() + b.mean() + case["t"] * spread * sd
        assert student_t(a, b).statistic[0] == pytest.approx(case["t"])
        assert cohens_d(a, b)[0] == pytest.approx(case["d"], abs=5e-8)


def test_correction_matches_its_approximation_for_large_df():
    df = np.array([10.0, 100, 1e4, 1e6])
    np.testing.assert_allclose(hedges_correction(df), 1 - 3 / (4 * df - 1), atol=5e-4)
    assert np.all(np.diff(hedges_correction(df)) > 0)


@pytest.mark.parametrize("d", [-2.0, 0.0, 0.3, 5.0, 40.0])
@pytest.mark.parametrize("n", [(2, 2), (4, 9), (60, 60), (3000, 2000)])
def test_interval_limits_put_d_at_the_tail_quantiles(d, n):
    low, high = cohens_d_interval(d, *n, confidence=0.9)
    scale = np.sqrt(1 / n[0] + 1 / n[1])
    # scipy's own nct is NaN for the far cases, and is skipped there.
    reached = stats.nct.cdf(d / scale, sum(n) - 2, np.array([low, high]) / scale)
    usable = ~np.isnan(reached) & (np.abs(d / scale) < 40)
    np.testing.assert_allclose(reached[usable], np.array([0.95, 0.05])[usable], atol=1e-9)
    assert low < d < high


def test_interval_covers_the_true_effect_as_often_as_it_says():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.8, size=(12, 20_000)), rng.normal(size=(20, 20_000))
    low, high = cohens_d_interval(cohens_d(a, b), 12, 20)
    assert np.mean((low < 0.8) & (high > 0.8)) == pytest.approx(0.95, abs=0.006)


def test_paired_interval_covers_the_true_effect_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(20, 10_000)) * np.sqrt(0.7)
    a = 0.5 + shared + rng.normal(size=shared.shape) * np.sqrt(0.3)
    b = shared + rng.normal(size=shared.shape) * np.sqrt(0.3)
    low, high = paired_d_interval(a, b)
    assert np.mean((low < 0.5) & (high > 0.5)) == pytest.approx(0.95, abs=0.02)


def test_g_is_unbiased_and_d_is_not():
    rng = np.random.default_rng(5)
    a, b = rng.normal(1.0, size=(5, 100_000)), rng.normal(size=(5, 100_000))
    assert hedges_g(a, b).mean() == pytest.approx(1.0, abs=0.01)
    assert cohens_d(a, b).mean() > 1.08


def test_swapped_groups_mirror_the_interval():
    low, high = cohens_d_interval(np.array([0.7, np.nan]), 8, 11)
    back = cohens_d_interval(np.array([-0.7, np.nan]), 8, 11)
    np.testing.assert_array_equal(low, -back.high)
    np.testing.assert_array_equal(high, -back.low)
    assert np.isnan(low[1])


def test_d_is_undefined_without_variance_or_with_bad_values():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 4))
    a[:, 0], b[:, 0] = 1, 2
    a[0, 1], b[0, 2] = np.nan, np.inf
    np.testing.assert_array_equal(np.isnan(cohens_d(a, b)), [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(paired_d_interval(a, b).low)[:3], True)


def test_bad_intervals_are_refused():
    with pytest.raises(ValueError, match="confidence is 95; it is a coverage between 0 and 1"):
        cohens_d_interval(0.5, 10, 10, confidence=95)
    with pytest.raises(ValueError, match="groups of 1 and 10 prompts have no interval"):
        cohens_d_interval(0.5, 1, 10)
    with pytest.raises(ValueError, match=r"1 pair\(s\) have no interval; at least 2"):
        d_z_interval(0.5, 1)


def test_d_z_agrees_with_r_effectsize(oracle):
    # R effectsize on datasets::sleep: dz = -1.28 [-2.12, -0.41].
    data = oracle("effect_sizes")["paired_dz_noncentral"]
    a, b = column(data["g1"]), column(data["g2"])
    found = d_z(a, b)
    assert found[0] == pytest.approx(data["dz"], rel=1e-12)
    assert one_sample_d(moments(a - b))[0] == found[0]
    for limits, confidence in ((data["ci95"], 0.95), (data["ci99"], 0.99)):
        low, high = d_z_interval(found, 10, confidence=confidence)
        assert [low[0], high[0]] == pytest.approx(limits, rel=1e-9)


def test_one_sample_d_from_t_agrees_with_lakens(oracle):
    # The spreadsheet's first case has t and a total N only: d = 2 t / sqrt(N).
    case = oracle("effect_sizes")["lakens_from_t"]["cases"][0]
    x = np.random.default_rng(0).normal(size=(case["N"], 1))
    x = x - x.mean() + 2 * case["t"] * x.std(ddof=1) / np.sqrt(case["N"])
    assert one_sample_d(x)[0] == pytest.approx(case["d"], rel=1e-8)


@pytest.mark.parametrize("n", [5, 20])
def test_d_z_interval_covers_the_true_effect_as_often_as_it_says(n):
    change = np.random.default_rng(6).normal(0.6, size=(n, 20_000))
    low, high = d_z_interval(one_sample_d(change), n)
    assert np.mean((low < 0.6) & (high > 0.6)) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("probability", [0.9995, 0.995, 0.975, 0.025])
@pytest.mark.parametrize("df", [2, 18, 398, 5000])
def test_many_noncentralities_are_within_1e_9_of_the_exact_ones(df, probability):
    rng = np.random.default_rng(7)
    t = np.sort(np.r_[0, rng.exponential(3, size=1500), rng.uniform(0, 80, size=300), 1e5])
    found = noncentralities_at(t, df, probability)
    exact = noncentrality_at(t, df, probability)
    assert np.all(np.abs(found - exact) <= 1e-9 * np.maximum(1, t))
    assert np.all(np.diff(found) > 0)


def test_noncentralities_far_out_keep_the_ratio_of_the_spread():
    # As t grows, noncentrality / t tends to a quantile of the spread, sqrt(chi2 / df).
    for df in (2, 18, 398):
        t = np.array([1e6, 1e9, 1e300])
        expected = np.sqrt(stats.chi2.isf([[0.975], [0.025]], df) / df)
        found = np.array([noncentrality_at(t, df, p) / t for p in (0.975, 0.025)])
        np.testing.assert_allclose(found[:, 1:], np.repeat(expected, 2, axis=1), rtol=1e-9)
        seam = 200 * np.sqrt(2 * df) * np.array([1 - 1e-9, 1 + 1e-9])
        inner, outer = noncentrality_at(seam, df, 0.975)
        assert outer == pytest.approx(inner, rel=1e-8)
    assert np.isnan(noncentrality_interval(np.array([np.inf, np.nan, 1.0])[:2], 10).low).all()


def test_a_units_interval_does_not_depend_on_its_company():
    d = np.random.default_rng(8).normal(size=5000)
    low, high = cohens_d_interval(d, 20, 30)
    alone = cohens_d_interval(d[:50], 20, 30)
    np.testing.assert_allclose([low[:50], high[:50]], alone, atol=1e-9)


@pytest.mark.parametrize("name", EFFECT_SIZES)
def test_swapped_groups_mirror_every_effect(name):
    a, b = np.random.default_rng(9).normal(size=(2, 12, 30))
    middle = 0.5 if name == "common_language_effect" else 0
    there, back = EFFECT_SIZES[name](a, b) - middle, EFFECT_SIZES[name](b, a) - middle
    np.testing.assert_allclose(there, -back, atol=1e-14)
    assert np.all(EFFECT_SIZES[name](a + 1, b) > there + middle)


def test_a_constant_difference_has_no_d_z():
    a = np.random.default_rng(11).normal(size=(6, 2))
    a[:, 0] = np.arange(6)
    assert np.isnan(d_z(a, a - 3)[0])
    assert np.isnan(one_sample_d(np.zeros((6, 1)))[0])


@pytest.mark.parametrize("name", EFFECT_SIZES)
def test_a_bad_unit_spoils_no_other(name):
    a, b = np.random.default_rng(10).normal(size=(2, 12, 30))
    clean = EFFECT_SIZES[name](a, b)
    a[3, 4], b[0, 5] = np.nan, np.inf
    found = EFFECT_SIZES[name](a, b)
    assert np.flatnonzero(np.isnan(found)).tolist() == [4, 5]
    np.testing.assert_array_equal(np.delete(found, [4, 5]), np.delete(clean, [4, 5]))
