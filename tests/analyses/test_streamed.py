"""Contrasts of what streamed past against the same contrasts of what was kept."""

import tracemalloc
from functools import reduce

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats
from workbench import write_prompts

from activation_analysis import pipeline
from activation_analysis.activations import Activations
from activation_analysis.analyses.split_half import split_halves
from activation_analysis.analyses.streamed import StreamedMoments, StreamedRecording
from activation_analysis.analyses.univariate import contrast_maps, half_effects, top_units
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment, apply_overrides
from activation_analysis.statistics.hypothesis_tests import CONTRAST_TESTS, MOMENT_TESTS

NO_NULLS = "univariate.calibration=0"  # a stream has no activations to draw them from
COUNTS = {"a": 13, "bb": 30, "ccc": 21, "dddd": 16}
N = sum(COUNTS.values())
WIDTHS = {"residual": {0: 40, 2: 40}, "attention": {1: 1}, "mlp": {0: 7, 1: 160, 2: 33}}
CONTRASTS = {
    "one": "a - bb",
    "back": "bb - a",
    "shared": "a - ccc",
    "pooled": "a + bb - ccc",
    "rest": "dddd - a - bb - ccc",
}
BLOCKS = {
    "none": {},
    "item": {"item": [f"i{k}" for n in COUNTS.values() for k in range(n)]},
    "group": {"group": [f"g{k % 11}" for k in range(N)]},
}
every_moment_test = pytest.mark.parametrize("test", MOMENT_TESTS)


def make_experiment(folder, contrasts=None, columns=None, counts=COUNTS, *changes):
    path = write_prompts(folder / "p.csv", counts, **(columns or {}))
    experiment = Experiment.from_prompts(path, contrasts or CONTRASTS)
    return apply_overrides(experiment, [NO_NULLS, *changes])


def make_recording(experiment, seed=0, widths=WIDTHS) -> Activations:
    """Noise around large and small offsets, an effect of condition a, and bad units."""
    rng = np.random.default_rng(seed)
    n = len(experiment.prompts)
    in_a = experiment.prompts.rows_of("a")
    values = {
        site: {
            k: (rng.normal(size=(n, w)) + rng.choice([0, 1, 1e4], w)).astype(np.float32)
            for k, w in layers.items()
        }
        for site, layers in widths.items()
    }
    if widths is WIDTHS:
        values["mlp"][1][in_a, 10:15] += 4
        bad = values["mlp"][2]
        bad[in_a[3], 0], bad[in_a[4], 1], bad[in_a[5], 1], bad[:, 2] = np.nan, np.inf, -np.inf, 0.1
        bad[:, 3] = 0.1
        bad[in_a, 3] = 0.3
        bad[in_a, 4] = 0.1
        values["mlp"][0][:] = 7.0
    return Activations(
        prompts=experiment.prompts.texts,
        n_tokens=rng.integers(5, 9, n),
        position="last",
        model="synthetic/noise",
        n_layers=4,
        values=values,
        details={"n_truncated": "2"},
    )


def add_all(moments, recording, size, rows=None):
    """Every prompt, or some, added so many at a time."""
    rows = np.arange(len(recording)) if rows is None else rows
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        moments.add(
            some,
            {(s, k): v[some] for s, layers in recording.values.items() for k, v in layers.items()},
        )
    return moments


def streamed(recording, moments) -> StreamedRecording:
    return StreamedRecording(
        prompts=recording.prompts,
        n_tokens=recording.n_tokens,
        position=recording.position,
        model=recording.model,
        n_layers=recording.n_layers,
        widths=moments.widths(recording.sites),
        details=recording.details,
        moments=moments,
    )


def analyzed(experiment, recording):
    return pipeline.analyze(experiment, recording, progress=False)


def assert_same_result(found, expected, rtol=1e-9, atol=1e-12):
    """Every number of two results; which units, and why not, exactly."""
    assert list(found.maps) == list(expected.maps)
    for site, stat_map in expected.maps.items():
        table = stat_map.table()
        pd.testing.assert_frame_equal(found.maps[site].table(), table, rtol=rtol, atol=atol)
        np.testing.assert_array_equal(found.maps[site].excluded, stat_map.excluded)
        assert found.maps[site].family_size == stat_map.family_size
        assert found.maps[site].n == stat_map.n
    pd.testing.assert_frame_equal(found.layer_table(), expected.layer_table(), rtol=rtol, atol=atol)
    there, here = (r.top_units.table() for r in (expected, found))
    pd.testing.assert_frame_equal(here, there, rtol=rtol, atol=atol)
    assert here[["site", "layer", "index"]].equals(there[["site", "layer", "index"]])
    assert found.n_significant_by_control == expected.n_significant_by_control
    assert found.metrics() == pytest.approx(expected.metrics(), rel=rtol, nan_ok=True)
    pd.testing.assert_frame_equal(found.balance, expected.balance)
    # How alike fillings of a template are can be measured only where every prompt was kept.
    for one, other in zip(found.warnings, expected.warnings, strict=True):
        assert one == other or ("templates" in one and "templates" in other)
    same = ("power", "finding", "conditions", "model", "position", "contrast")
    for name in same:
        assert getattr(found, name) == getattr(expected, name)


# The stored path is the reference


@every_moment_test
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("seed", [0, 5])
def test_every_contrast_of_a_stream_is_that_of_the_recording(tmp_path, test, blocks, seed):
    experiment = make_experiment(
        tmp_path,
        None,
        BLOCKS[blocks],
        COUNTS,
        *(f"univariate.test={test}", f"seed={seed}", "univariate.top_n=300"),
    )
    recording = make_recording(experiment, seed)
    moments = add_all(pipeline.stream(experiment), recording, 7)
    results = analyzed(experiment, streamed(recording, moments))
    assert [r.contrast_name for r in results] == list(CONTRASTS)
    for found, expected in zip(results, analyzed(experiment, recording), strict=True):
        assert_same_result(found, expected)
    reasons = results[0].maps["mlp"].excluded
    assert reasons[:7].tolist() == ["constant"] * 7
    assert reasons[167:172].tolist() == ["nan", "inf", "constant", "constant", ""]
    assert np.isfinite(results[0].profiles["residual"].held_out_d).all()


@pytest.mark.parametrize("size", [1, 7, N])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_of_any_size_in_any_order_give_the_same(tmp_path, size, shuffle):
    experiment = make_experiment(tmp_path, {"pooled": "a + bb - ccc", "other": "bb - ccc"})
    recording = make_recording(experiment)
    rows = np.random.default_rng(size).permutation(N) if shuffle else np.arange(N)
    moments = add_all(pipeline.stream(experiment), recording, size, rows)
    for found, expected in zip(
        analyzed(experiment, streamed(recording, moments)),
        analyzed(experiment, recording),
        strict=True,
    ):
        assert_same_result(found, expected)


@pytest.mark.parametrize("n_processes", [1, 2, 3])
@pytest.mark.parametrize("through_arrays", [False, True])
def test_any_number_of_processes_merge_into_the_same(tmp_path, n_processes, through_arrays):
    experiment = make_experiment(tmp_path, {"pooled": "a + bb - ccc", "other": "bb - ccc"})
    recording = make_recording(experiment)
    expected = analyzed(experiment, recording)
    # One more process has nothing to read.
    shares = [*np.array_split(np.arange(N)[::-1], n_processes), np.arange(0)]
    streams = [add_all(pipeline.stream(experiment), recording, 5, share) for share in shares]
    if through_arrays:
        # All but the main process's come from files, whose arrays have no order of their own.
        arrays = [dict(sorted(s.to_arrays().items(), reverse=True)) for s in streams[1:]]
        streams[1:] = [StreamedMoments.from_arrays(a) for a in arrays]
    for order in (streams, streams[::-1]):
        moments = reduce(StreamedMoments.merge, order)
        found = analyzed(experiment, streamed(recording, moments))
        for one, other in zip(found, expected, strict=True):
            assert_same_result(one, other)


def test_a_stream_comes_back_from_a_file_bit_for_bit(tmp_path):
    """Parts of three processes through safetensors; a merge of them is that of what they were."""
    experiment = make_experiment(tmp_path, {"pooled": "a + bb - ccc", "other": "bb - ccc"})
    recording = make_recording(experiment)
    shares = [np.arange(N)[k::3] for k in range(3)]
    streams = [add_all(pipeline.stream(experiment), recording, 5, share) for share in shares]
    back = []
    for k, stream in enumerate(streams):
        save_file(stream.to_arrays(), tmp_path / f"{k}.safetensors")
        back.append(StreamedMoments.from_arrays(load_file(tmp_path / f"{k}.safetensors")))
    there, here = (reduce(StreamedMoments.merge, parts).to_arrays() for parts in (streams, back))
    assert there.keys() == here.keys()
    for name, array in there.items():
        np.testing.assert_array_equal(here[name], array)
    found = analyzed(experiment, streamed(recording, reduce(StreamedMoments.merge, back)))
    for one, other in zip(found, analyzed(experiment, recording), strict=True):
        assert_same_result(one, other)


@every_moment_test
def test_a_stream_agrees_with_scipy(tmp_path, test):
    experiment = make_experiment(
        tmp_path, {"x": "a - dddd"}, None, COUNTS, f"univariate.test={test}"
    )
    recording = make_recording(experiment)
    (found,) = analyzed(
        experiment, streamed(recording, add_all(pipeline.stream(experiment), recording, 9))
    )
    rows = [experiment.prompts.rows_of(c) for c in ("a", "dddd")]
    a, b = (recording.matrix("residual")[r].astype(float) for r in rows)
    if test == "f":
        expected = stats.f_oneway(a, b)
    else:
        expected = stats.ttest_ind(a, b, equal_var=test == "student")
    np.testing.assert_allclose(found.maps["residual"].statistic, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.maps["residual"].p_value, expected.pvalue, rtol=1e-9)


def test_prompts_of_no_contrast_are_added_and_change_nothing(tmp_path):
    experiment = make_experiment(tmp_path, {"x": "a - ccc"})
    recording = make_recording(experiment)
    aside = np.concatenate([experiment.prompts.rows_of(c) for c in ("bb", "dddd")])
    (expected,) = analyzed(experiment, recording)
    for layers in recording.values.values():
        for layer in layers.values():
            layer[aside] = np.nan
    moments = pipeline.stream(experiment)
    add_all(moments, recording, 5, aside)  # a process may have read nothing else
    rest = np.setdiff1d(np.arange(N), aside)
    add_all(moments, recording, 5, rest)
    (found,) = analyzed(experiment, streamed(recording, moments))
    assert_same_result(found, expected)


def test_contrasts_that_share_a_half_share_its_moments(tmp_path):
    experiment = make_experiment(tmp_path)
    n_groups = len(pipeline.stream(experiment).groups)
    assert n_groups < 2 * sum(len(c.conditions) for c in experiment.contrasts)
    once = make_experiment(tmp_path, {"x": "a - bb", "y": "a - bb"})
    assert len(pipeline.stream(once).groups) == 4


@every_moment_test
def test_halves_too_small_to_measure_are_left_unmeasured(tmp_path, test):
    experiment = make_experiment(
        tmp_path, {"x": "a - bb"}, None, {"a": 3, "bb": 2}, f"univariate.test={test}"
    )
    recording = make_recording(experiment, widths={"mlp": {0: 30}})
    (expected,) = analyzed(experiment, recording)
    moments = add_all(pipeline.stream(experiment), recording, 2)
    (found,) = analyzed(experiment, streamed(recording, moments))
    assert_same_result(found, expected)
    assert found.top_units.units["held_out_d"].isna().all()


def test_one_block_that_cannot_be_split_leaves_one_half_empty(tmp_path):
    counts = {"a": 12, "bb": 12}
    experiment = make_experiment(tmp_path, {"x": "a - bb"}, {"group": ["g"] * 24}, counts)
    recording = make_recording(experiment, widths={"mlp": {0: 30}})
    moments = pipeline.stream(experiment)
    assert len(moments.groups) == 2
    (found,) = analyzed(experiment, streamed(recording, add_all(moments, recording, 5)))
    (expected,) = analyzed(experiment, recording)
    assert_same_result(found, expected)


# Planted effects


def test_a_planted_effect_is_found_and_nothing_else(tmp_path):
    experiment = make_experiment(
        tmp_path, {"x": "a - bb", "null": "ccc - dddd"}, None, COUNTS, "univariate.control=holm"
    )
    recording = make_recording(experiment)
    moments = add_all(pipeline.stream(experiment), recording, 8)
    found, null = analyzed(experiment, streamed(recording, moments))
    significant = {
        (site, int(m.units.layer[i]), int(m.units.index[i]))
        for site, m in found.maps.items()
        for i in np.flatnonzero(m.significant)
    }
    assert {("mlp", 1, i) for i in range(10, 15)} <= significant
    assert len(significant) <= 6
    assert null.n_significant <= 1
    top = found.top_units.units.head(5)
    assert set(zip(top["site"], top["layer"], top["index"], strict=True)) == {
        ("mlp", 1, i) for i in range(10, 15)
    }
    assert top["held_out_d"].min() > 1.5


def test_null_units_of_a_stream_have_uniform_p_values(tmp_path):
    experiment = make_experiment(tmp_path, {"x": "bb - ccc"})
    recording = make_recording(experiment, widths={"mlp": {0: 8000}})
    moments = add_all(pipeline.stream(experiment), recording, 6)
    (found,) = analyzed(experiment, streamed(recording, moments))
    assert stats.kstest(found.maps["mlp"].p_value, "uniform").statistic < 0.02
    assert (
        abs(found.profiles["mlp"].held_out_d[0]) < 0.2 < 0.8 < found.profiles["mlp"].selected_d[0]
    )


# Memory


def test_memory_does_not_grow_with_the_prompts():
    width, size = 3000, 20

    def peak(n):
        rng = np.random.default_rng(0)
        halves = split_halves(range(n // 2), range(n // 2, n), rng=rng)
        tracemalloc.start()
        moments = StreamedMoments.of(n, [halves])
        for start in range(0, n, size):
            batch = rng.standard_normal((size, width), dtype=np.float32)
            moments.add(np.arange(start, start + size), {("mlp", 0): batch})
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few, many = peak(200), peak(4000)
    # Batches fall unevenly on the halves; 4000 prompts themselves would take 48 MB.
    assert many < 1.3 * few < 4e6


# Refusals


@pytest.fixture
def made(tmp_path):
    experiment = make_experiment(tmp_path, {"x": "a - bb"})
    return experiment, make_recording(experiment), pipeline.stream(experiment)


@pytest.mark.parametrize("rows", [[3], [40, 41, 3], [50, 50], [50, 51, 50]])
def test_a_prompt_is_added_once_and_a_refused_batch_leaves_no_trace(made, rows):
    _, recording, moments = made
    add_all(moments, recording, 5, np.arange(20))
    before = moments.to_arrays()
    with pytest.raises(ValueError, match=r"prompts (3|50) are added a second time"):
        add_all(moments, recording, 5, np.array(rows))
    after = moments.to_arrays()
    assert list(after) == list(before)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_missing_prompts_are_named(made):
    experiment, recording, moments = made
    add_all(moments, recording, 5, np.arange(7, N))
    with pytest.raises(ValueError, match=r"prompts 0, 1, 2, 3, 4, ... \(7 in all\) were never add"):
        analyzed(experiment, streamed(recording, moments))


def test_unknown_prompts_are_refused(made):
    _, recording, moments = made
    for rows in ([N], [-1]):
        batch = {("mlp", 0): recording.values["mlp"][0][rows[:0] or [0]]}
        with pytest.raises(
            ValueError, match=f"no prompts {rows[0]}; there are {N}, the first is 0"
        ):
            moments.add(rows, batch)


def test_batches_of_other_units_are_refused(made):
    _, _, moments = made
    moments.add([0, 1], {("mlp", 0): np.ones((2, 5)), ("mlp", 1): np.ones((2, 5))})
    for values, message in (
        ({("mlp", 0): np.ones((2, 5))}, "has 1 layers of 5 units, those before it 2 layers of 10"),
        ({("mlp", 0): np.ones((2, 5)), ("mlp", 1): np.ones((2, 6))}, "2 layers of 11 units"),
        ({("mlp", 0): np.ones((2, 5)), ("mlp", 2): np.ones((2, 5))}, "same sites, layers and"),
        ({("mlp", 0): np.ones((3, 5)), ("mlp", 1): np.ones((2, 5))}, r"expected \(2, width\)"),
        ({("mlp", 0): np.ones(2), ("mlp", 1): np.ones((2, 5))}, r"has shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            moments.add([2, 3], values)
    assert moments.seen.sum() == 2


def test_streams_that_do_not_fit_together_are_refused(made, tmp_path):
    experiment, recording, moments = made
    add_all(moments, recording, 5, np.arange(20))
    with pytest.raises(ValueError, match=r"prompts 15, 16, 17, 18, 19 are in both streams"):
        moments.merge(add_all(pipeline.stream(experiment), recording, 5, np.arange(15, N)))
    other = pipeline.stream(experiment)
    other.add([30], {("mlp", 0): np.ones((1, 5))})
    with pytest.raises(ValueError, match="differ in sites, layers or widths"):
        moments.merge(other)
    with pytest.raises(ValueError, match="of other prompts or contrasts"):
        moments.merge(pipeline.stream(apply_overrides(experiment, ["seed=9"])))


def test_another_seed_or_contrast_than_the_streams_is_refused(made):
    experiment, recording, moments = made
    left = streamed(recording, add_all(moments, recording, 5))
    for other in (apply_overrides(experiment, ["seed=9"]), experiment.with_contrasts("a - ccc")):
        with pytest.raises(ValueError, match="no side or half of a contrast that the stream was"):
            analyzed(other, left)


@pytest.mark.parametrize("test", sorted(set(CONTRAST_TESTS) - set(MOMENT_TESTS)))
def test_tests_of_whole_data_are_refused_before_anything_is_read(tmp_path, test):
    columns = {"item": [f"i{k % 9}" for k in range(18)]}
    experiment = make_experiment(
        tmp_path, {"x": "a - bb"}, columns, {"a": 9, "bb": 9}, f"univariate.test={test}"
    )
    message = (
        rf"test '{test}' needs every activation at once.*use student or welch or f, or leave out"
    )
    with pytest.raises(ExperimentError, match=message):
        pipeline.stream(experiment)


def test_tests_of_whole_data_are_refused_of_a_stream_too(made):
    experiment, recording, moments = made
    left = streamed(recording, add_all(moments, recording, 5))
    halves = pipeline.halves_of(experiment, experiment.contrasts[0])
    rows = [experiment.prompts.rows_of(c) for c in ("a", "bb")]
    with pytest.raises(ValueError, match="known by its moments only"):
        contrast_maps(left, *rows, test="mannwhitney")
    effects = half_effects(left, halves)
    ranked = contrast_maps(recording, *rows, test="mannwhitney")
    with pytest.raises(ValueError, match="known by its moments only"):
        top_units(left, ranked, effects)
