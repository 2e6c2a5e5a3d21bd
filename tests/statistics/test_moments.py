"""Moments of every unit: certified sums of squares, cancellation, what spoils a unit."""

import numpy as np
import pytest

from activation_analysis.statistics import moments as moments_module
from activation_analysis.statistics.moments import Moments, moments
from activation_analysis.statistics.screening import exclusion_reasons
from activation_analysis.statistics.streaming import merged


def groups(n_units, n=20, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, n_units))


def expanded(group):
    """Values from NIST's table of value -> count."""
    values, counts = np.array(group).T
    return np.repeat(values, counts.astype(int))


# Known answers


@pytest.mark.parametrize("dataset", ["SmLs01", "SmLs04", "SmLs05", "SmLs07", "SmLs08"])
def test_moments_reproduce_nists_sum_of_squares(oracle, dataset):
    # NIST StRD one-way ANOVA with up to 13 constant leading digits: within-group sum of squares.
    data = oracle("nist_anova")["datasets"][dataset]
    within = sum(moments(expanded(g)[:, None]).sum_squares[0] for g in data["groups"])
    # At 1e12 a double resolves 1e-4, which is what scipy's test allows as well.
    assert within == pytest.approx(
        data["ss_within"],
        rel=1e-8 if data["F"] and "07" not in dataset and "08" not in dataset else 1e-3,
    )


def test_moments_reproduce_nists_numerical_accuracy_sets(oracle):
    # NIST StRD univariate summary statistics NumAcc1-4.
    alternating = np.tile([-0.1, 0.1], 500)
    for data in oracle("nist_univariate_numacc")["datasets"]:
        x = data.get("data") or np.append(data["mean"], data["mean"] + alternating)
        found = moments(np.asarray(x, dtype=float)[:, None])
        assert found.mean[0] == pytest.approx(data["mean"], rel=1e-14), data["name"]
        # NumAcc4's own values carry 2e-9 of rounding at 1e7.
        assert np.sqrt(found.variance[0]) == pytest.approx(data["sd"], rel=1e-7), data["name"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("n", [2, 31, 32, 33, 400])
def test_moments_agree_with_numpy_in_extended_precision(n, dtype):
    x = (20 * np.random.default_rng(n).normal(3, 1, size=(n, 60))).astype(dtype)
    found, wide = moments(x), x.astype(np.longdouble)
    np.testing.assert_allclose(found.mean, wide.mean(axis=0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(found.variance, wide.var(axis=0, ddof=1).astype(float), rtol=2e-13)


@pytest.mark.parametrize("distance", [1e1, 1e3, 1e6, 1e9])
def test_an_outlier_in_the_first_row_costs_no_digits(distance):
    # It is the value that the others are measured from: its square is all that is left of them.
    x = np.random.default_rng(1).normal(size=(1000, 40))
    x[0] += distance
    found, wide = moments(x), x.astype(np.longdouble)
    expected = np.square(wide - wide.mean(axis=0)).sum(axis=0).astype(float)
    np.testing.assert_allclose(found.sum_squares, expected, rtol=1e-13)


# Invariants


def test_a_shift_moves_the_mean_only():
    x = np.round(np.random.default_rng(2).normal(size=(50, 30)) * 1024) / 1024
    near, far = moments(x), moments(x + 2.0**30)
    np.testing.assert_array_equal(far.sum_squares, near.sum_squares)
    np.testing.assert_array_equal(far.offset, near.offset)


@pytest.mark.parametrize("n", [5, 70])
def test_company_blocks_and_layout_change_no_bit(n, monkeypatch):
    x = np.random.default_rng(3).normal(size=(n, 49))
    x[0, ::3] += 1e5  # those are centred twice
    x[2, 5], x[3, 6] = np.nan, np.inf
    whole = moments(x)
    monkeypatch.setattr(moments_module, "BLOCK_VALUES", 1)
    for again in (moments(x), moments(np.asfortranarray(x))):
        for name in Moments.PER_UNIT:
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    for j in range(49):
        alone = moments(x[:, j : j + 1])
        for name in Moments.PER_UNIT:
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[j])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_outlasts_infinity_and_both_outlast_any_merge(dtype):
    a, b = (x.astype(dtype) for x in groups(6))
    a[1, 1], a[2, 2], b[3, 2] = np.inf, -np.inf, np.inf
    a[0, 3], a[1, 3], a[:, 4], b[0, 5] = np.nan, -np.inf, np.inf, np.nan
    expected = [0, np.inf, np.inf, np.nan, np.inf, np.nan]
    for both in (merged(moments(a), moments(b)), merged(moments(b), moments(a))):
        np.testing.assert_array_equal(both.nonfinite, expected)
    np.testing.assert_array_equal(moments(np.vstack([a, b])).nonfinite, expected)


@pytest.mark.parametrize("value", [0.1, 3e38, -65504.0, 0.0])
def test_a_constant_unit_has_no_spread(value):
    assert not moments(np.full((70, 3), value)).sum_squares.any()


def test_screening_names_the_reason():
    a, b = groups(7)
    a[0, 1], b[2, 2] = np.nan, -np.inf
    a[0, 3], b[0, 3] = np.inf, np.nan
    a[:, 4], b[:, 4] = 0.1, 0.1
    a[:, 5], b[:, 5] = 0.1, 0.3
    a[:, 6] = 0.1
    expected = ["", "nan", "inf", "nan", "constant", "constant", ""]
    assert exclusion_reasons(a, b).tolist() == expected
    assert exclusion_reasons(a.astype(np.float32), b.astype(np.float32)).tolist() == expected
