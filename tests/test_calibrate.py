"""The command `calibrate` on a real store, and the short calibration inside every experiment."""

import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from workbench import LAYERS, WIDTH, synthetic_recording, write_prompts

from activation_analysis import cli, pipeline, tracking
from activation_analysis.analyses.error_control import ErrorControl
from activation_analysis.analyses.streamed import StreamedRecording
from activation_analysis.experiment import Experiment, apply_overrides
from activation_analysis.figures import gallery
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import provenance
from activation_analysis.report.summary import summary_markdown
from activation_analysis.store import write_activations
from activation_analysis.study_calibration import quick_calibration

N_TEMPLATES, N_FILLINGS = 10, 6


def templates(folder) -> Experiment:
    """Ten templates, each within one of two conditions."""
    group = [f"t{i // N_FILLINGS}" for i in range(N_TEMPLATES * N_FILLINGS)]
    path = write_prompts(folder / "templates.csv", {"a": 30, "b": 30}, group=group)
    return Experiment.from_prompts(path, "a - b")


def templated_recording(experiment):
    recording = synthetic_recording(experiment)
    rng = np.random.default_rng(5)
    for layers in recording.values.values():
        for x in layers.values():
            x += np.repeat(rng.standard_normal((N_TEMPLATES, WIDTH)), N_FILLINGS, axis=0)
    return recording


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    """Those of a contrast are drawn elsewhere."""
    monkeypatch.setattr(gallery, "FIGURES", {"layer_profile": lambda *_: Figure(figsize=(1, 1))})
    monkeypatch.setattr(gallery, "SITE_FIGURES", {})


def tracked_templates(folder):
    experiment = templates(folder)
    recording = templated_recording(experiment)
    outcome = Outcome(experiment, recording, pipeline.analyze(experiment, recording))
    with tracking.tracked_run(experiment, run_name=outcome.run_name) as run:
        tracking.log_outcome(run, outcome, provenance())
    return experiment, recording, tracking.find_run(run.run_id)


def test_the_command_flags_naive_templates_passes_grouped_ones_and_tracks_both(workspace, capsys):
    _, _, source = tracked_templates(workspace)
    options = ["--relabellings", "40", "--units", "100"]
    assert cli.main(["calibrate", "latest", "--groups", "ignore", *options]) == 0
    shown = capsys.readouterr().out
    assert "a - b: calibration flagged (welch, fdr_bh at 0.05, 96 of 200 units)" in shown
    assert "all 20" in shown
    assert cli.main(["calibrate", "latest", *options, "--run-name", "grouped"]) == 0
    shown = capsys.readouterr().out
    assert "calibration passes" in shown
    assert "figures/calibration_p_values.png" in shown

    naive, grouped = sorted(
        (r for r in tracking.list_runs(kind="calibration")), key=lambda r: r.name == "grouped"
    )
    assert tracking.find_run("latest").run_id == source.run_id  # a calibration is no experiment
    assert naive.status == "FINISHED"
    assert naive.tags["aa.calibration"] == "flagged"
    assert grouped.tags["aa.calibration"] == "passes"
    assert naive.tags["aa.capture_run"] == source.run_id
    assert naive.tags["aa.exit"] == "ok"
    assert naive.tags["mlflow.note.content"].startswith("calibration flagged: false positives")
    assert naive.params["contrast"] == "a - b"
    assert naive.params["calibration.relabellings"] == "40"
    assert naive.params["univariate.groups"] == "ignore"
    assert naive.metrics["calibration/flagged"] == 1
    assert naive.metrics["calibration/fpr"] > 0.3
    assert grouped.metrics["calibration/fpr"] < 0.08
    assert naive.metrics["calibration/fpr"] == naive.metrics["calibration/fpr/halves"]
    for name in ("fpr_low", "fpr_high", "family_wise", "false_discovery", "distance"):
        assert f"calibration/{name}/flipped" in naive.metrics
    history = mlflow.MlflowClient().get_metric_history(naive.run_id, "mlp/false_positive_rate")
    assert [point.step for point in history] == list(range(LAYERS))

    place = tracking.local_artifacts(naive)
    for name in (
        "summary.md",
        "calibration.csv",
        "manifest.json",
        "figures/calibration_layers.png",
    ):
        assert (place / name).is_file(), name
    table = pd.read_csv(place / "calibration.csv").set_index("null")
    assert table.loc["halves", "verdict"] == "flagged"
    assert not (place / "activations").exists()
    # What it rests on is found from the calibration itself.
    assert cli.main(["calibrate", naive.run_id, *options]) == 0


def test_a_bare_capture_is_calibrated_with_the_experiment_it_is_of(workspace, capsys):
    experiment = templates(workspace)
    folder = workspace / "experiments" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(workspace / "templates.csv", folder / "prompts.csv")
    (folder / "experiment.toml").write_text('[contrasts]\nmain = "a - b"\n')
    write_activations(workspace / "capture", templated_recording(experiment))
    asked = ["calibrate", "capture", "--experiment", "mine", "--relabellings", "10"]
    assert cli.main(asked) == 0
    assert "a - b: calibration" in capsys.readouterr().out
    assert cli.main(["calibrate", "nowhere", "--experiment", "mine"]) == 2
    assert "'nowhere' is no capture's key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--relabellings", "1"], "--relabellings must be a whole number of at least 2, not '1'"),
        (["--units", "many"], "--units must be a whole number of at least 1, not 'many'"),
        (["--set", "model.id=gpt2"], "cannot change its model"),
        ([], "none is there yet"),
    ],
)
def test_mistakes_are_answered_with_a_message(workspace, capsys, options, message):
    assert cli.main(["calibrate", "latest", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_calibration_is_of_one_contrast(workspace, capsys):
    path = write_prompts(workspace / "p.csv", ["a", "b", "c"])
    experiment = Experiment.from_prompts(path, {"one": "a - b", "two": "a - c"})
    recording = synthetic_recording(experiment)
    outcome = Outcome(experiment, recording, pipeline.analyze(experiment, recording))
    with tracking.tracked_run(experiment, run_name="several") as run:
        tracking.log_outcome(run, outcome, provenance())
    assert cli.main(["calibrate", run.run_id]) == 2
    assert "choose one with --contrast" in capsys.readouterr().err
    assert cli.main(["calibrate", run.run_id, "--contrast", "a - b", "--relabellings", "5"]) == 0


# Inside every experiment.


def analysed(experiment, recording, *changes):
    return pipeline.analyze(apply_overrides(experiment, changes), recording, progress=False)[0]


def test_every_experiment_warns_of_its_own_false_positives(tmp_path):
    experiment = templates(tmp_path)
    recording = templated_recording(experiment)
    naive = analysed(experiment, recording, "univariate.groups=ignore")
    grouped = analysed(experiment, recording)
    assert naive.calibration.flagged
    assert any("finds what is not there" in warning for warning in naive.warnings)
    assert "## Calibration" in summary_markdown(naive)
    assert "**flagged**" in summary_markdown(naive)
    assert naive.metrics()["calibration/fpr"] > 0.3
    assert not grouped.calibration.flagged
    assert not any("finds what is not there" in warning for warning in grouped.warnings)


def test_no_calibration_where_none_is_asked_or_nothing_was_kept(tmp_path):
    experiment = Experiment.from_prompts(
        write_prompts(tmp_path / "p.csv", {"a": 9, "b": 9}), "a - b"
    )
    recording = synthetic_recording(experiment)
    without = analysed(experiment, recording, "univariate.calibration=0")
    assert without.calibration is None
    assert "## Calibration" not in summary_markdown(without)
    with_it = analysed(experiment, recording)
    np.testing.assert_array_equal(without.first_map.p_value, with_it.first_map.p_value)
    assert without.top_units.units.equals(with_it.top_units.units)


def test_moments_that_streamed_by_are_not_calibrated(tmp_path):
    experiment = Experiment.from_prompts(
        write_prompts(tmp_path / "p.csv", {"a": 9, "b": 9}), "a - b"
    )
    streamed = object.__new__(StreamedRecording)
    assert quick_calibration(experiment, streamed, None, ErrorControl()) is None


def test_a_tracked_run_keeps_the_log_of_its_calibration(workspace):
    _, _, run = tracked_templates(workspace)
    log = (tracking.local_artifacts(run) / "calibration.log").read_text()
    assert log.startswith("calibration passes: false positives at 0.05")
    assert "halves: all 20 repetitions" in log
    assert run.metrics["calibration/flagged"] == 0
