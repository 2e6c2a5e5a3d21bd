"""scripts/run_experiments.py, as old users know it, and the page of what the experiments find."""

import re
import runpy
import shutil
import sys

import mlflow
import pytest
from matplotlib.figure import Figure
from workbench import ROOT, fresh_store

from activation_analysis import cli
from activation_analysis.figures import gallery

SCRIPT = ROOT / "scripts" / "run_experiments.py"
PAGE = ROOT / "scripts" / "experiments_page.py"


@pytest.fixture
def script(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """The script on a store of its own: exit code, output, messages."""
    shutil.copy(fresh_store(tmp_path_factory.getbasetemp()), tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in cli.QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(gallery, "FIGURES", {"layer_profile": lambda _: Figure(figsize=(1, 1))})
    monkeypatch.setattr(gallery, "SITE_FIGURES", {})

    def run(*arguments, of=SCRIPT):
        monkeypatch.setattr(sys, "argv", [str(of), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(of), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    yield run
    while mlflow.active_run():
        mlflow.end_run()


def test_an_experiment_runs_and_is_loaded_again(script, saved_gpt2):
    """On a tiny model: record, then analyse what was recorded, by the short name."""
    code, ran, err = script("--experiment", "math", "--model", str(saved_gpt2))
    assert code == 0, err
    first = re.search(r"run ([0-9a-f]{32}) \(tiny-gpt2·math_vs_nonmath\), FINISHED", ran)
    assert "forward passes" in ran

    code, loaded, err = script("--experiment", "math", "--load")
    assert code == 0, err
    second = re.search(r"run ([0-9a-f]{32}) \(tiny-gpt2·math_vs_nonmath\), FINISHED", loaded)
    assert "forward passes" not in loaded
    assert first[1] != second[1]
    found = [re.findall("^math - nonmath: .*", out, re.MULTILINE) for out in (ran, loaded)]
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "nothing"], "no experiment 'nothing'; known: causality, concreteness, "),
        (["--load"], "no complete run of 'math_vs_nonmath' to load; record one first"),
        (["--load", "--model", "gpt2"], "of 'math_vs_nonmath' with model 'gpt2' to load"),
    ],
)
def test_mistakes_are_answered_as_by_the_command_line(script, arguments, message):
    code, out, err = script(*arguments)
    assert code == 2
    assert message in err
    assert out == ""


def test_the_page_of_experiments_is_written_from_tracked_runs(script, saved_gpt2, tmp_path):
    name = str(saved_gpt2)
    sites = ["--sites", "mlp", "--set", "univariate.calibration=0"]
    assert cli.main(["run", "logic", "--model", str(saved_gpt2), *sites]) == 0
    (tmp_path / "docs" / "images").mkdir(parents=True)
    code, _, err = script("--model", name, "--docs", str(tmp_path / "docs"), of=PAGE)
    assert code == 1  # since thirteen have no run
    assert f"left out, no complete run of model '{name}': causality" in err
    page = (tmp_path / "docs" / "experiments.md").read_text()
    assert re.search(r"^valid - invalid: [\d,]+ of [\d,]+ units", page, re.MULTILINE)
    assert "Words alone: a bag-of-words decoder tells valid and invalid apart with 50 %" in page
    assert "| [logic](#logic) | valid - invalid | 162 | paired | " in page
    assert (tmp_path / "docs" / "images" / "experiment_logic.png").stat().st_size > 10_000


def test_the_page_in_the_docs_is_of_the_prompts_as_they_are():
    from activation_analysis.experiment import list_experiments

    page = (ROOT / "docs" / "experiments.md").read_text()
    for name in list_experiments([ROOT / "experiments"]):
        assert f"## {name}\n" in page
        assert (ROOT / "docs" / "images" / f"experiment_{name}.png").is_file()
