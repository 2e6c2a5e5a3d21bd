"""An analysis measures its own false positives, and says when they are too many."""

from dataclasses import replace

import numpy as np
import pytest

from activation_analysis.activations import Activations
from activation_analysis.analyses.calibration import calibrate
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.error_control import ErrorControl
from activation_analysis.analyses.null_designs import NULLS, NullDraw, clusters_of
from activation_analysis.analyses.null_statistics import Excerpt, null_statistics
from activation_analysis.analyses.univariate import design_maps
from activation_analysis.results.calibration import Calibration

TEMPLATE = np.repeat(np.arange(10), 10)  # 10 templates of 10 fillings, 5 in each condition
NESTED = np.flatnonzero(TEMPLATE < 5), np.flatnonzero(TEMPLATE >= 5)
CROSSED = np.arange(0, 100, 2), np.arange(1, 100, 2)  # every template in both conditions


def recording(values: np.ndarray) -> Activations:
    n, width = values.shape
    half = width // 2
    return Activations(
        prompts=tuple(f"prompt {i}" for i in range(n)),
        n_tokens=np.full(n, 6),
        position="last",
        model="synthetic",
        n_layers=2,
        values={"mlp": {0: values[:, :half], 1: values[:, half:]}},
    )


def templated(icc: float, width: int = 300, seed: int = 0) -> Activations:
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((10, width))[TEMPLATE]
    own = rng.standard_normal((100, width))
    return recording((np.sqrt(icc) * shared + np.sqrt(1 - icc) * own).astype(np.float32))


def independent(n: int = 40, width: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def measured(of: Activations, design: Design, control: str = "fdr_bh", **more) -> Calibration:
    options = {"rng": np.random.default_rng(1), "n_relabellings": 100} | more
    return calibrate(of, design, ErrorControl(control=control), **options)


def null_of(calibration: Calibration, name: str):
    return next(null for null in calibration.nulls if null.null == name)


# The known answer of STATISTICS.md section 3: .15, .33 and .42.
@pytest.mark.parametrize(("icc", "known"), [(0.1, 0.15), (0.3, 0.33), (0.5, 0.42)])
def test_ten_templates_analysed_prompt_by_prompt_are_flagged(icc, known):
    found = measured(templated(icc), Design(NESTED), clusters=TEMPLATE)
    assert found.verdict == "flagged"
    for name in ("halves", "flipped"):
        null = null_of(found, name)
        assert null.verdict == "flagged"
        assert null.fpr.value == pytest.approx(known, abs=0.07)
        assert null.family_wise.value > 0.4
    assert "column 'group'" in found.warning


@pytest.mark.parametrize("icc", [0.1, 0.3, 0.5])
def test_ten_templates_pass_once_they_are_grouped(icc):
    found = measured(templated(icc), Design(NESTED, blocks=TEMPLATE, means=True))
    assert found.verdict != "flagged"
    assert found.warning == ""
    assert max(null.fpr.value for null in found.nulls) < 0.06


def test_shuffling_prompts_one_by_one_cannot_see_templates():
    """Why nulls that keep the dependence are needed."""
    found = measured(templated(0.5), Design(NESTED), clusters=TEMPLATE)
    assert null_of(found, "relabelled").verdict == "passes"


def test_whole_block_permutation_passes_where_shuffled_prompts_are_flagged():
    few = {"n_relabellings": 25, "n_units": 60, "clusters": TEMPLATE}
    naive = measured(templated(0.5), Design(NESTED, "student"), "max_t", **few)
    grouped = measured(templated(0.5), Design(NESTED, "student", blocks=TEMPLATE), "max_t", **few)
    assert naive.verdict == "flagged"
    assert grouped.verdict != "flagged"
    assert naive.n_permutations == 199


def test_templates_that_span_conditions_make_the_naive_test_conservative_not_wrong():
    found = measured(templated(0.5), Design(CROSSED), clusters=TEMPLATE)
    assert null_of(found, "flipped").verdict == "conservative"
    assert null_of(found, "halves").fpr.value < 0.05
    assert not found.flagged


def test_student_is_flagged_at_unequal_n_and_variance_and_welch_passes():
    # STATISTICS.md: .204 for 20 against 60 prompts with SDs 3:1.
    values = independent(80, seed=3)
    values[:20] *= 3
    rows = np.arange(20), np.arange(20, 80)
    student = measured(recording(values), Design(rows, "student"))
    welch = measured(recording(values), Design(rows, "welch"))
    assert null_of(student, "flipped").fpr.value == pytest.approx(0.204, abs=0.02)
    assert student.verdict == "flagged"
    assert welch.verdict == "passes"


@pytest.mark.parametrize("shift", [0.0, 2.0])
@pytest.mark.parametrize("test", ["welch", "mannwhitney", "paired"])
def test_independent_prompts_pass_whether_or_not_the_conditions_differ(test, shift):
    values = independent()
    values[:20] += shift
    found = measured(recording(values), Design((np.arange(20), np.arange(20, 40)), test))
    assert found.verdict == "passes"
    for null in found.nulls:
        assert null.fpr.value == pytest.approx(0.05, abs=0.015)
        assert null.p_values.distance < 0.06  # ranks of 10 and 10 prompts come in steps


@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("test", ["student", "welch"])
def test_many_repetitions_at_once_give_the_pipelines_own_p_values(test, means):
    of = templated(0.3, width=40)
    blocks = TEMPLATE if means else None
    design = Design(NESTED, test, blocks=blocks, means=means)
    excerpt = Excerpt(of.matrix("mlp"), np.zeros(40, dtype=int), None, design.rows)
    for make in NULLS.values():
        made = make(design, TEMPLATE, 8, np.random.default_rng(0))
        for draw, result in null_statistics(excerpt, made.draws):
            seen = recording(np.asarray(excerpt.under(draw).values))
            (expected,) = design_maps(seen, draw.design).values()
            np.testing.assert_allclose(result.p_value, expected.p_value, atol=1e-11)


def test_a_template_is_never_divided_and_every_half_of_few_is_tried_once():
    design = Design(NESTED)
    made = NULLS["halves"](design, clusters_of(design, TEMPLATE, 100), 100, np.random.default_rng())
    assert made.n_possible == len(made.draws) == 2 * 10  # 2 or 3 of 5, in either condition
    seen = set()
    for draw in made.draws:
        parts = [set(TEMPLATE[rows].tolist()) for rows in draw.design.rows]
        assert not parts[0] & parts[1]
        assert sum(map(len, draw.design.rows)) == 50
        seen.add(frozenset(map(frozenset, parts)))
    assert len(seen) == 20


def test_signs_are_one_for_a_cluster_and_one_for_a_pair():
    pairs = Design((np.arange(6), np.arange(6, 12)), "paired")
    together = clusters_of(pairs, np.array([*"aabbcc", *"aabbcc"]), 12)
    made = NULLS["flipped"](pairs, together, 100, np.random.default_rng(0))
    assert made.n_possible == len(made.draws) == 4  # three clusters, either way round
    for draw in made.draws:
        np.testing.assert_array_equal(draw.sign[:6], draw.sign[6:])
        np.testing.assert_array_equal(draw.sign[::2], draw.sign[1::2])


def test_flipped_deviations_keep_each_conditions_own_spread():
    values = independent(12, 4)
    values[:6] *= 5
    rows = np.arange(6), np.arange(6, 12)
    excerpt = Excerpt(values, np.zeros(4, dtype=int), None, rows)
    sign = np.where(np.arange(12) % 3 == 0, -1, 1).astype(np.float32)
    flipped = excerpt.under(NullDraw(Design(rows), sign)).values
    for r in rows:
        centred = values[r] - values[r].mean(axis=0)
        np.testing.assert_allclose((flipped[r] ** 2).sum(0), (centred**2).sum(0), rtol=1e-5)


def test_a_seed_gives_the_same_calibration_and_useless_units_change_nothing():
    values = independent()
    design = Design((np.arange(20), np.arange(20, 40)))
    spoiled = np.insert(values, (150, 300), np.array([1.0, np.nan], np.float32), axis=1)
    whole, again = (measured(recording(v), design, n_relabellings=20) for v in (values, values))
    without = measured(recording(spoiled), design, n_relabellings=20)
    assert whole.metrics() == again.metrics()
    assert without.n_units == 300
    assert null_of(without, "halves").fpr == null_of(whole, "halves").fpr


def test_the_family_wise_rate_is_the_mean_false_discovery_proportion():
    found = measured(templated(0.1), Design(NESTED), clusters=TEMPLATE)
    for null in found.nulls:
        assert null.false_discovery == null.family_wise.value


@pytest.mark.parametrize("control", ["bonferroni", "holm", "fdr_by", "fdr_bh"])
def test_controls_hold_where_nothing_differs(control):
    design = Design((np.arange(20), np.arange(20, 40)))
    found = measured(recording(independent(seed=7)), design, control)
    assert max(null.family_wise.low for null in found.nulls) <= 0.05
    assert found.verdict == "passes"


def test_an_omnibus_contrast_is_divided_into_as_many_parts():
    rows = tuple(np.arange(60).reshape(3, 20))
    found = measured(recording(independent(60)), Design(rows, "f", weights=None))
    assert [null.null for null in found.nulls] == ["relabelled", "halves", "flipped"]
    assert found.verdict == "passes"


def test_what_cannot_be_made_is_left_out_with_its_reason():
    found = measured(recording(independent()), Design((np.arange(20), np.arange(20, 40)), "paired"))
    assert found.skipped == {"halves": "a half of one condition has no pairs"}
    one_each = measured(templated(0.3), Design(NESTED), clusters=TEMPLATE // 5)
    assert "what its prompts share cannot be told" in one_each.skipped["flipped"]
    assert "at most 1 clusters; 4 are needed" in one_each.skipped["halves"]


def test_mistakes_are_refused():
    of, design = recording(independent()), Design((np.arange(20), np.arange(20, 40)))
    with pytest.raises(ValueError, match="a calibration needs at least 2"):
        measured(of, design, n_relabellings=1)
    with pytest.raises(ValueError, match=r"clusters has shape \(3,\); expected one per prompt"):
        measured(of, design, clusters=[1, 2, 3])
    with pytest.raises(ValueError, match="no unit of this recording can be tested"):
        measured(recording(np.ones((40, 4), np.float32)), design)
    stuck = replace(design, blocks=np.repeat([0, 1, 2], [20, 10, 10]))
    with pytest.raises(ValueError, match=r"no null can be made .* nothing to exchange"):
        measured(of, stuck)
