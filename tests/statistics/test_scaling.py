"""Scaling of units: known values, and what massive units do to a summary."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.scaling import SCALINGS, top_variance_share
from activation_analysis.stats import ActivationStats


def test_scalings_agree_with_scipy():
    x = np.random.default_rng(0).normal(3, 2, size=(41, 7))
    np.testing.assert_allclose(SCALINGS["z"](x), stats.zscore(x, ddof=1), rtol=1e-12)
    mad = stats.median_abs_deviation(x, scale="normal")
    expected = (x - np.median(x, axis=0)) / mad
    np.testing.assert_allclose(SCALINGS["robust_z"](x), expected, rtol=1e-9)
    np.testing.assert_array_equal(SCALINGS["none"](x), x)


@pytest.mark.parametrize("name", ["z", "robust_z"])
def test_a_unit_that_does_not_vary_is_zero_and_no_unit_minds_another(name):
    x = np.random.default_rng(1).normal(size=(20, 4))
    x[:, 2] = 5.0
    scaled = SCALINGS[name](x)
    assert np.all(scaled[:, 2] == 0)
    np.testing.assert_array_equal(SCALINGS[name](x[:, :2]), scaled[:, :2])


def test_one_extreme_prompt_moves_the_mean_and_not_the_median():
    x = np.random.default_rng(2).normal(size=(50, 1))
    x[0] = 1e6
    assert np.abs(SCALINGS["z"](x)[1:]).max() < 0.2
    assert np.abs(SCALINGS["robust_z"](x)[1:]).max() > 1.5


def test_the_share_of_the_top_units():
    assert top_variance_share(np.array([1.0, 2, 3, 4, np.nan])) == pytest.approx(0.9)
    assert top_variance_share(np.ones(300)) == pytest.approx(0.01)
    assert np.isnan(top_variance_share(np.zeros(5)))


def test_massive_units_make_unrelated_representations_look_alike_unless_scaled():
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(2, 30, 200))
    shared = rng.normal(size=30) * 300
    one[:, 5], other[:, 17] = shared, shared
    alike = {
        scaling: ActivationStats.compute_rsa_similarity(one, other, "euclidean", scaling=scaling)
        for scaling in SCALINGS
    }
    assert alike["none"] > 0.95
    assert abs(alike["z"]) < 0.2
    assert abs(alike["robust_z"]) < 0.2


def test_an_unknown_scaling_is_refused():
    x = np.ones((5, 3))
    with pytest.raises(ValueError, match="no scaling 'zz'; known: none, z, robust_z"):
        ActivationStats.compute_rsa_similarity(x, x, scaling="zz")
