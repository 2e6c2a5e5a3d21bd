"""Intraclass correlations, and what a test that ignores them would claim."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import clustering
from activation_analysis.statistics.clustering import (
    design_effect,
    effective_prompts,
    intraclass_correlation,
    naive_false_positive_rate,
    naive_paired_false_positive_rate,
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


def layout(sizes_a, sizes_b, *, crossed=False):
    """Conditions and groups of every prompt."""
    first = np.repeat(np.arange(len(sizes_a)), sizes_a)
    second = np.repeat(np.arange(len(sizes_b)), sizes_b) + (0 if crossed else len(sizes_a))
    return np.repeat([True, False], [len(first), len(second)]), np.r_[first, second]


def null_units(group, icc, n_units, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(group.max() + 1, n_units))[group]
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * rng.normal(size=shared.shape)


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


@pytest.mark.parametrize(("icc", "said"), [(0.1, 0.15), (0.3, 0.33), (0.5, 0.42)])
def test_ten_templates_of_ten_fillers_mislead_as_measured(icc, said):
    # shared/facts/STATISTICS.md, section 3: .15, .33, .42 by simulation.
    for n in (5, 10):  # ten templates in all, or in each condition
        predicted = naive_false_positive_rate(*layout([10] * n, [10] * n), icc)
        assert predicted == pytest.approx(said, abs=0.02)


@pytest.mark.parametrize(
    ("design", "error"),
    [
        (layout([10] * 10, [10] * 10), 0.008),
        (layout([10] * 2, [10] * 2), 0.012),
        (layout([5, 10, 20, 40], [3, 30, 7, 7, 7, 20]), 0.012),
        (layout([5] * 10, [5] * 10, crossed=True), 0.006),
        (layout([2, 8, 5, 9, 1], [8, 2, 5, 3, 9], crossed=True), 0.015),
    ],
    ids=["nested", "two a side", "unequal", "crossed", "crossed unequal"],
)
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3, 0.9])
def test_the_predicted_rate_is_the_one_simulated(design, error, icc):
    in_first, group = design
    x = null_units(group, icc, 20_000, seed=6)  # standard error at most .0035
    found = np.mean(stats.ttest_ind(x[in_first], x[~in_first]).pvalue < 0.05)
    assert naive_false_positive_rate(in_first, group, icc) == pytest.approx(found, abs=error)


def test_the_predicted_paired_rate_is_the_one_simulated():
    group = np.repeat(np.arange(10), 10)
    found = np.mean(stats.ttest_1samp(null_units(group, 0.3, 20_000), 0).pvalue < 0.05)
    assert naive_paired_false_positive_rate(group, 0.3) == pytest.approx(found, abs=0.01)
    assert naive_paired_false_positive_rate(np.arange(30), 0.3) == pytest.approx(0.05, rel=1e-9)


def test_unrelated_prompts_cost_nothing_and_groups_ever_more():
    nested = layout([10] * 5, [10] * 5)
    assert naive_false_positive_rate(*nested, 0.0, 0.01) == pytest.approx(0.01, rel=1e-9)
    assert naive_false_positive_rate(*layout([1] * 9, [1] * 9), 0.5) == pytest.approx(
        0.05, rel=1e-9
    )
    rates = [naive_false_positive_rate(*nested, icc) for icc in (0, 0.1, 0.3, 0.6, 0.95)]
    assert np.all(np.diff(rates) > 0)
    crossed = layout([2] * 9, [2] * 9, crossed=True)
    rates = [naive_false_positive_rate(*crossed, icc) for icc in (0, 0.1, 0.3, 0.6, 0.95)]
    assert np.all(np.diff(rates) < 0)


def test_prompts_wholly_alike_are_always_or_never_significant():
    assert naive_false_positive_rate(*layout([5], [5]), 1.0) == 1.0
    assert naive_false_positive_rate(*layout([5], [5], crossed=True), 1.0) == 0.0


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
    with pytest.raises(ValueError, match=r"intraclass correlation is -0\.2"):
        naive_false_positive_rate(*layout([5], [5]), -0.2)
    with pytest.raises(ValueError, match="alpha is 5"):
        naive_false_positive_rate(*layout([5], [5]), 0.2, 5)
    with pytest.raises(ValueError, match=r"groups of 0\.5 prompts"):
        design_effect(0.5, 0.1)
