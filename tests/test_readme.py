"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from activation_analysis import Experiment, load_experiment
from activation_analysis.command_parser import command_parser

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.real
def test_the_python_example_runs(embedded_capture, tmp_path, monkeypatch):
    monkeypatch.setattr("activation_analysis.store.experiments.runs_folder", lambda: tmp_path)
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["data"] == {"happy": names["happy"], "sad": names["sad"]}
    assert set(names["profiles"]) == {"mlp", "attention"}


def test_the_weather_experiment_reads(tmp_path):
    prompts, minimal = blocks("csv")[0], blocks("toml")[0]
    folder = tmp_path / "experiments" / "weather"
    folder.mkdir(parents=True)
    (folder / "prompts.csv").write_text(prompts, encoding="utf-8")
    (folder / "experiment.toml").write_text(minimal, encoding="utf-8")
    experiment = load_experiment("weather", [folder.parent])
    assert experiment.prompts.counts == {"storm": 2, "calm": 2}


def test_the_defaults_shown_are_the_defaults(tmp_path):
    (folder := tmp_path / "weather").mkdir()
    (folder / "prompts.csv").write_text(blocks("csv")[0], encoding="utf-8")
    minimal, defaults = blocks("toml")
    # The table of contrasts last, since what follows a table's header belongs to it.
    (folder / "experiment.toml").write_text(defaults + minimal.split("\n\n", 1)[1], "utf-8")
    shown = load_experiment(folder).settings
    plain = Experiment.from_prompts(folder / "prompts.csv", {"storm": "storm - calm"}).settings
    assert shown.recording == plain.recording
    assert (shown.univariate, shown.check) == (plain.univariate, plain.check)
    assert (shown.model, shown.seed) == (plain.model, plain.seed)


@pytest.mark.parametrize(
    "line",
    [
        line.split("#")[0].strip()
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("activation-analysis ")
    ],
)
def test_every_command_shown_is_one_that_parses(line):
    import shlex

    command_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("picture", re.findall(r"!\[.*?\]\((.*?)\)", README))
def test_every_picture_is_there(picture):
    assert (Path(__file__).parent.parent / picture).is_file()
