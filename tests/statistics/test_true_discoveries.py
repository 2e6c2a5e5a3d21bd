"""Bounds on true effects, against closed testing by brute force and planted effects."""

import itertools

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics.multiplicity import adjust
from activation_analysis.statistics.true_discoveries import (
    lower_bound,
    simes_family,
    simes_h,
    true_discoveries,
)


def simes_rejects(p, alpha):
    return bool(np.any(np.sort(p) * len(p) <= alpha * np.arange(1, len(p) + 1)))


def bounds_by_closed_testing(p, alpha):
    """For every subset: its size, less its largest part inside an unrejected set."""
    subsets = range(1, 2 ** len(p))
    members = [
        np.array([s >> i & 1 for i in range(len(p))], dtype=bool) for s in range(2 ** len(p))
    ]
    kept = [s for s in subsets if not simes_rejects(p[members[s]], alpha)]
    return {
        s: members[s].sum() - max(((s & k).bit_count() for k in kept), default=0) for s in subsets
    }, members


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8])
def test_every_subset_has_the_bound_of_closed_testing(m):
    rng = np.random.default_rng(m)
    for alpha, power in itertools.product((0.05, 0.3), (1, 3, 8)):
        p = rng.uniform(size=m) ** power
        family = simes_family(p, alpha)
        expected, members = bounds_by_closed_testing(p, alpha)
        assert family.at_least == expected[2**m - 1]
        for s, bound in expected.items():
            assert lower_bound(p[members[s]], family) == bound


def test_ten_units_have_the_bounds_of_closed_testing():
    p = np.random.default_rng(0).uniform(size=10) ** 4
    family = simes_family(p, 0.1)
    expected, members = bounds_by_closed_testing(p, 0.1)
    found = {s: lower_bound(p[members[s]], family) for s in expected}
    assert found == expected
    assert len(set(found.values())) > 3


def test_h_is_the_largest_set_of_large_p_values_that_simes_does_not_reject():
    rng = np.random.default_rng(1)
    for power, m in itertools.product((1, 2, 6, 20), (1, 4, 30, 200)):
        p = np.sort(rng.uniform(size=m) ** power)
        by_hand = max(
            (i for i in range(1, m + 1) if not simes_rejects(p[m - i :], 0.05)), default=0
        )
        assert simes_h(rng.permutation(p), 0.05) == by_hand


def test_single_units_are_hommels_rejections(oracle):
    # R p.adjust(method="hommel"): a unit alone is a true effect where its adjusted p <= alpha.
    data = oracle("multiple_testing")["hommel_40"]
    for alpha in (0.04, 0.05, 0.26, 0.6, 0.9):
        family = simes_family(data["p"], alpha)
        found = [lower_bound(p, family) for p in data["p"]]
        np.testing.assert_array_equal(found, np.array(data["adj"]) <= alpha)


def test_many_sets_at_once_have_the_bounds_of_each():
    rng = np.random.default_rng(2)
    p = rng.uniform(size=3000) ** rng.integers(1, 9, size=3000)
    p[::50] = np.nan
    sets = rng.integers(-1, 12, size=3000)
    sets[sets == 5] = 4  # and set 5 is empty
    family = simes_family(p)
    found = true_discoveries(p, sets, family)
    assert found.at_least.tolist() == [lower_bound(p[sets == s], family) for s in range(12)]
    assert found.set_size.tolist() == [np.sum(~np.isnan(p[sets == s])) for s in range(12)]
    assert found.at_least[5] == 0
    assert np.isnan(found.share[5])
    assert lower_bound(p, family) == family.at_least > found.at_least.max()


def test_a_set_has_at_least_the_bound_of_its_parts():
    rng = np.random.default_rng(3)
    p = rng.uniform(size=2000) ** 4
    family = simes_family(p)
    halves = [lower_bound(part, family) for part in np.split(p, 2)]
    assert family.at_least >= sum(halves) > 0


def test_missing_p_values_change_no_bound():
    p = np.random.default_rng(4).uniform(size=500) ** 5
    with_missing = np.insert(p, [7, 300], np.nan)
    assert simes_family(with_missing) == simes_family(p)
    assert lower_bound(with_missing, simes_family(p)) == simes_family(p).at_least


@pytest.mark.parametrize("shared", [0.0, 0.5])  # share of variance common to all units
@pytest.mark.parametrize("n_true", [0, 40])
def test_no_bound_of_any_set_is_too_large_more_often_than_alpha(n_true, shared):
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        z = np.sqrt(1 - shared) * rng.normal(size=200) + np.sqrt(shared) * rng.normal()
        true = np.arange(200) < n_true
        p = 2 * stats.norm.sf(np.abs(z + 4 * true))
        family = simes_family(p)
        # The worst set has all true effects out: any discovery among the nulls is too much. With
        # effects in, the k nulls of smallest p beside all true effects are the next worst.
        nulls = np.sort(p[~true])
        worst = [lower_bound(np.r_[p[true], nulls[:k]], family) > n_true for k in (1, 5, 50, 200)]
        wrong += lower_bound(nulls, family) > 0 or any(worst)
    assert wrong <= 68  # 99.5 % point of binomial(1000, .05)


def test_planted_effects_are_counted_in_their_layer():
    rng = np.random.default_rng(7)  # 1 seed in 20 may put a false discovery elsewhere
    p = 2 * stats.norm.sf(np.abs(rng.normal(size=(12, 1000))))
    p[7, :300] = 2 * stats.norm.sf(np.abs(rng.normal(5, size=300)))
    layer = np.repeat(np.arange(12), 1000)
    found = true_discoveries(p, layer, simes_family(p))
    assert 200 < found.at_least[7] <= 300
    assert found.at_least[np.arange(12) != 7].sum() == 0
    assert found.share[7] == found.at_least[7] / 1000
    # More than half of a set that was chosen for its p-values.
    assert lower_bound(np.sort(p[7])[:300], found.family) > 150
    # No fewer than Holm's rejections, none of which is false.
    assert found.family.at_least >= adjust(p, control="holm").rejected.sum()


def test_extremes():
    assert simes_family([]).at_least == 0
    assert simes_family(np.zeros(5)).at_least == 5
    assert simes_family(np.ones(5)).at_least == 0
    assert simes_family([0.0, 0.0, 1.0]).at_least == 2
    assert lower_bound([], simes_family([0.2])) == 0


def test_bad_families_and_sets_are_refused():
    with pytest.raises(ValueError, match=r"1 of 2 p-values lie outside 0\.\.1, first 3"):
        simes_family([0.1, 3])
    with pytest.raises(ValueError, match="alpha is 5; it is an error rate between 0 and 1"):
        simes_family([0.1], alpha=5)
    family = simes_family([0.1, 0.2])
    with pytest.raises(ValueError, match="2 p-values but 3 set numbers"):
        true_discoveries([0.1, 0.2], [0, 1, 1], family)
    with pytest.raises(ValueError, match="3 units with p-values, but their family only 2"):
        lower_bound([0.1, 0.2, 0.3], family)
