"""Moments that arrive in pieces: known answers, any order of merging, planted offsets, refusals."""

from functools import reduce

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.effect_size import cohens_d, hedges_g
from activation_analysis.statistics.hypothesis_tests import (
    CONTRAST_TESTS,
    MEAN_TESTS,
    MOMENT_TESTS,
    TESTS,
)
from activation_analysis.statistics.moments import Moments, moments, side_by_side
from activation_analysis.statistics.screening import exclusion_reasons
from activation_analysis.statistics.streaming import added, merged, packed, unpacked

every_moment_test = pytest.mark.parametrize("test", MOMENT_TESTS)


def by_scipy(test, a, b):
    a, b = a.astype(float), b.astype(float)
    if test == "f":
        return stats.f_oneway(a, b)
    return stats.ttest_ind(a, b, equal_var=test == "student")


def streamed(x: np.ndarray, size: int) -> Moments:
    """Moments of all rows, taken in so many at a time."""
    known = None
    for start in range(0, len(x), size):
        known = added(known, x[start : start + size])
    return known


def groups(n_a=37, n_b=53, n_units=200, shift=0.4, seed=0):
    rng = np.random.default_rng(seed)
    a = 2 * rng.normal(size=(n_a, n_units)) + shift + 3
    return a.astype(np.float32), (rng.normal(size=(n_b, n_units)) + 3).astype(np.float32)


# Known answers


@pytest.mark.parametrize("size", [1, 7, 64, 2000])
def test_batches_reproduce_nists_numerical_accuracy_sets(oracle, size):
    # NIST StRD univariate summary statistics NumAcc1-4.
    alternating = np.tile([-0.1, 0.1], 500)
    for data in oracle("nist_univariate_numacc")["datasets"]:
        x = data.get("data") or np.append(data["mean"], data["mean"] + alternating)
        found = streamed(np.asarray(x, dtype=float)[:, None], size)
        assert found.mean[0] == pytest.approx(data["mean"], rel=1e-14), data["name"]
        # NumAcc4's own values carry 2e-9 of rounding at 1e7.
        assert np.sqrt(found.variance[0]) == pytest.approx(data["sd"], rel=1e-7), data["name"]


@pytest.mark.parametrize("size", [1, 7, 37])
def test_batches_agree_with_numpys_mean_and_variance(size):
    x, _ = groups()
    found = streamed(x, size)
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=float), rtol=1e-14)
    np.testing.assert_allclose(found.variance, x.var(axis=0, ddof=1, dtype=float), rtol=1e-13)
    np.testing.assert_array_equal(found.nonfinite, 0)
    assert (len(found), found.n_units) == x.shape


@every_moment_test
@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_stream_agrees_with_scipy_on_all_of_the_data(test, size):
    a, b = groups()
    found = TESTS[test](streamed(a, size), streamed(b, size))
    expected = by_scipy(test, a, b)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)
    df = 1 if test == "f" else expected.df
    np.testing.assert_allclose(found.df, np.broadcast_to(df, 200), rtol=1e-12)


# Invariants


@pytest.mark.parametrize("test", MEAN_TESTS)
def test_moments_answer_bit_for_bit_as_the_arrays_that_they_are_of(test):
    a, b = groups()
    there, here = TESTS[test](a, b), TESTS[test](moments(a), moments(b))
    for name in ("statistic", "p_value", "df"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    for effect in (cohens_d, hedges_g):
        np.testing.assert_array_equal(effect(moments(a), moments(b)), effect(a, b))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_merging_shows_at_rounding_only(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(97, 50)) * rng.uniform(0.1, 10, 50) + rng.normal(size=50)
    whole = moments(x)
    rows = np.split(rng.permutation(97), np.sort(rng.choice(96, 9, replace=False)) + 1)
    parts = [moments(x[r]) for r in rows]
    for tree in (
        reduce(merged, parts),
        reduce(merged, parts[::-1]),
        merged(reduce(merged, parts[:4]), reduce(merged, parts[4:])),
        reduce(lambda a, b: merged(b, a), parts),
    ):
        assert tree.n == 97
        np.testing.assert_allclose(tree.sum_squares, whole.sum_squares, rtol=1e-13)
        sd = np.sqrt(whole.variance)
        assert np.abs((tree.mean - whole.mean) / sd).max() < 1e-14


@every_moment_test
def test_a_large_offset_loses_nothing_where_raw_sums_lose_everything(test):
    a, b = (x + np.float32(1e4) for x in groups(shift=0.1))
    found = TESTS[test](streamed(a, 3), streamed(b, 3)).statistic
    expected = by_scipy(test, a, b)
    np.testing.assert_allclose(found, expected.statistic, rtol=1e-9)
    sums, squares = a.sum(axis=0), (a**2).sum(axis=0)
    raw = (squares - sums**2 / len(a)) / (len(a) - 1)
    assert np.median(np.abs(raw / a.var(axis=0, ddof=1, dtype=float) - 1)) > 0.5


@pytest.mark.parametrize("value", [0.1, -3e38, 1e-45, 0.0])
def test_a_constant_unit_has_no_spread_whatever_its_batches(value):
    x = np.full((50, 3), value, dtype=np.float32)
    found = streamed(x, 7)
    assert found.sum_squares.tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(found.mean, x[0].astype(float))


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_screening_of_a_stream_is_that_of_the_whole_data(size):
    a, b = groups(n_units=12)
    a[0, 1], b[2, 2] = np.nan, -np.inf
    a[0, 3], b[0, 3] = np.inf, np.nan
    a[4, 4], a[5, 4] = np.inf, -np.inf
    a[:, 5], b[:, 5] = 0.1, 0.1
    a[:, 6], b[:, 6] = 0.1, 0.3
    a[:, 7] = 0.1
    a[:, 8], b[:, 8] = np.inf, np.inf
    a[:, 9], b[:, 9] = 0.0, np.where(np.arange(len(b)) % 2, 0.0, -0.0)
    a[:, 10], b[:, 10] = 0.1, 0.1
    b[-1, 10] = np.nextafter(np.float32(0.1), np.float32(1))
    found = exclusion_reasons(streamed(a, size), streamed(b, size))
    expected = ["", "nan", "inf", "nan", "inf", "constant", "constant", "", "inf", "constant"]
    assert found.tolist() == [*expected, "", ""]
    np.testing.assert_array_equal(found, exclusion_reasons(a, b))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32(3e38)])
def test_a_bad_value_spoils_its_own_unit_only(bad):
    a, b = groups()
    clean = TESTS["welch"](streamed(a, 5), streamed(b, 5)).statistic
    a[11, 7] = bad
    found = TESTS["welch"](streamed(a, 5), streamed(b, 5)).statistic
    others = np.arange(200) != 7
    np.testing.assert_array_equal(found[others], clean[others])
    assert np.isnan(found[7]) == (not np.isfinite(bad))


def test_what_is_packed_comes_back_equal():
    known = streamed(groups()[0], 7)
    back = unpacked(known.n, packed(known))
    for name in Moments.PER_UNIT:
        np.testing.assert_array_equal(getattr(back, name), getattr(known, name))


def test_units_apart_and_side_by_side_are_the_same_units():
    a, _ = groups(n_units=9)
    known = moments(a)
    apart = [known.at(slice(i, i + 1)) for i in range(9)]
    np.testing.assert_array_equal(packed(side_by_side(apart)), packed(known))
    np.testing.assert_array_equal(side_by_side([a[:, :4], a[:, 4:]]), a)


# Planted effects


@every_moment_test
def test_a_planted_effect_is_found_and_null_units_are_uniform(test):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(30, 20_000)), rng.normal(size=(40, 20_000))
    a[:, 42] += 3.0
    found = TESTS[test](streamed(a, 4), streamed(b, 11))
    assert np.argmin(found.p_value) == np.argmax(found.statistic) == 42
    assert stats.kstest(np.delete(found.p_value, 42), "uniform").statistic < 0.012


# Refusals


@pytest.mark.parametrize("test", sorted(set(CONTRAST_TESTS) - {*MOMENT_TESTS, "glm_t", "glm_f"}))
def test_a_test_of_all_values_refuses_moments(test):
    a, b = map(moments, groups())
    with pytest.raises(ValueError, match=r"by its moments only.*or use a test .* student or welch"):
        TESTS[test](*((a,) if test == "one_sample" else (a, b)))


def test_moments_and_values_are_not_compared_with_each_other():
    a, b = groups()
    with pytest.raises(ValueError, match="second group is known by its moments only"):
        TESTS["welch"](a, moments(b))


def test_unusable_moments_are_refused():
    a, b = groups()
    with pytest.raises(ValueError, match=r"first group has 1 prompt\(s\); at least two"):
        TESTS["student"](moments(a[:1]), moments(b))
    with pytest.raises(ValueError, match="200 and 150 units"):
        TESTS["student"](moments(a), moments(b[:, :150]))
    with pytest.raises(ValueError, match="200 and of 150 units do not merge"):
        merged(moments(a), moments(b[:, :150]))
