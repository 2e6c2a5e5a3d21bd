"""Intraclass correlations, and what grouped prompts are worth."""

import numpy as np
import pytest
from grouped_units import layout, null_units

from activation_analysis.statistics import clustering
from activation_analysis.statistics.clustering import (
    design_effect,
    effective_prompts,
    intraclass_correlation,
)

# Shrout & Fleiss (1979), table 2: six targets, four judges; ICC(1,1) = .17 (table 4).
SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]


def test_icc_agrees_with_shrout_and_fleiss():
    x = np.array(SHROUT_FLEISS, dtype=float).reshape(-1, 1)
    assert intraclass_correlation(x, np.repeat(np.arange(6), 4))[0] == pytest.approx(
        0.17, abs=0.005
    )


def test_icc_of_unequal_groups_agrees_with_the_anova_by_hand():
    # Groups (1, 2, 6), (5, 7): MSB = 10.8, MSW = (14 + 2) / 3, n_0 = 5 - 13/5 = 2.4.
    icc = intraclass_correlation(np.array([[1.0], [2], [6], [5], [7]]), list("aaabb"))[0]
    assert icc == pytest.approx((10.8 - 16 / 3) / (10.8 + 1.4 * 16 / 3), rel=1e-12)


@pytest.mark.parametrize(
    "sizes", [([10] * 10, [10] * 10), ([3, 9, 6, 12] * 3, [5, 8, 2, 7, 7] * 2)]
)
def test_icc_is_recovered_beneath_an_effect_of_the_condition(sizes):
    in_first, group = layout(*sizes)
    x = null_units(group, 0.3, 4000) + 5 * in_first[:, None]
    assert intraclass_correlation(x, group, in_first).mean() == pytest.approx(0.3, abs=0.02)
    assert intraclass_correlation(x, group).mean() > 0.8  # the effect passes for likeness


def test_icc_of_crossed_groups_is_recovered_beneath_an_effect():
    in_first, group = layout([5] * 20, [5] * 20, crossed=True)
    x = null_units(group, 0.3, 4000) + 5 * in_first[:, None]
    assert intraclass_correlation(x, group, in_first).mean() == pytest.approx(0.3, abs=0.02)


def test_icc_is_that_of_each_unit_whatever_its_scale_and_block(monkeypatch):
    group = np.repeat(np.arange(6), 4)
    x = null_units(group, 0.5, 50)
    expected = intraclass_correlation(x, group)
    monkeypatch.setattr(clustering, "UNITS_AT_ONCE", 7)
    np.testing.assert_allclose(intraclass_correlation(3e4 * x + 1e6, group), expected, rtol=1e-8)
    np.testing.assert_allclose(intraclass_correlation(x, group), expected, rtol=1e-12)
    halves = (1000 * x).astype(np.float16)  # whose squares would be infinite
    np.testing.assert_allclose(intraclass_correlation(halves, group), expected, atol=0.01)


def test_units_without_variance_have_no_icc():
    x = np.column_stack([np.full(6, 0.1), [1, 2, 3, 4, 5, np.nan], [1, 2, 3, 4, 5, 6.0]])
    icc = intraclass_correlation(x, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(np.isnan(icc), [True, True, False])


def test_grouped_prompts_are_worth_fewer():
    # Kish: 100 prompts in tens at ICC .3 are worth 100 / 3.7.
    assert design_effect(10, 0.3) == pytest.approx(3.7)
    assert effective_prompts(100, 10, 0.3) == pytest.approx(27.027, abs=1e-3)
    assert effective_prompts(100, 10, 1.0) == 10
    assert effective_prompts(100, 1, 0.9) == 100


def test_labels_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); expected one label per prompt"):
        intraclass_correlation(np.zeros((4, 2)), [0, 1, 1])
    with pytest.raises(ValueError, match="4 prompts in 4 groups and 1 condition show no likeness"):
        intraclass_correlation(np.zeros((4, 2)), [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"groups of 0\.5 prompts"):
        design_effect(0.5, 0.1)
