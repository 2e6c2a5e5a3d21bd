"""Runs in a real MLflow store: every name of the contract, and what a failure leaves behind."""

import base64
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zlib

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from workbench import (
    LAYERS,
    ROOT,
    clean_environment,
    fresh_store,
    mlflow_server,
    synthetic_recording,
    wait_until,
    write_prompts,
)

from activation_analysis import contract, pipeline, tracking, workspace
from activation_analysis.errors import StoreError, TrackingError
from activation_analysis.experiment import Experiment, apply_overrides, read_experiment
from activation_analysis.figures import gallery
from activation_analysis.pipeline import Outcome, Seconds
from activation_analysis.provenance import provenance
from activation_analysis.store import read_activations
from activation_analysis.tracking import runs_view

SUMMARIES = ("peak_layer", "peak_depth", "max_prop_significant", "n_significant", "max_abs_d")
STATISTICS = (
    *("n_tested", "n_excluded", "mean_abs_d", "median_abs_d", "max_abs_d", "n_large_d"),
    *("n_significant", "prop_significant", "selected_d", "held_out_d"),
)
MADE_BY = provenance()


def blank(*_):
    return Figure(figsize=(1, 1))


@pytest.fixture
def store(tmp_path, tmp_path_factory, monkeypatch):
    """A store of its own for every test; its folder."""
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(fresh_store(tmp_path_factory.getbasetemp()), folder)
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    elsewhere = tmp_path / "mlruns"  # of a workspace whose store is not used
    elsewhere.mkdir()
    monkeypatch.setattr(tracking.connection, "runs_folder", lambda root=None: elsewhere)
    # Blank ones, since drawing is most of the time that a run takes.
    names = ("layer_profile", "held_out", "top_units")
    monkeypatch.setattr(gallery, "FIGURES", dict.fromkeys(names, blank))
    monkeypatch.setattr(gallery, "SITE_FIGURES", {"heatmap": blank})
    yield folder
    while mlflow.active_run():
        mlflow.end_run()


def two_conditions(folder, *changes):
    path = write_prompts(folder / "feelings.csv", {"a": 16, "b": 16})
    return apply_overrides(
        Experiment.from_prompts(path, "a - b", question="Which units [differ]?"), changes
    )


def outcome_of(experiment, recording=None):
    planted = {("mlp", 2): 3.0}
    condition = experiment.prompts.conditions[0]
    recording = recording or synthetic_recording(experiment, planted=planted, condition=condition)
    results = pipeline.analyze(experiment, recording, progress=False)
    return Outcome(experiment, recording, results, Seconds(1.0, 2.0, 3.0, 4.0))


def track(experiment, outcome=None, *, capture_run=None, **options):
    outcome = outcome or outcome_of(experiment)
    options.setdefault("run_name", outcome.run_name)
    with tracking.tracked_run(experiment, **options) as run:
        children = tracking.log_outcome(run, outcome, MADE_BY, capture_run=capture_run)
    return tracking.find_run(run.run_id), [tracking.find_run(c) for c in children]


def files_of(run):
    place = tracking.local_artifacts(run)
    return {f.relative_to(place).as_posix() for f in place.rglob("*") if f.is_file()}


def test_the_experiment_of_a_run_keeps_a_view_with_its_summaries_as_columns(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    kept = mlflow.get_experiment(run.experiment_id).tags[runs_view.TAG]
    packed = base64.b64decode(kept.removeprefix("deflate;"))
    columns = json.loads(zlib.decompress(packed))["selectedColumns"]
    metrics = [c.split("`")[1] for c in columns if c.startswith("metrics.")]
    sites = {metric.rpartition("/")[2] for metric in metrics}
    known = {f"{name}/{site}" for site in sites for name in (*SUMMARIES, "held_out_d")}
    assert set(metrics) <= known
    assert tracking.experiment_link("http://here").endswith(f"viewStateShareKey={runs_view.KEY}")


def test_every_name_of_the_contract_is_there(store, tmp_path):
    experiment = two_conditions(tmp_path, "univariate.alpha=0.01", "seed=3")
    outcome = outcome_of(experiment)
    run, (same,) = track(experiment, outcome)
    (result,) = outcome.results
    client = mlflow.MlflowClient()
    assert same.run_id == run.run_id
    assert run.status == "FINISHED"
    assert run.name == "noise·feelings"
    assert mlflow.get_experiment(run.experiment_id).name == "activation_analysis"

    # Per layer, step = layer.
    for site in ("residual", "mlp"):
        for statistic in STATISTICS:
            history = client.get_metric_history(run.run_id, f"{site}/{statistic}")
            assert [point.step for point in history] == list(range(LAYERS))
            expected = getattr(result.profiles[site], statistic)
            np.testing.assert_array_equal([point.value for point in history], expected)
    depth = client.get_metric_history(run.run_id, "depth")
    assert [(p.step, p.value) for p in depth] == [(k, k / (LAYERS - 1)) for k in range(LAYERS)]

    # Stepless summaries.
    for site in ("residual", "mlp"):
        for name in SUMMARIES:
            assert f"{name}/{site}" in run.metrics
    assert run.metrics["peak_layer/mlp"] == 2
    assert run.metrics["peak_depth/mlp"] == pytest.approx(2 / (LAYERS - 1))
    assert run.metrics["n_significant/mlp"] == result.profiles["mlp"].n_significant.sum()
    assert run.metrics["seconds/forward"] == 2.0

    expected = {
        "model.id": "synthetic/noise",
        "model.revision": "",
        "model.sha256": "0" * 64,
        "model.n_layers": str(LAYERS),
        "model.dtype": "float32",
        "prompts.set": "feelings",
        "prompts.sha256": experiment.prompts.fingerprint,
        "prompts.n_a": "16",
        "prompts.n_b": "16",
        "contrast": "a - b",
        "capture.sites": "residual,mlp",
        "capture.position": "last",
        "analysis.test": "welch",
        "analysis.control": "fdr_bh",
        "analysis.alpha": "0.01",
        "analysis.seed": "3",
        "code.version": MADE_BY.version,
    }
    assert expected.items() <= run.params.items()
    leaves = {name for name in experiment.leaves() if name != "seed"}
    assert leaves <= set(run.params)
    assert run.params["univariate.top_n"] == "20"

    tags = run.tags
    assert tags["aa.schema"] == contract.SCHEMA == "1"
    assert tags["aa.kind"] == "experiment"
    assert tags["aa.model"] == "synthetic/noise"
    assert tags["aa.prompts"] == "feelings"
    assert tags["aa.contrast"] == "a - b"
    assert tags["aa.complete"] == "1"
    assert tags["aa.exit"] == "ok"
    assert tags["aa.capture"] == outcome.capture_key
    assert tags["aa.capture_run"] == run.run_id
    assert tags["git.dirty"] in ("true", "false")
    assert tags["mlflow.runColor"].startswith("#")
    assert tags["mlflow.note.content"].startswith("a - b: 25 of 200 units (12.5 %) differ")

    (given,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert given.dataset.name == "feelings"
    assert experiment.prompts.fingerprint.startswith(given.dataset.digest)

    roots = {"layer_profile.png", "summary.md", "top_units.csv", "manifest.json"}
    assert roots <= {f for f in files_of(run) if "/" not in f}
    assert {f.split("/")[0] for f in files_of(run) if "/" in f} == {
        *("tables", "figures", "activations", "prompts", "env")
    }
    assert "activations/shard-00000.safetensors" in files_of(run)
    assert "tables/units_mlp.parquet" in files_of(run)


def test_artifacts_lie_beside_the_database_that_the_environment_names(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    assert tracking.local_artifacts(run).is_relative_to(store / "artifacts")
    assert [f.name for f in (tmp_path / "mlruns").iterdir()] == ["spool"]


def test_what_is_stored_reads_back_equal(store, tmp_path):
    experiment = two_conditions(tmp_path)
    outcome = outcome_of(experiment)
    run, _ = track(experiment, outcome)
    with tracking.stored(run) as (capture, folder):
        assert read_activations(capture) == outcome.activations
        again = read_experiment(folder)
    assert again.prompts.fingerprint == experiment.prompts.fingerprint
    assert again.name == experiment.name
    assert again.contrasts == experiment.contrasts
    assert again.univariate == experiment.univariate
    place = tracking.local_artifacts(run)
    table = pd.read_parquet(place / "tables" / "units_mlp.parquet")
    np.testing.assert_array_equal(table["p_value"], outcome.results[0].maps["mlp"].p_value)
    assert pd.read_csv(place / "top_units.csv")["site"].eq("mlp").all()


def test_the_manifest_hashes_every_file_and_was_written_last(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    place = tracking.local_artifacts(run)
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["run_id"] == run.run_id
    assert manifest["schema"] == "1"
    assert set(manifest["files"]) == files_of(run) - {"manifest.json"}
    for name, stated in manifest["files"].items():
        content = (place / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == stated["sha256"], name
        assert len(content) == stated["bytes"]
    newest = max(f.stat().st_mtime_ns for f in place.rglob("*") if f.is_file())
    assert (place / "manifest.json").stat().st_mtime_ns == newest
    assert not list((tmp_path / "mlruns" / "spool").iterdir())


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("the disk is on fire"), "FAILED", "RuntimeError: the disk is on fire"),
        (StoreError("x" * 9000), "FAILED", "StoreError: xxx"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("when", ["while computing", "while logging"])
def test_a_failure_leaves_its_reason_and_no_complete_run(
    store, tmp_path, monkeypatch, error, status, reason, when
):
    experiment = two_conditions(tmp_path)

    def fail(*_, **__):
        raise error

    if when == "while logging":
        monkeypatch.setattr(tracking.outcomes.run_folder, "seal", fail)
    else:
        monkeypatch.setattr(tracking, "log_outcome", fail)
    with pytest.raises(type(error)):
        track(experiment)
    (left,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    left = tracking.find_run(left.info.run_id)
    assert left.status == status
    assert left.tags["aa.complete"] == "0"
    assert left.tags["aa.exit"].startswith(reason)
    assert tracking.list_runs() == []
    assert mlflow.active_run() is None
    with pytest.raises(TrackingError, match="no complete run is called 'latest'"):
        tracking.find_run("latest")


def several_contrasts(folder):
    path = write_prompts(folder / "three.csv", {"a": 16, "b": 16, "c": 16})
    return Experiment.from_prompts(path, {"ab": "a - b", "pooled": "a + b - c"})


def test_several_contrasts_are_a_parent_with_a_complete_child_each(store, tmp_path):
    experiment = several_contrasts(tmp_path)
    parent, children = track(experiment)
    assert parent.name == "noise·three"
    assert [c.name for c in children] == ["noise·three·ab", "noise·three·pooled"]
    assert [c.tags["aa.contrast"] for c in children] == ["a - b", "a + b - c"]
    assert [c.params["contrast"] for c in children] == ["a - b", "a + b - c"]
    assert "aa.contrast" not in parent.tags
    assert "contrast" not in parent.params
    for run in (parent, *children):
        assert run.status == "FINISHED"
        assert run.tags["aa.kind"] == "experiment"
        assert run.tags["aa.schema"] == "1"
        assert run.tags["aa.complete"] == "1"
        assert run.tags["aa.exit"] == "ok"
        assert run.tags["aa.capture_run"] == parent.run_id
    assert {c.parent_id for c in children} == {parent.run_id}
    assert {c.experiment_id for c in children} == {parent.experiment_id}
    assert "activations/shard-00000.safetensors" in files_of(parent)
    for child in children:
        assert not any(f.startswith("activations/") for f in files_of(child))
        assert "layer_profile.png" in files_of(child)
        assert "peak_layer/mlp" in child.metrics
    assert parent.tags["mlflow.note.content"].startswith("- a - b: ")
    assert tracking.find_run("latest").run_id == parent.run_id


def test_a_child_is_analysed_by_its_own_contrast_from_its_parents_capture(store, tmp_path):
    experiment = several_contrasts(tmp_path)
    outcome = outcome_of(experiment)
    parent, (_, child) = track(experiment, outcome)
    with tracking.stored(child) as (capture, folder):
        again = read_experiment(folder)
        recording = read_activations(capture)
    assert [str(c) for c in again.contrasts] == ["a + b - c"]
    assert recording == outcome.activations
    changed = apply_overrides(again, ["univariate.test=mannwhitney"])
    second = pipeline.rerun_analysis(changed, recording, progress=False)
    repeated, _ = track(changed, second, capture_run=child.tags["aa.capture_run"])
    assert repeated.tags["aa.capture_run"] == parent.run_id
    assert repeated.tags["aa.capture"] == parent.tags["aa.capture"]
    with tracking.stored(repeated) as (capture, folder):
        third = read_experiment(folder)
        assert read_activations(capture) == recording
    assert third.univariate.test == "mannwhitney"  # an analysis of an analysis starts from it


def test_an_interrupted_child_ends_its_parent_too(store, tmp_path, monkeypatch):
    experiment = several_contrasts(tmp_path)
    outcome = outcome_of(experiment)
    write_result, calls = tracking.outcomes.run_folder.write_result, []

    def second_time(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_result(*arguments)

    monkeypatch.setattr(tracking.outcomes.run_folder, "write_result", second_time)
    with pytest.raises(KeyboardInterrupt), tracking.tracked_run(experiment, run_name="x") as run:
        tracking.log_outcome(run, outcome, MADE_BY)
    found = mlflow.search_runs([run.experiment_id], output_format="list")
    by_name = {r.info.run_name: r for r in found}
    assert by_name["x"].info.status == "KILLED"
    assert by_name["noise·three·pooled"].info.status == "KILLED"
    assert by_name["noise·three·pooled"].data.tags["aa.complete"] == "0"
    assert by_name["noise·three·pooled"].data.tags["aa.exit"] == "KeyboardInterrupt"
    assert [r.name for r in tracking.list_runs()] == ["noise·three·ab"]


def test_infinity_never_reaches_mlflow_and_nan_does_no_harm(store, tmp_path):
    experiment = two_conditions(tmp_path)
    recording = synthetic_recording(experiment)
    rows = experiment.prompts.rows_of("a")
    recording.values["mlp"][1][:] = 0
    recording.values["mlp"][1][rows] = 1  # constant in both groups, and different
    recording.values["residual"][0][:] = 5  # nothing to test in a whole layer
    run, _ = track(experiment, outcome_of(experiment, recording))
    client = mlflow.MlflowClient()
    points = [
        point.value for key in run.metrics for point in client.get_metric_history(run.run_id, key)
    ]
    assert max(abs(value) for value in points if not math.isnan(value)) < 1e6
    history = client.get_metric_history(run.run_id, "residual/mean_abs_d")
    assert [point.step for point in history] == list(range(LAYERS))
    assert math.isnan(history[0].value)


def test_a_figure_that_fails_leaves_tables_and_metrics_and_is_named(store, tmp_path, monkeypatch):
    def cannot_draw(*_):
        raise ValueError("no ink")

    def cannot_render(result):
        figure = Figure()
        figure.text(0, 0, "$x_{$")  # only shows when the figure is saved
        return figure

    monkeypatch.setitem(gallery.FIGURES, "layer_profile", cannot_draw)
    monkeypatch.setitem(gallery.FIGURES, "top_units", cannot_render)
    run, _ = track(two_conditions(tmp_path))
    assert run.status == "FINISHED"
    assert run.tags["aa.complete"] == "1"
    assert run.tags["aa.exit"].startswith("figures missing: layer_profile: no ink; top_units: ")
    files = files_of(run)
    assert "layer_profile.png" not in files
    assert "figures/top_units.png" not in files
    assert {"summary.md", "top_units.csv", "tables/units_mlp.parquet"} <= files
    assert {"figures/heatmap_mlp.png", "figures/held_out.png"} <= files
    assert "mlp/max_abs_d" in run.metrics


ODD_CONDITIONS = [
    ("a/b $x", "a/b #x"),
    ("a//b", "../b"),
    ("/abs", "end/"),
    ("数学", "非数学 😀"),
    ("[red]", "[/INST]"),
    ("x" * 300, "x" * 299 + "y"),
]


@pytest.mark.parametrize("conditions", ODD_CONDITIONS, ids=lambda pair: pair[0][:8])
def test_any_condition_can_be_counted_in_the_params(store, tmp_path, conditions):
    first, second = conditions
    rows = [f'"{c}","prompt {i} {j}"' for j, c in enumerate(conditions) for i in range(3 + j)]
    (tmp_path / "odd.csv").write_text("condition,prompt\n" + "\n".join(rows), encoding="utf-8")
    experiment = Experiment.from_prompts(tmp_path / "odd.csv", {"odd": f'"{first}" - "{second}"'})
    run, _ = track(experiment)
    counts = {k: v for k, v in run.params.items() if k.startswith("prompts.n_")}
    assert sorted(counts.values()) == ["3", "4"], counts
    assert run.params["contrast"] == f'"{first}" - "{second}"'
    assert run.tags["aa.exit"] == "ok"


def test_a_name_that_is_fine_stays_as_it_is(store, tmp_path):
    names = {"prompts.n_a/b _x", "prompts.n_数学"}
    assert {contract._key("prompts.n_a/b $x"), contract._key("prompts.n_数学")} == names


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        ("bemused-colt-123", "", "noise·feelings"),
        ("my-run-1", "", "my-run-1"),
        ("big-model-2", "", "big-model-2"),
        ("bemused-colt-123", "mine", "mine"),
    ],
)
def test_the_run_of_mlflow_run_is_joined_and_keeps_the_name_its_user_gave(
    store, tmp_path, monkeypatch, given, named, expected
):
    experiment = two_conditions(tmp_path)
    tracking.connect()
    client = mlflow.MlflowClient()
    opened = client.create_run("0", run_name=given)
    client.set_tag(opened.info.run_id, "mlflow.gitRepoURL", "https://me:token@host/repo")
    client.log_param(opened.info.run_id, "contrast", "''")  # as mlflow run logs its parameters
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    run, _ = track(experiment, named=named)
    assert run.run_id == opened.info.run_id
    assert run.name == expected
    assert run.status == "FINISHED"
    assert run.tags["aa.complete"] == "1"
    assert run.params["contrast"] == "''"
    assert run.tags["mlflow.gitRepoURL"] == "https://***@host/repo"
    assert run.tags["aa.contrast"] == "a - b"


def test_mlflow_still_draws_names_that_are_recognised():
    from mlflow.utils.name_utils import _generate_random_name

    assert all(tracking.runs._is_made_up(_generate_random_name()) for _ in range(200))


def test_a_deleted_mlflow_experiment_is_explained(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    mlflow.delete_experiment(run.experiment_id)
    restore = f"mlflow experiments restore --experiment-id {run.experiment_id}"
    with pytest.raises(TrackingError, match=restore):
        track(two_conditions(tmp_path))
    assert tracking.list_runs() == []


def test_artifacts_that_are_gone_are_explained(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    shutil.move(store / "artifacts", tmp_path / "elsewhere")
    with (
        pytest.raises(TrackingError, match=rf"run {run.run_id} .* has no activations: .*moved"),
        tracking.stored(run),
    ):
        pass


def test_a_damaged_capture_is_named(store, tmp_path):
    run, _ = track(two_conditions(tmp_path))
    file = tracking.local_artifacts(run) / "activations" / "shard-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with (
        tracking.stored(run) as (capture, _),
        pytest.raises(StoreError, match=r"shard-00000\.safetensors: its bytes changed"),
    ):
        read_activations(capture)


def test_runs_are_found_by_id_start_of_id_name_and_latest(store, tmp_path):
    experiment = two_conditions(tmp_path)
    outcome = outcome_of(experiment)
    first, _ = track(experiment, outcome, named="first")
    second, _ = track(experiment, outcome, named="it's the second")
    for reference, expected in {
        first.run_id: first,
        first.run_id[:12]: first,
        "first": first,
        "it's the second": second,
        "latest": second,
    }.items():
        assert tracking.find_run(reference).run_id == expected.run_id
    with pytest.raises(
        TrackingError, match=f"no complete run is called 'third'(?s:.*){first.run_id}"
    ):
        tracking.find_run("third")
    with pytest.raises(TrackingError, match="no run 0000"):
        tracking.find_run("0" * 32)
    assert [r.run_id for r in tracking.list_runs(prompts="feelings")] == [
        second.run_id,
        first.run_id,
    ]
    assert tracking.list_runs(model="it's another") == []
    assert tracking.list_runs(prompts="other") == []


def test_two_runs_of_one_name_are_listed_for_choice(store, tmp_path):
    experiment = two_conditions(tmp_path)
    outcome = outcome_of(experiment)
    ids = [track(experiment, outcome)[0].run_id for _ in range(2)]
    with pytest.raises(TrackingError, match="more than one run") as error:
        tracking.find_run("noise·feelings")
    assert all(run_id in str(error.value) for run_id in ids)


def test_the_note_cannot_become_markup(store, tmp_path):
    hostile = "<img src=x onerror=alert(1)> [a](javascript:b) **c**"
    experiment = apply_overrides(two_conditions(tmp_path), [f"question={hostile}"])
    run, _ = track(experiment)
    note = run.tags["mlflow.note.content"]
    assert r"\<img src=x onerror=alert(1)\> \[a\](javascript:b) \*\*c\*\*" in note
    assert len(note) <= contract.LONGEST_TAG


def test_secrets_of_a_tracking_uri_reach_no_message():
    uri = "https://user:pass@host/path?x=1"
    assert tracking.without_secrets(f"no {uri} here") == "no https://***@host/path?x=1 here"
    assert "pass" not in tracking.runs._reason(ValueError(uri))


def test_a_server_that_does_not_answer_is_one_clear_message(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="cannot open the tracking store") as error:
        tracking.connect()
    assert "secret" not in str(error.value)


# Where the store is.


def test_the_store_is_found_from_a_folder_below(tmp_path, tmp_path_factory):
    project = tmp_path / "project"
    deep = project / "notebooks" / "deep"
    deep.mkdir(parents=True)
    (project / "MLproject").write_text("name: activation_analysis\n")
    (project / "mlruns").mkdir()
    shutil.copy(fresh_store(tmp_path_factory.getbasetemp()), project / "mlruns")
    answer = subprocess.run(
        [sys.executable, "-c", "from activation_analysis import tracking as t; print(t.connect())"],
        cwd=deep,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == f"sqlite:///{project}/mlruns/mlflow.db"
    assert list(deep.iterdir()) == []


def test_the_workspace_is_the_checkout_from_a_folder_outside(tmp_path):
    assert workspace.workspace_root(tmp_path) == ROOT
    (tmp_path / "MLproject").write_text("name: another_project\n")
    assert workspace.workspace_root(tmp_path) == ROOT
    (tmp_path / "MLproject").write_text("name: activation_analysis\n")
    assert workspace.workspace_root(tmp_path / "sub") == tmp_path


def test_processes_that_open_a_fresh_store_at_once_all_succeed(tmp_path_factory):
    """Two made the store that every test here copies, and one experiment in it."""
    assert fresh_store(tmp_path_factory.getbasetemp()).is_file()


def test_a_terminated_run_is_killed_with_its_reason(store, tmp_path):
    """SIGTERM in the middle of a run, from outside."""
    write_prompts(tmp_path / "feelings.csv", ["a", "b"])
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
from activation_analysis import cli, commands, pipeline
pipeline.prepare = lambda experiment: None
def wait(*_, **__):
    print("inside", flush=True)
    time.sleep(60)
pipeline.run = wait
sys.exit(cli.main(["run", "feelings.csv"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(MLFLOW_TRACKING_URI=os.environ["MLFLOW_TRACKING_URI"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "inside\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == "stopped\n"
    tracking.connect()
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "KILLED"
    assert run.data.tags["aa.exit"] == "KeyboardInterrupt: SIGTERM"
    assert run.data.tags["aa.complete"] == "0"


def test_a_server_over_http_holds_the_same(store, tmp_path, monkeypatch, capfd):
    experiment = several_contrasts(tmp_path)
    outcome = outcome_of(experiment)
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with mlflow_server(tmp_path) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        parent, children = track(experiment, outcome)
        assert parent.status == "FINISHED"
        assert [c.tags["aa.complete"] for c in (parent, *children)] == ["1", "1", "1"]
        assert tracking.local_artifacts(parent) is None
        with tracking.stored(children[0]) as (capture, folder):
            assert read_activations(capture) == outcome.activations
            assert [str(c) for c in read_experiment(folder).contrasts] == ["a - b"]
        assert not capture.exists()
        served = {f.path for f in mlflow.MlflowClient().list_artifacts(children[0].run_id)}
        assert {"manifest.json", "summary.md", "layer_profile.png", "top_units.csv"} <= served
        history = mlflow.MlflowClient().get_metric_history(children[0].run_id, "mlp/max_abs_d")
        assert [point.step for point in history] == list(range(LAYERS))
        assert tracking.list_runs()[-1].run_id == parent.run_id
    assert wait_until(lambda: not capture.exists())
    assert "View run" not in capfd.readouterr().out
