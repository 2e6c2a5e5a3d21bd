"""Error rates at small size: the functions of docs/validation.md, with bounds that chance keeps.

A bound fails once in a million runs where the rate is what it should be; seeds are fixed besides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from workbench import ROOT

from activation_analysis.statistics.hypothesis_tests import TESTS
from benchmarks.validation import __main__ as validation
from benchmarks.validation import (
    coverage,
    dependence,
    false_positives,
    families,
    real_activations,
    selection,
    tails,
)
from benchmarks.validation.rates import Mean, Rate, table

N = 2000
DOCUMENT = ROOT / "docs" / "validation.md"


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("test", TESTS)
def test_a_null_unit_is_called_significant_in_five_of_a_hundred(test, n):
    sizes = (n,) * false_positives.N_GROUPS.get(test, 2)
    for law in false_positives.DISTRIBUTIONS:
        cell = false_positives.false_positives(test, law, sizes, n_simulations=N)
        assert cell.rate.agrees_with(*cell.allowed), (law, cell.rate)


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("test", ["mannwhitney", "wilcoxon"])
def test_rank_tests_reject_as_often_as_their_exact_null_allows(test, n):
    cell = false_positives.false_positives(test, "normal", (n, n), n_simulations=N)
    assert cell.rate.agrees_with(cell.attainable, cell.attainable)


def test_the_attainable_level_is_that_of_the_printed_tables():
    # Mann & Whitney (1947): P(U <= 2) = .016 at 5 and 5; signed ranks: P(V <= 8) = .0244 at 10.
    assert false_positives.attainable_level("mannwhitney", (5, 5)) == pytest.approx(8 / 252)
    assert false_positives.attainable_level("wilcoxon", (10, 10)) == pytest.approx(50 / 1024)
    assert false_positives.attainable_level("wilcoxon", (5, 5)) == 0


def test_unequal_sizes_and_variances_fool_student_and_not_welch():
    cells = {
        test: false_positives.false_positives(
            test, "normal", (20, 60), n_simulations=N, sds=(3.0, 1.0)
        ).rate
        for test in ("student", "welch")
    }
    assert cells["student"].value > 0.15
    assert cells["welch"].agrees_with(0.045, 0.055)


@pytest.mark.parametrize("test", false_positives.PERMUTED)
def test_permutation_p_keeps_its_level_whatever_the_distribution(test):
    for law in ("t3", "lognormal", "float16"):
        cell = false_positives.permutation_false_positives(
            test, law, 10, n_simulations=1000, n_permutations=199, n_chunks=5
        )
        assert cell.rate.agrees_with(0.04, 0.055), (law, cell.rate)


@pytest.mark.parametrize("shift", [0.0, families.SHIFT])
@pytest.mark.parametrize("step_down", [False, True])
def test_one_family_over_contrasts_keeps_its_error_rate(step_down, shift):
    found = families.joint_families(
        12, step_down=step_down, shift=shift, n_units=20, n_permutations=59
    )
    assert found.error.agrees_with(0.0, 0.05)


def test_false_discoveries_are_as_few_as_promised():
    found = families.discoveries(30, share_planted=0.1, n_units=500)
    for control in families.FALSE_DISCOVERY:
        assert found[control].mean_fdp.is_at_most(0.05, standard_errors=4)
    for control in ("bonferroni", "holm"):
        assert found[control].any_false.agrees_with(0.0, 0.05)
    assert found["fdr_bh"].power.value > found["fdr_by"].power.value > 0


def test_intervals_cover_as_stated():
    for cell in coverage.coverages(1000):
        low, high = min(0.94, cell.stated[0]), max(0.96, cell.stated[1])
        assert cell.rate.agrees_with(low, min(high, 1 - 1e-9)), cell


def test_the_strongest_units_are_measured_without_the_luck_that_chose_them():
    found = selection.selection(15, n=50, n_units=2000)
    assert found.in_sample.value > selection.GOAL_IN_SAMPLE
    assert abs(found.held_out.value) < 5 * found.held_out.standard_error
    assert found.covered.agrees_with(0.94, 0.96)


def test_templates_fool_a_test_of_prompts_and_not_one_by_group():
    found = dependence.templates(1000, 0.5)
    assert found.naive.value > 0.3
    for rate in (found.means, found.welch_means, found.permuted):
        assert rate.agrees_with(0.04, 0.06)
    family = dependence.template_families(20, 0.5, n_units=20)
    assert family.naive.value > 0.8
    assert family.blocks.agrees_with(0.0, 0.05)


def test_a_nuisance_fools_a_test_that_does_not_know_it():
    found = dependence.confounded(2000)
    assert found.naive.value > 0.12
    assert found.adjusted.agrees_with(0.045, 0.055)
    assert found.freedman_lane.agrees_with(0.045, 0.055)


def test_a_tail_is_about_right_and_bounds_of_true_effects_are_not_too_large():
    found = tails.tail(15, 1e-3, n_units=100)
    assert found.passed.value > 0.8
    assert 1 / 3 < found.median_ratio < 3
    for noise in tails.NOISE:
        bound = tails.bounds(20, noise=noise, share_planted=0.3, n_layers=5)
        assert bound.too_large.agrees_with(0.0, 0.05)


def test_splits_of_one_recording_and_the_pool_of_their_maxima_agree():
    x = np.random.default_rng(0).standard_normal((24, 200)).astype(np.float32)
    honest = real_activations.honest_runs(x, 60, n_permutations=99, n_selected=20)
    pooled = real_activations.pooled_splits(x, 300, n_sets=3, n_pool=1200, n_selected=20)
    assert honest.any_significant.agrees_with(0.04, 0.06)
    assert pooled.any_significant.agrees_with(0.04, 0.06)


def test_parts_of_a_long_run_are_the_whole_run():
    x = np.random.default_rng(0).standard_normal((16, 50))
    whole = real_activations.split_by_split(x, 4, n_permutations=39, n_selected=12)
    parts = [
        real_activations.split_by_split(x, 2, n_permutations=39, n_selected=12, first=first)
        for first in (0, 2)
    ]
    together = real_activations.HonestRuns.of("student", 50, parts)
    np.testing.assert_array_equal(together.p_smallest, whole["p_smallest"])


def test_a_rate_knows_what_chance_can_do():
    assert Rate(50, 1000).agrees_with(0.045, 0.055)
    assert not Rate(150, 1000).agrees_with(0.045, 0.055)
    assert not Rate(5, 1000).agrees_with(0.045, 0.055)
    assert Rate(60, 1000).is_at_most(0.05)
    assert not Rate(70, 1000).is_at_most(0.05)
    assert str(Rate(50, 1000)) == "0.050 ± 0.007"
    assert Mean.of([1.0, 3.0]) == Mean(2.0, 1.0, 2)
    assert table(["a", "b"], [[1, 2.5]]) == "| a | b |\n| --- | --- |\n| 1 | 2.5 |"


def test_the_document_shows_every_section_and_its_figure():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, section in validation.sections(Path("unused")).items():
        inside = text.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]
        assert inside.count("\n| ") > 3, name
        assert "**missed**" not in inside, name
        image = f"images/validation_{name}.png"
        assert (image in text) == (section.draw is not None)
        assert (DOCUMENT.parent / image).exists() == (section.draw is not None)


def test_a_table_is_written_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    document = tmp_path / "validation.md"
    document.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(validation, "DOCUMENT", document)
    validation.write("a", r"new \1")
    assert document.read_text(encoding="utf-8") == (
        "before\n<!-- a -->\n\nnew \\1\n\n<!-- end of a -->\nafter\n"
    )
    with pytest.raises(SystemExit, match="has no <!-- b -->"):
        validation.write("b", "new")
