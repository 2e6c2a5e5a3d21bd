"""The whole method: from prompts and a recording to results."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest
from workbench import LAYERS, WIDTH, synthetic_recording, write_prompts

from activation_analysis import ActivationCapture, ActivationStats, DataStore, pipeline
from activation_analysis.errors import ExperimentError, ModelError, PromptError, StoreError
from activation_analysis.experiment import Experiment, ModelOptions, apply_overrides
from activation_analysis.statistics.power import minimum_detectable_f


@pytest.fixture
def experiment(tmp_path):
    return Experiment.from_prompts(write_prompts(tmp_path / "p.csv", {"a": 20, "b": 20}), "a - b")


def analyze(experiment, recording, *changes):
    changed = apply_overrides(experiment, changes)
    return pipeline.analyze(changed, recording, progress=False)


def test_planted_effect_is_found_in_its_layer_and_nowhere_else(experiment):
    recording = synthetic_recording(experiment, planted={("mlp", 2): 3.0}, condition="a")
    (result,) = analyze(experiment, recording, "univariate.control=bonferroni")
    found = {
        (site, layer): profile.prop_significant[layer]
        for site, profile in result.profiles.items()
        for layer in range(LAYERS)
    }
    assert found.pop(("mlp", 2)) == 1.0
    assert max(found.values()) <= 0.04  # one unit of a layer by chance at most
    assert sum(found.values()) <= 0.04
    assert result.peak_site == "mlp"
    assert result.profiles["mlp"].peak_layer == 2
    assert set(
        zip(result.top_units.units["site"], result.top_units.units["layer"], strict=True)
    ) == {("mlp", 2)}
    assert "strongest in mlp, layer 2" in result.finding


def test_a_positive_effect_is_the_first_sides(experiment):
    recording = synthetic_recording(experiment, planted={("mlp", 2): 3.0}, condition="a")
    (forward,) = analyze(experiment, recording)
    (backward,) = pipeline.analyze(experiment.with_contrasts("b - a"), recording, progress=False)
    assert forward.maps["mlp"].effect_size[2 * WIDTH : 3 * WIDTH].min() > 0
    np.testing.assert_allclose(
        forward.maps["mlp"].effect_size, -backward.maps["mlp"].effect_size, rtol=1e-12
    )
    assert backward.conditions == ("b", "a")


def test_held_out_effects_of_noise_are_about_zero(experiment):
    (result,) = analyze(experiment, synthetic_recording(experiment))
    chosen = np.mean([p.selected_d.mean() for p in result.profiles.values()])
    held_out = np.mean([p.held_out_d.mean() for p in result.profiles.values()])
    assert chosen > 0.5
    assert abs(held_out) < 0.3


def test_shuffled_labels_give_uniform_p_values(tmp_path):
    """Prompts of one condition with random labels: no unit differs, so p is uniform."""
    ones = Experiment.from_prompts(write_prompts(tmp_path / "p.csv", {"a": 24, "b": 24}), "a - b")
    recording = synthetic_recording(ones, sites=("residual", "mlp", "attention", "head"))
    rng = np.random.default_rng(1)
    p_values, n_significant = [], 0
    for _ in range(10):
        labels = rng.permutation(ones.prompts.table["condition"].to_numpy())
        shuffled = replace(
            ones, prompts=replace(ones.prompts, table=ones.prompts.table.assign(condition=labels))
        )
        (result,) = pipeline.analyze(shuffled, recording, progress=False)
        # Ten labellings of the same prompts share their noise: a few units of each are enough.
        p_values += [m.p_value[rng.choice(len(m), 8, replace=False)] for m in result.maps.values()]
        n_significant += result.n_significant
    assert kstest(np.concatenate(p_values), "uniform").pvalue > 0.01
    assert n_significant <= 3


def test_the_same_seed_gives_the_same_result_and_another_seed_other_halves(experiment):
    recording = synthetic_recording(experiment)
    (one,), (again,) = analyze(experiment, recording), analyze(experiment, recording)
    (other,) = analyze(experiment, recording, "seed=7")
    assert one.top_units.units.equals(again.top_units.units)
    assert one.layer_table().equals(again.layer_table())
    assert not one.top_units.units["held_out_d"].equals(other.top_units.units["held_out_d"])
    np.testing.assert_array_equal(one.maps["mlp"].p_value, other.maps["mlp"].p_value)


def test_every_contrast_is_answered_in_the_order_of_the_file(tmp_path):
    path = write_prompts(tmp_path / "p.csv", ["a", "b", "c"])
    several = Experiment.from_prompts(path, {"second": "b - c", "first": "a - c"})
    results = analyze(several, synthetic_recording(several))
    assert [r.contrast_name for r in results] == ["second", "first"]
    assert [r.contrast for r in results] == ["b - c", "a - c"]


def test_several_conditions_of_a_side_weigh_the_same(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 6, "b": 10, "c": 20})
    several = Experiment.from_prompts(path, "a + b - c")
    recording = synthetic_recording(several, planted={("residual", 1): 4.0}, condition="c")
    (result,) = analyze(several, recording)
    assert result.n == (6, 10, 20)
    assert result.conditions == ("a + b", "c")
    assert result.profiles["residual"].peak_layer == 1
    assert (result.maps["residual"].effect_size[WIDTH : 2 * WIDTH] < 0).all()
    means = [recording.matrix("residual")[several.prompts.rows_of(c)].mean(0) for c in "abc"]
    expected = (means[0] + means[1]) / 2 - means[2]
    np.testing.assert_allclose(result.maps["residual"].mean_difference, expected, rtol=1e-4)


def test_ranks_of_several_conditions_are_pooled_and_said_to_be(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 6, "b": 10, "c": 20})
    pooled = apply_overrides(
        Experiment.from_prompts(path, "a + b - c"), ["univariate.test=mannwhitney"]
    )
    (result,) = analyze(pooled, synthetic_recording(pooled))
    assert result.n == (16, 20)
    assert any(
        "a + b are pooled with unequal numbers of prompts (6, 10)" in w for w in result.warnings
    )


@pytest.mark.parametrize(
    ("test", "used"),
    [("welch", "f"), ("mannwhitney", "kruskal"), ("glm_t", "f"), ("kruskal", "kruskal")],
)
def test_an_omnibus_contrast_is_answered_with_all_its_pairs(tmp_path, test, used):
    path = write_prompts(tmp_path / "p.csv", {"a": 12, "b": 10, "c": 11})
    omnibus = apply_overrides(
        Experiment.from_prompts(path, {"any": "a | b | c", "own": "b - a"}),
        [f"univariate.test={test}"],
    )
    recording = synthetic_recording(omnibus, planted={("residual", 1): 4.0}, condition="c")
    results = {r.contrast_name: r for r in analyze(omnibus, recording)}
    assert list(results) == ["any", "a_vs_c", "b_vs_c", "own"]
    found = results["any"]
    assert (found.first_map.test, found.n, found.is_omnibus) == (used, (12, 10, 11), True)
    assert found.conditions == ("a", "b", "c")
    assert found.profiles["residual"].peak_layer == 1
    assert found.maps["residual"].significant[WIDTH : 2 * WIDTH].all()
    assert results["a_vs_c"].maps["residual"].significant[WIDTH : 2 * WIDTH].all()
    assert not results["own"].maps["residual"].significant[WIDTH : 2 * WIDTH].all()
    assert {r.first_map.family_size for r in results.values()} == {found.n_tested * 4}


def test_two_f_is_the_d_of_two_groups_that_differ_as_much(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 400, "b": 400, "c": 400})
    omnibus = Experiment.from_prompts(path, "a | b | c")
    recording = synthetic_recording(omnibus, planted={("residual", 1): 1.0}, condition="c")
    found = analyze(omnibus, recording)[0]
    planted = found.maps["residual"].effect_size[WIDTH : 2 * WIDTH]
    # Means 0, 0, 1: the variance of means is 2/9, so that 2 f = 2 sqrt(2/9).
    assert planted.mean() == pytest.approx(2 * np.sqrt(2 / 9), abs=0.06)


def test_a_recording_of_other_prompts_is_refused(experiment):
    recording = synthetic_recording(experiment)
    with pytest.raises(StoreError, match="of other prompts"):
        analyze(experiment, recording.rows(np.arange(len(recording))[::-1]))


def paired(tmp_path, **columns):
    """Items of side b lie in the reverse order of side a's."""
    items = [f"i{i}" for i in range(16)]
    path = write_prompts(
        tmp_path / "p.csv", {"a": 16, "b": 16}, item=[*items, *items[::-1]], **columns
    )
    experiment = Experiment.from_prompts(path, "a - b")
    rng = np.random.default_rng(3)
    recording = synthetic_recording(experiment)
    common = 20 * rng.standard_normal((16, WIDTH)).astype(np.float32)
    for layer in recording.values["mlp"].values():
        layer[:16] += common
        layer[16:] += common[::-1]
    recording.values["mlp"][1][:16] += 2
    return experiment, recording


def test_a_paired_test_matches_prompts_by_item_not_by_order(tmp_path):
    experiment, recording = paired(tmp_path)
    (welch,) = analyze(experiment, recording, "univariate.test=welch")
    (matched,) = analyze(experiment, recording)
    assert welch.maps["mlp"].significant.sum() == 0
    assert matched.profiles["mlp"].prop_significant[1] > 0.9
    assert matched.profiles["mlp"].prop_significant[[0, 2, 3]].max() <= 0.04
    assert matched.first_map.test == "paired"


def test_a_paired_test_keeps_its_pairs_where_groups_tear_them(tmp_path):
    experiment, recording = paired(tmp_path, group=[f"g{i % 5}" for i in range(32)])
    (result,) = analyze(experiment, recording, "univariate.test=paired")
    assert result.top_units.units["held_out_d"].notna().all()


def test_small_conditions_draw_a_warning_with_the_power_left(tmp_path):
    small = Experiment.from_prompts(write_prompts(tmp_path / "p.csv", {"a": 5, "b": 16}), "a - b")
    (result,) = analyze(small, synthetic_recording(small))
    assert any("'a' has 5 prompts; at least 15" in w and "%" in w for w in result.warnings)


def test_sides_of_different_length_draw_a_warning(experiment):
    recording = synthetic_recording(experiment)
    longer = replace(recording, n_tokens=np.r_[np.arange(20) + 30, np.arange(20)])
    (result,) = analyze(experiment, longer)
    assert any("tokens (+5.07)" in w for w in result.warnings), result.warnings


@pytest.mark.parametrize("column", ["item", "group"])
def test_dependent_prompts_draw_a_warning_unless_the_test_is_paired(tmp_path, column):
    values = [f"i{i % 16}" for i in range(32)]
    path = write_prompts(tmp_path / "p.csv", {"a": 16, "b": 16}, **{column: values})
    experiment = Experiment.from_prompts(path, "a - b")
    (result,) = analyze(experiment, synthetic_recording(experiment), "univariate.test=welch")
    assert any(f"the prompts have a column {column!r}" in w for w in result.warnings)
    if column == "item":
        (result,) = analyze(experiment, synthetic_recording(experiment), "univariate.test=paired")
        assert not any("column" in w for w in result.warnings)


def test_excluded_units_are_counted_with_their_reason_and_change_no_other(experiment):
    recording = synthetic_recording(experiment)
    (whole,) = analyze(experiment, recording)
    broken = synthetic_recording(experiment)
    broken.values["mlp"][0][3, 5] = np.nan
    broken.values["mlp"][1][:, 6] = 1.5
    broken.values["residual"][3][9, 7] = np.inf
    (result,) = analyze(experiment, broken)
    (said,) = [w for w in result.warnings if "excluded" in w]
    assert "1 nan" in said
    assert "1 constant" in said
    assert "1 inf" in said
    kept = result.maps["mlp"].tested
    assert kept.sum() == LAYERS * WIDTH - 2
    np.testing.assert_array_equal(result.maps["mlp"].p_value[kept], whole.maps["mlp"].p_value[kept])


def test_cut_prompts_are_counted_in_a_warning(experiment):
    recording = synthetic_recording(experiment)
    cut = replace(recording, details={**recording.details, "n_truncated": "3"})
    (result,) = analyze(experiment, cut)
    assert any("3 of 40 prompts were longer" in w for w in result.warnings)
    assert not any("longer" in w for w in analyze(experiment, recording)[0].warnings)


def test_nothing_to_warn_of_is_no_warning(tmp_path):
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (40, 8, 5))
    texts = [" ".join("".join(word) for word in words) for words in letters]
    table = "condition,prompt\n" + "".join(f"{'ab'[i % 2]},{t}\n" for i, t in enumerate(texts))
    (tmp_path / "p.csv").write_text(table)
    experiment = Experiment.from_prompts(tmp_path / "p.csv", "a - b")
    recording = replace(synthetic_recording(experiment), n_tokens=np.repeat(np.arange(20), 2))
    (result,) = analyze(experiment, recording)
    assert result.warnings == ()


def test_the_capture_key_changes_with_what_defines_a_capture(experiment):
    recording = synthetic_recording(experiment)
    others = [
        replace(recording, model="other"),
        replace(recording, position="mean"),
        replace(recording, details={**recording.details, "sha256": "1" * 64}),
        replace(recording, details={**recording.details, "dtype": "bfloat16"}),
        replace(recording, prompts=(*recording.prompts[:-1], "another")),
        recording.at("mlp"),
    ]
    keys = [pipeline.recording_key(r) for r in (recording, *others)]
    assert len(set(keys)) == len(keys)
    assert pipeline.recording_key(synthetic_recording(experiment)) == keys[0]


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("microsoft/phi-2", "phi-2"),
        ("/models/tiny/", "tiny"),
        ("C:\\models\\tiny.gguf", "tiny"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_name(model, short):
    assert pipeline.short_name(model) == short


# With a real, tiny model.


@pytest.fixture
def on_gpt2(experiment, saved_gpt2):
    return apply_overrides(experiment, [f"model.id={saved_gpt2}", "model.device=cpu"])


def test_a_run_records_and_analyses(on_gpt2, saved_gpt2):
    outcome = pipeline.run(apply_overrides(on_gpt2, ["recording.sites=mlp,head"]), progress=False)
    assert outcome.activations.sites == ("mlp", "head")
    assert outcome.results[0].sites == ("mlp", "head")
    assert outcome.run_name == f"{saved_gpt2.name}·p"
    assert set(outcome.time_metrics()) == {
        f"seconds/{part}" for part in ("loading", "forward", "capture", "analysis")
    }
    again = pipeline.rerun_analysis(outcome.experiment, outcome.activations, progress=False)
    assert again.results[0].top_units.units.equals(outcome.results[0].top_units.units)
    assert again.capture_key == outcome.capture_key


def long_prompts(tmp_path, saved_gpt2, *changes):
    (tmp_path / "l.csv").write_text(
        "condition,prompt\n"
        + "".join(
            f"{c},{c} sea {i}{' and the sky' * 60 * (i == 1)}\n" for c in "ab" for i in range(3)
        )
    )
    experiment = Experiment.from_prompts(tmp_path / "l.csv", "a - b")
    return apply_overrides(experiment, [f"model.id={saved_gpt2}", "recording.sites=mlp", *changes])


def test_prompts_longer_than_the_context_are_all_listed_before_the_weights(tmp_path, saved_gpt2):
    with pytest.raises(PromptError, match=r"(?s)l\.csv:3: .* tokens.*l\.csv:6: .*--truncate"):
        pipeline.prepare(long_prompts(tmp_path, saved_gpt2))


def test_truncation_is_counted(tmp_path, saved_gpt2):
    cut = long_prompts(tmp_path, saved_gpt2, "recording.truncate=true")
    outcome = pipeline.run(cut, progress=False)
    assert outcome.activations.details["n_truncated"] == "2"
    assert any("2 of 6 prompts were longer" in w for w in outcome.results[0].warnings)


def test_a_layer_that_is_not_there_is_refused_before_the_weights(on_gpt2):
    with pytest.raises(ModelError, match=r"no layer 7 .*3 blocks: 0 to 2"):
        pipeline.prepare(apply_overrides(on_gpt2, ["recording.layers=0,7"]))


POSITIVE_PROMPTS = ["I feel happy because", "The best day of my life was", "What a joy it is to"]
NEGATIVE_PROMPTS = ["I feel sad because", "The worst day was when", "What a pity it is to"]


class EmotionExperiment:
    """The documented example, as users wrote it."""

    def __init__(self, model_path="gpt2"):
        self.capture = ActivationCapture(model_path)

    def run_experiment(self):
        positive_data = self.capture.capture_batch(POSITIVE_PROMPTS)
        negative_data = self.capture.capture_batch(NEGATIVE_PROMPTS)
        experiment_data = {"positive": positive_data, "negative": negative_data}
        DataStore.save_experiment(experiment_data, "emotion_analysis")
        return experiment_data

    def analyze_experiment(self, data):
        return ActivationStats.compute_layer_wise_stats(data["positive"], data["negative"])


def test_the_documented_example_works_as_written(saved_gpt2, tmp_path, monkeypatch):
    (tmp_path / "MLproject").write_text("name: activation_analysis\n")
    monkeypatch.chdir(tmp_path)
    example = EmotionExperiment(str(saved_gpt2))
    recorded = example.run_experiment()
    loaded = DataStore.load_experiment("emotion_analysis")
    assert loaded == recorded
    assert list(loaded) == ["positive", "negative"]
    assert (tmp_path / "mlruns" / "store" / "emotion_analysis").is_dir()
    layer_stats = example.analyze_experiment(loaded)
    assert set(layer_stats) == {"residual", "attention", "mlp", "neuron", "head"}
    assert len(layer_stats["mlp"].mean_abs_d) == 3

    mlp = [recorded[c].at("mlp") for c in ("positive", "negative")]
    contrast = ActivationStats.compute_contrast(*mlp, test="ttest")
    corrected = ActivationStats.multiple_comparison_correction(contrast.p_value, method="fdr_bh")
    assert corrected.rejected.shape == contrast.p_value.shape
    assert len(ActivationStats.summarize_contrast(contrast, top_n=5).top) == 5
    similarity = ActivationStats.compute_rsa_similarity(
        recorded["positive"].matrix("mlp"), recorded["positive"].matrix("head")
    )
    assert -1 <= similarity <= 1
    single = example.capture.capture_single("I feel", max_new_tokens=1)
    assert len(single) == single.n_prompt_tokens + 1


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 2, "b": 2})
    experiment = Experiment.from_prompts(path, model=ModelOptions(device="cuda:99", id="nowhere"))
    with pytest.raises(ModelError, match="device 'cuda:99' asked for"):
        pipeline.prepare(experiment)


def test_covariates_are_taken_out_and_no_longer_warned_of(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 20, "b": 20})
    naive = Experiment.from_prompts(path, "a - b")
    adjusted = apply_overrides(naive, ["univariate.test=glm_t", "univariate.nuisance=tokens"])
    rng = np.random.default_rng(0)
    n_tokens = np.concatenate([rng.integers(10, 20, 20), rng.integers(16, 26, 20)])
    plain = synthetic_recording(naive)
    values = {
        site: {k: v + np.float32(0.4) * n_tokens[:, None] for k, v in layers.items()}
        for site, layers in plain.values.items()
    }
    confounded = replace(plain, n_tokens=n_tokens, values=values)
    (wrong,), (right,) = analyze(naive, confounded), analyze(adjusted, confounded)
    assert wrong.n_significant > 0.9 * wrong.n_tested
    assert right.n_significant == 0
    assert any("tokens" in w for w in wrong.warnings)
    assert not any("tokens (" in w for w in right.warnings)


@pytest.mark.parametrize("control", ["fdr_bh", "max_t"])
def test_groups_within_conditions_are_the_unit_of_analysis(tmp_path, control):
    groups = [f"g{i // 5}" for i in range(60)]
    path = write_prompts(tmp_path / "p.csv", {"a": 30, "b": 30}, group=groups)
    grouped = apply_overrides(
        Experiment.from_prompts(path, "a - b"), [f"univariate.control={control}"]
    )
    recording = synthetic_recording(grouped)
    shared = np.random.default_rng(1).normal(size=(12, 1)) * 3
    for layers in recording.values.values():
        for layer in layers.values():
            layer += shared[np.arange(60) // 5].astype(np.float32)
    (result,) = analyze(grouped, recording)
    assert (result.n, result.counted) == ((6, 6), "groups")
    assert result.n_significant == 0
    ignored = apply_overrides(grouped, ["univariate.groups=ignore", "univariate.control=fdr_bh"])
    (naive,) = analyze(ignored, recording)
    assert naive.n == (30, 30)
    assert any("treats every prompt as independent" in w for w in naive.warnings)
    if control == "max_t":
        assert (result.permutation.exact, result.permutation.n_possible) == (True, 924)
        assert result.permutation.exchangeable == "whole"


def test_one_family_spans_all_contrasts_and_shares_its_shuffles(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 12, "b": 12, "c": 12})
    both = apply_overrides(
        Experiment.from_prompts(path, {"x": "a - b", "y": "a - c"}), ["univariate.control=max_t"]
    )
    recording = synthetic_recording(both, planted={("residual", 1): 3.0}, condition="c")
    x, y = analyze(both, recording)
    np.testing.assert_array_equal(x.permutation.null_max, y.permutation.null_max)
    assert x.first_map.family_size == y.first_map.family_size == x.n_tested + y.n_tested
    assert y.maps["residual"].significant[WIDTH : 2 * WIDTH].all()
    assert x.n_significant == 0
    again = analyze(both, recording)
    for one, other in zip((x, y), again, strict=True):
        for site in one.maps:
            np.testing.assert_array_equal(one.maps[site].p_adjusted, other.maps[site].p_adjusted)


def test_an_f_of_two_conditions_has_the_effects_of_its_t(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 14, "b": 11})
    naive = Experiment.from_prompts(path, "a - b")
    recording = synthetic_recording(naive, planted={("mlp", 0): 1.0}, condition="b")
    for f, t, more in (("f", "student", []), ("glm_f", "glm_t", ["univariate.nuisance=tokens"])):
        by_f, by_t = (
            analyze(apply_overrides(naive, [f"univariate.test={test}", *more]), recording)[0]
            for test in (f, t)
        )
        for site, expected in by_t.maps.items():
            found = by_f.maps[site]
            np.testing.assert_allclose(found.statistic, expected.statistic**2, rtol=1e-9)
            for name in ("effect_size", "effect_low", "effect_high", "p_value"):
                np.testing.assert_allclose(
                    getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-12
                )


def test_pairs_of_one_group_are_averaged(tmp_path):
    n_groups, size = 8, 6
    rng = np.random.default_rng(3)
    item = [f"i{i}" for i in range(n_groups * size)] * 2
    group = [f"g{i // size}" for i in range(n_groups * size)] * 2
    counts = {"a": n_groups * size, "b": n_groups * size}
    path = write_prompts(tmp_path / "p.csv", counts, item=item, group=group)
    paired = apply_overrides(Experiment.from_prompts(path, "a - b"), ["univariate.test=paired"])
    recording = synthetic_recording(paired)
    first = paired.prompts.rows_of("a")
    for layers in recording.values.values():
        for layer in layers.values():  # what a group does to its differences
            shift = rng.normal(size=(n_groups, layer.shape[1])) * 2
            layer[first] += np.repeat(shift, size, axis=0).astype(np.float32)
    (result,) = analyze(paired, recording)
    assert (result.n, result.counted, result.n_significant) == ((8, 8), "groups", 0)
    (naive,) = analyze(apply_overrides(paired, ["univariate.groups=ignore"]), recording)
    assert naive.n_significant > 0.1 * naive.n_tested


def test_crossed_groups_claim_no_bound_and_too_few_relabellings_are_said(tmp_path):
    group = [f"g{i % 6}" for i in range(24)]
    path = write_prompts(tmp_path / "p.csv", {"a": 12, "b": 12}, group=group)
    crossed = Experiment.from_prompts(path, "a - b")
    (result,) = analyze(crossed, synthetic_recording(crossed))
    assert result.n_true_at_least is None
    assert any("evenly on both" in w for w in result.warnings)
    few = write_prompts(
        tmp_path / "q.csv", {"a": 8, "b": 8}, group=[f"g{i // 4}" for i in range(16)]
    )
    small = apply_overrides(Experiment.from_prompts(few, "a - b"), ["univariate.control=max_t"])
    (result,) = analyze(small, synthetic_recording(small))
    assert any("6 relabellings allow no p below 0.33" in w for w in result.warnings)
    assert result.calibration is None or not result.calibration.flagged


def test_power_and_balance_are_those_of_the_design(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 18, "b": 18, "c": 18})
    omnibus = Experiment.from_prompts(path, {"any": "a | b | c"})
    found = analyze(omnibus, synthetic_recording(omnibus))[0]
    assert found.power.effect == "2f"
    level = 0.05 / found.first_map.family_size
    assert found.power.minimum_detectable_d == pytest.approx(
        2 * minimum_detectable_f([18, 18, 18], level)
    )
    assert all(" against " in pair for pair in found.balance["pair"])


def test_covariates_that_leave_nothing_are_a_users_mistake(tmp_path):
    sides = ["1"] * 12 + ["0"] * 12
    path = write_prompts(tmp_path / "p.csv", {"a": 12, "b": 12}, side=sides)
    naive = Experiment.from_prompts(path, "a - b")
    glm = apply_overrides(naive, ["univariate.test=glm_t", "univariate.nuisance=side"])
    with pytest.raises(ExperimentError, match="leave nothing of the condition to test"):
        analyze(glm, synthetic_recording(glm))
    for name in ("condition", "prompt"):
        wrong = apply_overrides(naive, ["univariate.test=glm_t", f"univariate.nuisance={name}"])
        with pytest.raises(
            ExperimentError, match=f"no column '{name}'; known: tokens, words, characters, side"
        ):
            pipeline.check_answerable(wrong)


def test_pairs_of_one_group_stay_in_one_half(tmp_path):
    item = [f"i{i}" for i in range(24)] * 2
    group = [f"g{i // 4}" for i in range(24)] * 2
    path = write_prompts(tmp_path / "p.csv", {"a": 24, "b": 24}, item=item, group=group)
    paired = apply_overrides(Experiment.from_prompts(path, "a - b"), ["univariate.test=paired"])
    halves = pipeline.halves_of(paired, paired.contrasts[0])
    assert halves.keeps_pairs
    inside = [set(np.array(group)[rows]) for rows in (halves.selection[0], halves.held_out[0])]
    assert not inside[0] & inside[1]


def test_groups_of_unequal_size_are_exchanged_as_their_means(tmp_path):
    group = [f"g{k}" for k, size in enumerate((2, 3, 4, 5, 6, 7)) for _ in range(size)]
    path = write_prompts(tmp_path / "p.csv", {"a": 9, "b": 18}, group=group)
    grouped = Experiment.from_prompts(path, "a - b")
    design = pipeline.design_of(grouped, grouped.contrasts[0])
    assert (design.means, design.n, design.exchangeable.n_relabellings) == (True, (3, 3), 20)
    drawn = {
        tuple(sorted(set(np.array(group)[design.relabelled(rng).rows[0]])))
        for rng in map(np.random.default_rng, range(300))
    }
    assert len(drawn) == 20
    assert all(len(names) == 3 for names in drawn)
