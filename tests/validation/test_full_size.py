"""The goals of docs/validation.md, at full size: ``pytest --slow tests/validation``, minutes."""

from __future__ import annotations

import pytest

from activation_analysis.statistics.hypothesis_tests import TESTS
from benchmarks.validation import (
    coverage,
    dependence,
    false_positives,
    families,
    real_activations,
    selection,
    tails,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("test", TESTS)
def test_false_positives_of_every_test_are_five_percent_or_exempt_by_nature(test):
    for law in false_positives.DISTRIBUTIONS:
        for n in false_positives.SIZES:
            sizes = (n,) * false_positives.N_GROUPS.get(test, 2)
            cell = false_positives.false_positives(test, law, sizes, n_simulations=40_000)
            assert cell.within_goal or cell.exempt, cell


@pytest.mark.parametrize("test", false_positives.PERMUTED)
def test_permutation_p_is_at_the_level_that_its_relabellings_attain(test):
    for law in false_positives.DISTRIBUTIONS:
        for n in (5, 10):
            cell = false_positives.permutation_false_positives(test, law, n, n_simulations=20_000)
            assert cell.rate.value <= 0.055, cell
            if law != "float16" and cell.attainable == cell.attainable:
                assert abs(cell.rate.value - cell.attainable) < 0.006, cell


def test_welch_is_right_where_student_is_wrong():
    for sds in ((3.0, 1.0), (1.0, 3.0)):
        cell = false_positives.false_positives(
            "welch", "normal", (20, 60), n_simulations=40_000, sds=sds
        )
        assert cell.within_goal


@pytest.mark.real
def test_max_t_keeps_the_family_wise_error_on_activations_of_the_embedded_model(embedded_capture):
    x = real_activations.activations(real_activations.one_condition(), embedded_capture)
    assert x.shape[1] == 115_200
    low, high = real_activations.GOAL
    assert low <= real_activations.pooled_splits(x, 1000).any_significant.value <= high
    honest = real_activations.honest_runs(x, 300)
    assert honest.any_significant.agrees_with(low, high)


@pytest.mark.parametrize("test", ["student", "welch"])
@pytest.mark.parametrize("shift", [0.0, families.SHIFT])
@pytest.mark.parametrize("step_down", [False, True])
def test_max_t_over_several_contrasts_keeps_the_family_wise_error(step_down, shift, test):
    found = families.joint_families(500, step_down=step_down, shift=shift, test=test)
    assert found.error.is_at_most(0.05)


@pytest.mark.parametrize("share", families.PLANTED)
def test_the_mean_false_discovery_proportion_is_at_most_q(share):
    found = families.discoveries(1000, share_planted=share)
    for control in families.FALSE_DISCOVERY:
        assert found[control].mean_fdp.is_at_most(0.05), control
    for control in ("bonferroni", "holm"):
        assert found[control].any_false.is_at_most(0.05), control


def test_intervals_cover_94_to_96_percent_or_as_stated():
    for cell in coverage.coverages(20_000):
        in_goal = coverage.GOAL[0] <= cell.rate.value <= coverage.GOAL[1]
        assert in_goal or cell.as_stated, cell


@pytest.mark.parametrize("true_sd", [0.0, 0.25, 0.5])
def test_held_out_effects_are_unbiased_where_in_sample_ones_are_far_off(true_sd):
    found = selection.selection(400, n=50, true_sd=true_sd)
    assert found.in_sample.value > selection.GOAL_IN_SAMPLE
    assert abs(found.held_out_g.value) < selection.GOAL_HELD_OUT
    if found.truth.mean() < 1:  # beyond, the small-sample bias of d itself is larger
        assert abs(found.held_out.value) < selection.GOAL_HELD_OUT
    assert found.covered.agrees_with(0.94, 0.96)


@pytest.mark.parametrize("icc", dependence.ICCS)
def test_groups_keep_the_error_rate_of_templated_prompts(icc):
    found = dependence.templates(20_000, icc)
    for rate in (found.means, found.welch_means, found.permuted):
        assert 0.04 <= rate.value <= 0.06
    assert dependence.template_families(2000, icc).blocks.is_at_most(0.05)


@pytest.mark.parametrize("errors", ["normal", "t3", "lognormal"])
def test_freedman_lane_keeps_the_error_rate_beside_a_confounded_nuisance(errors):
    for n in (10, 50):
        found = dependence.confounded(100_000, n=n, errors=errors)
        assert 0.045 <= found.freedman_lane.value <= 0.055


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("noise", tails.NOISE)
def test_bounds_of_sets_chosen_after_looking_hold(noise, share):
    found = tails.bounds(400, noise=noise, share_planted=share)
    assert found.too_large.is_at_most(0.05)


def test_a_known_tail_is_found_within_what_is_stated():
    assert tails.tail(400, 1e-3).within.value >= 0.85
