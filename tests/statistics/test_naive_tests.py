"""What a test claims that takes grouped prompts for independent."""

import numpy as np
import pytest
from grouped_units import layout, null_units
from scipy import stats

from activation_analysis.statistics.naive_tests import (
    naive_false_positive_rate,
    naive_paired_false_positive_rate,
)


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


@pytest.mark.parametrize(
    ("sizes", "error"),
    [(([10] * 6, [8] * 5, [20] * 4), 0.012), (([20] * 2, [2] * 20, [2] * 20), 0.015)],
    ids=["alike", "one condition of large groups"],
)
@pytest.mark.parametrize("icc", [0.0, 0.2, 0.5])
def test_the_predicted_omnibus_rate_is_the_one_simulated(sizes, error, icc):
    condition = np.repeat(["a", "b", "c"], [sum(s) for s in sizes])
    group = np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes))
    x = null_units(group, icc, 20_000, seed=8)
    p = stats.f_oneway(*(x[condition == c] for c in "abc")).pvalue
    predicted = naive_false_positive_rate(condition, group, icc)
    assert predicted == pytest.approx(np.mean(p < 0.05), abs=error)


def test_designs_that_no_test_compares_are_refused():
    with pytest.raises(ValueError, match=r"intraclass correlation is -0\.2"):
        naive_false_positive_rate(*layout([5], [5]), -0.2)
    with pytest.raises(ValueError, match="alpha is 5"):
        naive_false_positive_rate(*layout([5], [5]), 0.2, 5)
    with pytest.raises(ValueError, match="1 and 5 prompts cannot be tested"):
        naive_false_positive_rate([0, 1, 1, 1, 1, 1], [0, 1, 1, 2, 2, 2], 0.2)
    with pytest.raises(ValueError, match="all prompts are of one condition"):
        naive_false_positive_rate([0, 0], [0, 1], 0.2)
