"""Fisher's exact test of many tables at once, against scipy's of one."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.contingency import fisher_exact


def test_the_lady_tasting_tea():
    # Fisher (1935): three of four cups right, one-sided p 17/70, two-sided 34/70.
    assert fisher_exact(np.array([3]), np.array([4]), 4, 8) == pytest.approx(34 / 70)


def test_every_table_agrees_with_scipy():
    rng = np.random.default_rng(0)
    for n_class, n in ((60, 120), (7, 40), (100, 130)):
        total = rng.integers(0, n + 1, size=60)
        hits = np.array([rng.hypergeometric(n_class, n - n_class, t) if t else 0 for t in total])
        found = fisher_exact(hits, total, n_class, n)
        for k, t, p in zip(hits, total, found, strict=True):
            table = [[k, n_class - k], [t - k, n - n_class - t + k]]
            assert p == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-9)


def test_swapped_classes_say_the_same():
    hits, total = np.array([1, 5, 9]), np.array([6, 9, 12])
    other = fisher_exact(total - hits, total, 25, 40)
    np.testing.assert_allclose(fisher_exact(hits, total, 15, 40), other)


def test_impossible_tables_are_refused():
    with pytest.raises(ValueError, match="no table of 10"):
        fisher_exact(np.array([5]), np.array([4]), 5, 10)
