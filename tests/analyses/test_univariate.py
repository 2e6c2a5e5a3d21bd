"""Contrast maps, layer profiles, top units and power on synthetic recordings."""

import numpy as np
import pytest
from scipy import stats

from activation_analysis.analyses.design_power import power_of, small_sample_warning
from activation_analysis.analyses.univariate import (
    Design,
    contrast_map,
    contrast_maps,
    design_maps,
    half_effects,
    layer_profiles,
    significant_by_control,
    split_halves,
    top_units,
)
from activation_analysis.statistics.effect_size import cohens_d, cohens_d_interval
from activation_analysis.statistics.hypothesis_tests import CONTRAST_TESTS, TESTS
from activation_analysis.statistics.multiplicity import CONTROLS, adjust
from activation_analysis.statistics.power import two_sample_power

FIRST, SECOND = np.arange(20), np.arange(20, 40)
every_test = pytest.mark.parametrize("test", CONTRAST_TESTS)
NUMBERS = ("statistic", "p_value", "effect_size", "hedges_g", "mean_difference")


def analysed(recording, seed=0, **options):
    """Maps, and both halves' effects, of the first twenty prompts against the last twenty."""
    maps = contrast_maps(recording, FIRST, SECOND, **options)
    halves = split_halves(FIRST, SECOND, blocks=np.arange(40) % 20, rng=np.random.default_rng(seed))
    return maps, half_effects(recording, halves)


# Contrast maps


@every_test
def test_a_map_holds_what_the_tests_and_effect_sizes_say(make_recording, test):
    a, b = (make_recording().matrix("mlp")[rows] for rows in (FIRST, SECOND))
    found, expected = contrast_map(a, b, test=test), TESTS[test](a, b)
    np.testing.assert_array_equal(found.statistic, expected.statistic)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    np.testing.assert_array_equal(found.effect_size, cohens_d(a, b))
    np.testing.assert_allclose(
        found.mean_difference, a.mean(0, dtype=float) - b.mean(0, dtype=float), atol=1e-12
    )
    assert (found.test, found.n) == (test, (20, 20))
    assert np.all(np.abs(found.hedges_g) < np.abs(found.effect_size))


@every_test
def test_all_sites_and_layers_are_one_family(make_recording, test):
    recording = make_recording()
    maps = contrast_maps(recording, FIRST, SECOND, test=test, control="holm", alpha=0.01)
    p = np.concatenate([m.p_value for m in maps.values()])
    p_adjusted = np.concatenate([m.p_adjusted for m in maps.values()])
    np.testing.assert_array_equal(p_adjusted, adjust(p, control="holm").p_adjusted)
    for site, stat_map in maps.items():
        assert (stat_map.family_size, stat_map.control, stat_map.alpha) == (360, "holm", 0.01)
        assert stat_map.units.site == site
        whole = contrast_map(
            recording.matrix(site)[FIRST], recording.matrix(site)[SECOND], test=test
        )
        for name in NUMBERS:
            np.testing.assert_array_equal(getattr(stat_map, name), getattr(whole, name))


@every_test
def test_bad_units_are_excluded_counted_and_touch_nothing_else(make_recording, test):
    recording = make_recording()
    clean = contrast_maps(recording, FIRST, SECOND, test=test)
    layer = recording.values["mlp"][1]
    layer[3, 5], layer[25, 6], layer[:, 7] = np.nan, np.inf, 0.1
    found = contrast_maps(recording, FIRST, SECOND, test=test)
    columns = 60 + np.array([5, 6, 7])
    assert found["mlp"].excluded[columns].tolist() == ["nan", "inf", "constant"]
    assert found["mlp"].family_size == 357
    others = np.delete(np.arange(180), columns)
    for name in NUMBERS:
        values = getattr(found["mlp"], name)
        assert np.all(np.isnan(values[columns]))
        np.testing.assert_array_equal(values[others], getattr(clean["mlp"], name)[others])
    assert not found["mlp"].significant[columns].any()
    assert layer_profiles(found)["mlp"].n_excluded.tolist() == [0, 3, 0]


def test_pairs_that_all_differ_by_the_same_are_excluded_as_constant():
    b = np.random.default_rng(0).integers(0, 9, size=(6, 2)).astype(float)
    a = b + [[1.0, 0.0]] + [[0, i] for i in range(6)]
    assert contrast_map(a, b, test="paired").excluded.tolist() == ["constant", ""]


@every_test
def test_swapped_conditions_flip_every_sign(make_recording, test):
    recording = make_recording()
    there, back = (
        contrast_maps(recording, *rows, test=test)["mlp"]
        for rows in ((FIRST, SECOND), (SECOND, FIRST))
    )
    for name in ("effect_size", "hedges_g", "mean_difference"):
        np.testing.assert_array_equal(getattr(there, name), -getattr(back, name))
    np.testing.assert_allclose(there.p_adjusted, back.p_adjusted, rtol=1e-12)


def test_every_control_is_counted_over_the_whole_family(make_recording):
    recording = make_recording()
    recording.values["mlp"][2][:20, :10] += 1.5
    maps = contrast_maps(recording, FIRST, SECOND)
    counts = significant_by_control(maps)
    assert list(counts) == list(CONTROLS)
    assert counts["fdr_bh"] == sum(m.significant.sum() for m in maps.values())
    assert counts["fdr_bh"] >= counts["fdr_by"]
    assert counts["holm"] >= counts["bonferroni"] > 0


# Planted effects


@every_test
@pytest.mark.parametrize("control", CONTROLS)
def test_a_planted_effect_is_found_in_its_layer_and_nowhere_else(make_recording, test, control):
    recording = make_recording(seed=1)
    recording.values["mlp"][1][:20, 10:15] += 4
    maps, effects = analysed(recording, test=test, control=control, alpha=0.01)
    profiles = layer_profiles(maps, selection=effects)
    assert profiles["residual"].n_significant.tolist() == [0, 0, 0]
    assert profiles["mlp"].n_significant.tolist() == [0, 5, 0]
    assert profiles["mlp"].peak_layer == 1
    assert profiles["mlp"].prop_significant[1] == pytest.approx(5 / 60)
    assert profiles["mlp"].held_out_d[1] > 2
    top = top_units(recording, maps, effects, top_n=5).units
    assert set(zip(top["site"], top["layer"], top["index"], strict=True)) == {
        ("mlp", 1, i) for i in range(10, 15)
    }
    assert top["significant"].all()
    assert np.all(top["held_out_p"] < 0.01)


# Layer profiles


def test_a_profile_sums_up_its_map(make_recording):
    maps, effects = analysed(make_recording())
    profile = layer_profiles(maps, selection=effects)["residual"]
    for row, layer in enumerate(profile.layer):
        d = np.abs(maps["residual"].effect_size[60 * layer : 60 * layer + 60])
        assert profile.mean_abs_d[row] == pytest.approx(d.mean())
        assert profile.median_abs_d[row] == pytest.approx(np.median(d))
        assert profile.max_abs_d[row] == d.max()
        assert profile.n_large_d[row] == (d > 0.5).sum()
        assert profile.n_tested[row] == 60
        # 1 % of 60 units is one unit: the strongest on the selection half.
        chosen = effects.selected["residual"][60 * layer : 60 * layer + 60]
        assert profile.selected_d[row] == np.abs(chosen).max()
    assert profile.depth.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_a_layer_without_testable_units_has_no_numbers(make_recording):
    recording = make_recording()
    recording.values["mlp"][0][:] = 1.0
    maps, effects = analysed(recording)
    profile = layer_profiles(maps, selection=effects)["mlp"]
    assert profile.n_tested[0] == profile.n_significant[0] == 0
    assert np.isnan(profile.mean_abs_d[0])
    assert np.isnan(profile.held_out_d[0])
    assert np.isfinite(profile.mean_abs_d[1])


def test_a_held_out_effect_is_unbiased_where_the_selected_one_is_inflated(make_recording):
    selected, held_out = [], []
    for seed in range(40):
        maps, effects = analysed(make_recording(width=200, seed=seed), seed=seed)
        profile = layer_profiles(maps, selection=effects)["mlp"]
        selected += profile.selected_d.tolist()
        held_out += profile.held_out_d.tolist()
    assert np.mean(selected) > 1
    error = np.std(held_out) / np.sqrt(len(held_out))
    assert abs(np.mean(held_out)) < 4 * error < 0.25


def test_without_a_selection_there_is_no_held_out_effect(make_recording):
    profile = layer_profiles(contrast_maps(make_recording(), FIRST, SECOND))["mlp"]
    assert np.all(np.isnan(profile.held_out_d))


# Top units


def test_top_units_carry_their_own_numbers(make_recording):
    recording = make_recording()
    maps, effects = analysed(recording, test="student")
    found = top_units(recording, maps, effects, top_n=12)
    top = found.units
    assert list(top.columns) == [
        *("site", "layer", "index", "depth", "effect_size", "hedges_g", "p_value", "p_adjusted"),
        *("significant", "selected_d", "held_out_d", "held_out_low", "held_out_high"),
        "held_out_p",
    ]
    assert (found.n_selection, found.n_held_out, len(found)) == ((10, 10), (10, 10), 12)
    assert np.all(np.diff(top["selected_d"].abs()) <= 0)
    a, b = effects.halves.held_out
    for _, unit in top.iterrows():
        column = recording.values[unit["site"]][unit["layer"]][:, unit["index"]].astype(float)
        where = (maps[unit["site"]].units.layer == unit["layer"]) & (
            maps[unit["site"]].units.index == unit["index"]
        )
        assert unit["effect_size"] == maps[unit["site"]].effect_size[where][0]
        assert unit["held_out_d"] == cohens_d(column[a, None], column[b, None])[0]
        assert unit["held_out_p"] == pytest.approx(stats.ttest_ind(column[a], column[b]).pvalue)
        low, high = cohens_d_interval(unit["held_out_d"], 10, 10)
        assert (unit["held_out_low"], unit["held_out_high"]) == pytest.approx((low, high))


def test_held_out_intervals_of_null_units_cover_zero(make_recording):
    covered = []
    for seed in range(60):
        recording = make_recording(seed=seed)
        maps, effects = analysed(recording, seed=seed)
        top = top_units(recording, maps, effects, top_n=5).units
        covered += ((top["held_out_low"] < 0) & (top["held_out_high"] > 0)).tolist()
        assert np.all(top["selected_d"].abs() > 0.8)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.05)


def test_halves_that_are_too_small_choose_on_all_prompts(make_recording):
    recording = make_recording(n=6)
    maps = contrast_maps(recording, [0, 1, 2], [3, 4, 5])
    effects = half_effects(
        recording, split_halves([0, 1, 2], [3, 4, 5], rng=np.random.default_rng(0))
    )
    found = top_units(recording, maps, effects, top_n=4)
    assert (found.n_selection, found.n_held_out) == ((3, 3), (0, 0))
    assert found.units["held_out_d"].isna().all()
    assert found.units["selected_d"].equals(found.units["effect_size"].rename("selected_d"))
    assert np.all(np.isnan(layer_profiles(maps, selection=effects)["mlp"].selected_d))


def test_excluded_units_are_never_listed(make_recording):
    recording = make_recording()
    recording.values["mlp"][0][0, :] = np.nan
    maps, effects = analysed(recording)
    top = top_units(recording, maps, effects, top_n=1000).units
    assert len(top) == 300
    assert not ((top["site"] == "mlp") & (top["layer"] == 0)).any()


def test_paired_units_are_measured_on_whole_pairs(make_recording):
    recording = make_recording()
    maps, effects = analysed(recording, test="paired")
    assert effects.halves.keeps_pairs
    top = top_units(recording, maps, effects, top_n=3).units
    a, b = effects.halves.held_out
    np.testing.assert_array_equal(a + 20, b)
    first = top.iloc[0]
    column = recording.values[first["site"]][first["layer"]][:, first["index"]].astype(float)
    assert first["held_out_p"] == pytest.approx(stats.ttest_rel(column[a], column[b]).pvalue)


def test_torn_pairs_are_refused(make_recording):
    recording = make_recording()
    maps = contrast_maps(recording, FIRST, SECOND, test="paired")
    effects = half_effects(recording, split_halves(FIRST, SECOND, rng=np.random.default_rng(0)))
    with pytest.raises(ValueError, match="tear pairs apart"):
        top_units(recording, maps, effects)


# Halves


def test_every_prompt_is_as_likely_to_select_as_any_other():
    rng = np.random.default_rng(0)
    splits = [split_halves(range(6), range(6, 10), rng=rng).selection for _ in range(4000)]
    _, counts = np.unique([tuple(a) for a, _ in splits], axis=0, return_counts=True)
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 1e-3
    assert all(len(b) == 2 for _, b in splits)


@pytest.mark.parametrize("blocks", [None, "item", "group"])
def test_halves_are_stratified_disjoint_and_complete(blocks):
    labels = {None: None, "item": np.tile(np.arange(20), 2), "group": np.arange(40) // 4}[blocks]
    for seed in range(50):
        halves = split_halves(FIRST, SECOND, blocks=labels, rng=np.random.default_rng(seed))
        for condition, rows in enumerate((FIRST, SECOND)):
            selection, held_out = halves.selection[condition], halves.held_out[condition]
            assert sorted([*selection, *held_out]) == rows.tolist()
            assert abs(len(selection) - len(held_out)) <= (4 if blocks == "group" else 0)
            if labels is not None:
                everywhere = np.concatenate(halves.held_out)
                assert not set(labels[selection]) & set(labels[everywhere])


def test_blocks_of_any_shape_split_both_conditions_about_evenly():
    rng = np.random.default_rng(3)
    for _ in range(50):
        blocks = rng.integers(0, 12, size=60)
        halves = split_halves(range(35), range(35, 60), blocks=blocks, rng=rng)
        for selection, held_out in zip(halves.selection, halves.held_out, strict=True):
            assert abs(len(selection) - len(held_out)) <= 10
        assert set(blocks[np.concatenate(halves.selection)]).isdisjoint(
            blocks[np.concatenate(halves.held_out)]
        )


def test_a_row_in_both_conditions_is_refused():
    with pytest.raises(ValueError, match="rows 4, 5 are in two conditions"):
        split_halves([1, 4, 5], [5, 4, 9], rng=np.random.default_rng(0))


# Power


def power_of_two(n_a, n_b, **options):
    design = Design((np.arange(n_a), n_a + np.arange(n_b)))
    return power_of(design, (n_a, n_b), **options)


def test_power_is_stated_for_the_strictest_threshold():
    power = power_of_two(60, 50, family_size=115_000)
    assert power.alpha == 0.05 / 115_000
    assert two_sample_power(power.minimum_detectable_d, 60, 50, power.alpha) == pytest.approx(0.8)
    assert power.power_at_half_uncorrected > 0.7 > power.power_at_half


def test_small_samples_are_warned_about_by_name():
    power = power_of_two(12, 40, family_size=1000)
    warning = small_sample_warning(("happy", "sad"), power)
    assert warning.startswith("'happy' has 12 prompts; at least 15 to 20 per condition")
    assert f"{power.power_at_half_uncorrected:.0%} of studies" in warning
    assert f"{power.minimum_detectable_d:.2f}" in warning
    assert "'sad'" not in warning
    assert small_sample_warning(("happy", "sad"), power_of_two(15, 40)) == ""


# Refusals


def test_unknown_options_are_refused(make_recording):
    with pytest.raises(ValueError, match="no test 'anovas'; known: student"):
        contrast_maps(make_recording(), FIRST, SECOND, test="anovas")
    with pytest.raises(ValueError, match="no control 'fdr'"):
        contrast_maps(make_recording(), FIRST, SECOND, control="fdr")
    with pytest.raises(ValueError, match="first group has 1 prompt"):
        contrast_maps(make_recording(), [0], SECOND)
    with pytest.raises(ValueError, match="received 3 and 20 prompts"):
        contrast_maps(make_recording(), [0, 1, 2], SECOND, test="paired")


def test_an_f_beyond_counting_has_its_effects(make_recording):
    recording = make_recording()
    layer = recording.values["mlp"][0]
    layer[:, 0] = np.repeat([0.0, 1e6, 2e6], [13, 14, 13])
    layer[::7, 0] += np.float32(0.0625)
    rows = np.arange(13), np.arange(13, 27), np.arange(27, 40)
    found = design_maps(recording, Design(rows, "f", None))["mlp"]
    assert np.isfinite(found.more["eta_squared_low"][0])
    assert found.more["eta_squared_high"][0] <= 1
    assert found.effect_high[0] >= found.effect_low[0] > 100
