"""The command line as users meet it: what works, and how mistakes are answered."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from workbench import (
    ROOT,
    answers,
    clean_environment,
    command,
    free_port,
    prompts_of,
    wait_until,
    write_prompts,
)

from activation_analysis import cli, tracking
from activation_analysis.command_options import FLAGS, OVERRIDES, overrides
from activation_analysis.command_parser import command_parser
from activation_analysis.figures import gallery
from activation_analysis.store import captures_folder, digest

HEAVY = ("torch", "transformers", "mlflow", "matplotlib", "pandas", "numpy", "scipy", "rich")


@pytest.fixture
def no_model(monkeypatch):
    """Whoever reads weights fails the test."""

    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("activation_analysis.models.loaded_model.load_model", never)


def refused(capsys, *arguments):
    """The message of a command that was refused as a mistake of its user."""
    assert cli.main(arguments) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    return answer.err


def write(name, *rows, encoding="utf-8"):
    with open(name, "w", encoding=encoding, newline="") as file:
        file.write("\n".join(("condition,prompt", *rows)) + "\n")
    return name


def good(name="good.csv"):
    return write(name, "a,one", "a,two", "b,three", "b,four")


def experiment_folder(toml):
    os.makedirs("experiments/mine", exist_ok=True)
    good("experiments/mine/prompts.csv")
    with open("experiments/mine/experiment.toml", "w") as file:
        file.write(toml)


# Mistakes: exit code 2, one message, before a model loads.


def test_every_bad_row_is_listed_with_file_and_line(workspace, no_model, capsys):
    name = write("bad.csv", "a,one", "a,", "a,one", "b,three", ",four", "c,five")
    said = refused(capsys, "run", name)
    for line, problem in {
        3: "the prompt is empty",
        4: "the same prompt as line 2",
        5: "condition 'b' has only this prompt",
        6: "the condition is missing",
        7: "condition 'c' has only this prompt",
    }.items():
        assert re.search(rf"bad\.csv:{line}: {problem}", said), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mnie"], r"no experiment 'mnie'; known: mine \(did you mean 'mine'\?\)"),
        (["run", "nothere.csv"], r"nothere\.csv: no such file"),
        (["run", "good.csv", "--contrast", "a - c"], "no condition 'c'.*'a', 'b'"),
        (["run", "good.csv", "--contrast", "a-b"], "operators need white space"),
        (
            ["run", "good.csv", "--test", "brunnermunzel", "--control", "max_t"],
            "has no form for test",
        ),
        (
            ["run", "good.csv", "--test", "welch", "--nuisance", "tokens"],
            'nuisance goes with test = "glm_t"',
        ),
        (["run", "good.csv", "--test", "glm_t", "--nuisance", "mood"], "no column 'mood'; known: "),
        (["run", "good.csv", "--set", "univariate.alhpa=1"], r"\(did you mean 'alpha'\?\)"),
        (["run", "good.csv", "--set", "univariate.alpha=2"], "between 0 and 1, not 2"),
        (["run", "good.csv", "--set", "nonsense"], r"write it as table\.option=value"),
        (["run", "good.csv", "--test", "anovas"], "test is 'anovas'; known: auto, brunnermunzel"),
        (["run", "good.csv", "--test", "paired"], "no item column"),
        (["run", "good.csv", "--device", "gpu"], "device is 'gpu'; known: auto, cpu"),
        (["run", "good.csv", "--dtype", "int8"], "dtype is 'int8'; known: auto, bfloat16"),
        (["run", "good.csv", "--sites", "mlp,brain"], "'brain'; known: .*residual"),
        (["run", "good.csv", "--position", "middle"], "position is 'middle'"),
        (["run", "good.csv", "--layers", "-1"], "whole number of at least 0"),
        (["run", "good.csv", "--model", "/no/such/folder"], "no model file or folder"),
        (["run", "good.csv", "--model", "./mlruns"], r"holds no config\.json"),
        (["run", "good.csv", "--nonsense", "1"], "unrecognized arguments: --nonsense"),
        (["run"], "arguments are required: EXPERIMENT"),
        (["dance"], "invalid choice: 'dance'"),
        (["analyze", "0123456789abcdef"], "no complete run is called '0123456789abcdef'"),
        (["analyze", "f" * 32], "no run ffff"),
        (["analyze", "latest"], "none is there yet"),
        (["analyze", "latest", "--set", "model.id=gpt2"], "cannot change its model"),
        (["analyze", "latest", "--set", " recording.position = mean"], "cannot change its model"),
        (["analyze", "latest", "--set", "prompts=good.csv"], "cannot change its model"),
        (["analyze", "latest", "--set", "wide=a,b"], "cannot change its model"),
        (["check", "nothere.csv"], "no such file"),
        (["check", "old.xls"], "old.xls: no such file"),
        (["check", "hf:./nowhere"], "cannot be loaded: no such folder"),
        (["check", "good.csv", "--wide", "a,b"], "no column 'a' .which wide names.; columns: "),
        (["check", "good.csv", "--columns", "prompt"], "columns is 'prompt'; known: our name, ="),
        (["check", "good.csv", "--encoding", "klingon"], "encoding is 'klingon'; such as utf-8"),
        (["check", "mine", "--columns", "prompt=txt"], "no column 'txt', which columns calls"),
        (["plan", "good.csv", "--layers", "999", "--model", "MODEL"], "no layer 999"),
        (["tokens", "good.csv", "--rows", "5", "--model", "MODEL"], "no prompt 5; 'good' has 4"),
        (["tokens", "good.csv", "--rows", "2-1"], "'2-1' names no prompts; write numbers from 1"),
        (["tokens", "good.csv", "--limit", "0"], "'0' is no count"),
        (["tokens", "good.csv", "--chat", "--model", "MODEL"], r"record without it \(chat = false"),
        (["ui", "--port", "99999999"], "'99999999' is no port"),
        (["power", "--effect", "big"], "'big' is no number; write it as 0.5"),
        (["power", "--effect", "0"], "the effect is 0.0; no number of prompts finds that"),
        (["power", "--effect", "nan"], "the effect is nan"),
        (["power", "--units", "0"], "'0' is no count"),
        (["power", "--power", "80"], r"power is 80.0; it lies between alpha \(0.05\) and 1"),
        (["power", "--alpha", "5"], "alpha is 5.0; it is an error rate between 0 and 1"),
        (["power", "--control", "fdr"], "no control 'fdr'; known: none, bonferroni"),
        (["power", "--responding", "5"], "share of responding units is 5.0"),
        (["power", "--responding", ".1", "--control", "holm"], "--responding goes with fdr_bh"),
        (["power", "--icc", "0.3"], "--icc goes with --groups"),
        (["power", "--groups", "1"], "1 group per condition; at least 2"),
        (["power", "--groups", "9", "--icc", "3"], "intraclass correlation is 3.0"),
        (["power", "--threshold-t", "5"], "threshold_t goes with control 'max_t'"),
        (["power", "--contrast", "a - b"], "--contrast goes with an experiment"),
        (["power", "good.csv", "--groups", "5"], "in a column 'group'"),
        (["power", "good.csv", "--paired"], "no item column"),
        (["power", "good.csv", "--contrast", "a | b"], "a difference without two sides"),
        (["power", "mnie"], r"no experiment 'mnie'; known: mine"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_message(
    workspace, no_model, capsys, saved_gpt2, arguments, message
):
    good()
    experiment_folder('[contrasts]\nx = "a - b"\n')
    arguments = [str(saved_gpt2) if a == "MODEL" else a for a in arguments]
    said = refused(capsys, *arguments)
    assert re.search(message, said, re.DOTALL), said


def test_an_unknown_key_is_named_with_its_line_and_the_nearest(workspace, no_model, capsys):
    experiment_folder('[contrasts]\nx = "a - b"\n\n[univariate]\nalhpa = 0.01\n')
    said = refused(capsys, "run", "mine")
    assert "experiments/mine/experiment.toml:5: [univariate] has no option 'alhpa'" in said
    assert "(did you mean 'alpha'?)" in said


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_another_encoding_is_named_with_the_remedy(workspace, no_model, capsys, encoding):
    name = write("old.csv", "a,café", "a,two", "b,three", "b,four", encoding=encoding)
    said = refused(capsys, "run", name)
    assert re.search(r"old\.csv:\d+: .*save the file as UTF-8", said), said


def test_a_prompt_longer_than_the_context_is_refused(workspace, no_model, capsys, saved_gpt2):
    name = write("long.csv", "a,one", "a,two" + " and more" * 99, "b,three", "b,four")
    said = refused(capsys, "run", name, "--model", str(saved_gpt2))
    assert re.search(r"long\.csv:3: .* longer than the model's context of 96 tokens", said)
    assert tracking.list_runs() == []


def test_a_hub_model_that_is_not_here_is_explained_offline(workspace, tmp_path):
    good()
    answer = command(
        *("run", "good.csv", "--model", "someone/nothing"),
        cwd=workspace,
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "hub"),
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: 'someone/nothing' is not in the local cache")
    assert "hf download someone/nothing" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_bad_input_leaves_its_reason_in_the_run_of_mlflow_run(workspace, monkeypatch, capsys):
    tracking.connect()
    client = mlflow.MlflowClient()
    for arguments, reason in {
        ("run", "nothere"): "ExperimentError: no experiment 'nothere'",
        ("run", "math", "--typo", "1"): "InputError: unrecognized arguments: --typo",
    }.items():
        run_id = client.create_run("0").info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        refused(capsys, *arguments)
        assert client.get_run(run_id).data.tags["aa.exit"].startswith(reason)
        monkeypatch.delenv("MLFLOW_RUN_ID")


def test_a_dead_tracking_server_is_no_traceback(workspace, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "cannot open the tracking store" in refused(capsys, "list", "runs")


# Help is quick.


@pytest.mark.parametrize(
    "name",
    ["", "new", "run", "analyze", "calibrate", "check", "plan", "power", "tokens", "list", "ui"],
)
def test_help_loads_nothing_heavy(name, tmp_path):
    code = (
        "import sys, json\nfrom activation_analysis.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    )
    arguments = [name, "--help"] if name else ["--help"]
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert json.loads(answer.stderr) == []
    assert answer.stdout.startswith("usage: ")


def test_every_option_of_the_experiment_file_has_a_way_in():
    from activation_analysis.options import leaf_names

    spelled = set(OVERRIDES.values()) | set(FLAGS.values())
    assert spelled <= set(leaf_names())
    assert set(leaf_names()) - spelled == {
        "question",
        "prompts",
        "univariate.step_down",
        "check.expected",
    }


@pytest.mark.parametrize("spelling", ["--top-n", "--top_n"])
def test_options_are_taken_as_mlflow_run_spells_them(spelling):
    args = command_parser().parse_args(["run", "math", spelling, "5", "--model", "a="])
    assert overrides(args) == ["model.id=a=", "univariate.top_n=5"]


def test_an_empty_value_was_not_given():
    args = command_parser().parse_args(["run", "x", "--model", "", "--seed", "", "--contrasts", ""])
    assert overrides(args) == []


# What the commands show.

MARKUP = ["[red]", "[/INST]", "[bold]x[/bold]", "[link=http://x]"]


def test_markup_in_conditions_and_prompts_is_text(workspace, saved_gpt2, capsys):
    rows = [f"{c},{c} {i} [/red] $x_{{$" for c in MARKUP[:2] for i in range(3)]
    name = write("markup.csv", *rows)
    assert cli.main(["check", name, "--model", str(saved_gpt2)]) == 0
    out = capsys.readouterr().out
    assert "6 prompts: 3 [red], 3 [/INST]" in out
    assert "[red] - [/INST]" in out
    assert "too few: [red] - [/INST]: '[red]' has 3 prompts" in out
    assert cli.main(["plan", name, "--model", str(saved_gpt2)]) == 0
    assert "[red] - [/INST]" in capsys.readouterr().out


def test_control_sequences_do_not_reach_the_terminal(workspace, saved_gpt2, capsys):
    experiment_folder('question = "a\\u001b[2Jb"\n[contrasts]\nx = "a - b"\n')
    assert cli.main(["check", "mine", "--model", str(saved_gpt2)]) == 0
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a�[2Jb" in out


def test_check_counts_and_compares_also_without_a_model(workspace, capsys):
    write_prompts(workspace / "p.csv", ["a", "b"], item=[*"123456789", *"123456789"])
    assert cli.main(["check", "p.csv", "--model", "/no/model"]) == 0
    out = capsys.readouterr().out
    assert "18 prompts: 9 a, 9 b" in out
    assert "9 different items" in out
    assert "tokens were not counted: no model file or folder" in out
    assert re.search(r"words +5\.00 ± 0\.00 +5\.00 ± 0\.00 +\+0\.000", out), out


THEIRS = ["--columns", "calm=Calm text", "--wide", "calm,angry", "--encoding", "cp1252"]


@pytest.mark.parametrize("name", ["check", "plan", "power", "tokens"])
@pytest.mark.parametrize("target", ["theirs.csv", "theirs.xlsx", "moods"])
def test_every_command_takes_other_peoples_files(
    workspace, no_model, capsys, saved_gpt2, name, target
):
    rows = [("Calm text", "angry"), ("don’t worry", "why?"), ("all is well", "no!")]
    text = "".join(",".join(row) + "\n" for row in rows)
    (workspace / "theirs.csv").write_bytes(text.encode("cp1252"))
    pd.DataFrame(rows[1:], columns=rows[0]).to_excel("theirs.xlsx", index=False)
    os.makedirs("experiments/moods")
    shutil.copy("theirs.csv", "experiments/moods")
    with open("experiments/moods/experiment.toml", "w") as file:
        file.write('prompts = "theirs.csv"\n[contrasts]\nmood = "calm - angry"\n')
    model = [] if name == "power" else ["--model", str(saved_gpt2)]
    assert cli.main([name, target, *THEIRS, *model]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "calm" in out
    assert "angry" in out


def test_a_folder_of_condition_folders_is_a_target(workspace, capsys):
    for condition in "ab":
        (workspace / "mine" / condition).mkdir(parents=True)
        for n, text in enumerate(prompts_of(condition, 3)):
            (workspace / "mine" / condition / f"{n}.txt").write_text(f"{text}\n")
    assert cli.main(["check", "mine", "--model", "/no/model"]) == 0
    assert "6 prompts: 3 a, 3 b" in capsys.readouterr().out


def test_list_says_how_to_get_a_first_run(workspace, capsys):
    assert cli.main(["list", "runs"]) == 0
    assert "no complete run yet; start one with: activation-analysis" in capsys.readouterr().out


def test_list_shows_experiments_and_what_is_wrong_with_others(workspace, capsys):
    experiment_folder('[contrasts]\nx = "a - b"\n')
    os.makedirs("experiments/broken")
    with open("experiments/broken/experiment.toml", "w") as file:
        file.write("typo = 1\n")
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"mine +4 +a - b", out)
    assert "! experiments/broken/experiment.toml:1: no table or option 'typo'" in out


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--effect", "0.5", "--units", "115200", "--control", "fdr_bh"], "at least 126 prompts"),
        (["--paired", "--groups", "10", "--effect", "0.55"], "in 10 groups finds"),
        (["--effect", "0.05", "--control", "bonferroni"], "27,808 prompts per condition"),
        (["--control", "max_t", "--threshold-t", "5.1"], "threshold |t| = 5.1"),
        (["good.csv", "--units", "1000000", "--control", "fdr_by"], "2 (now)"),
        (["mine", "--contrast", "b - a", "--effect", "1.5"], "b - a\n"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_power_says_how_many_prompts_on_any_terminal(
    workspace, no_model, capsys, monkeypatch, asked, said, width
):
    good()
    experiment_folder('[contrasts]\nx = "a - b"\n')
    monkeypatch.setattr("activation_analysis.terminal.NARROWEST", width)
    assert cli.main(["power", *asked]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert re.search(r"^needed for 80 %( +([\d,]+|none))+ *$", out, re.MULTILINE), out
    table = out[out.index("=0.2") : out.index("* at least")]
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= width


def test_power_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom activation_analysis.cli import main\nmain(['power'])\n"
        "heavy = ('torch', 'transformers', 'mlflow', 'matplotlib', 'statsmodels')\n"
        "assert not [m for m in heavy if m in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_check_tells_of_templates_that_nobody_declared(workspace, capsys):
    rows = [
        f"{'ab'[k % 2]},{start} {filler} {end}"
        for k, (start, end) in enumerate(
            [
                ("we all saw", "near the river"),
                ("my aunt sold", "for ten pounds"),
                ("nobody wants", "in this weather"),
                ("why does", "always come back late"),
            ]
        )
        for filler in ("bread", "a dog", "Anna", "the moon", "snow")
    ]
    name = write("templated.csv", *rows)
    assert cli.main(["check", name, "--model", "/no/model"]) == 0
    out = capsys.readouterr().out
    assert "! templates: a - b: 20 of 20 prompts look like 4 templates of 5 fillings" in out


def tokens_shown(out):
    """Mark, place and spelling of every token in the command's output."""
    cells = re.findall(r"(?:^|(?<=  )) ?([*. ]) +(\d+) +\d+  (\S+)", out, re.MULTILINE)
    return [(mark, int(place), spelled) for mark, place, spelled in cells]


def test_tokens_shows_what_is_sent_and_which_tokens_count(workspace, saved_gpt2, capsys):
    name = write("t.csv", "a,x y z", "a,[/INST] [red]", "b,<bos> [bold]", "b,\x1b[31m\u202eone")
    arguments = ["tokens", name, "--model", str(saved_gpt2)]
    assert cli.main([*arguments, "--rows", "1", "--position", "word_final"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"t, as {saved_gpt2} reads it: position word_final\n")
    assert "prompt 1, t.csv:2, a: 6 tokens, 3 count\n  x y z\n" in out
    assert [(m, s) for m, _, s in tokens_shown(out)] == [
        *((".", "<bos>"), ("*", "x"), (" ", "Ġ"), ("*", "y"), (" ", "Ġ"), ("*", "z"))
    ]
    assert cli.main([*arguments, "--position", "mean", "--skip-first", "2"]) == 0
    out = capsys.readouterr().out
    assert "position mean, the first 2 places skipped" in out
    assert "\n  [/INST] [red]\n" in out
    assert "\n  <bos> [bold]\n" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_tokens_shows_so_many_prompts_of_every_condition(workspace, saved_gpt2, capsys):
    write_prompts(workspace / "many.csv", {"a": 9, "b": 9})
    arguments = ["tokens", "many.csv", "--model", str(saved_gpt2)]

    def numbers(*more):
        assert cli.main([*arguments, *more]) == 0
        return re.findall(r"^prompt (\d+),", capsys.readouterr().out, re.MULTILINE)

    assert numbers() == ["1", "2", "3", "10", "11", "12"]
    assert numbers("--limit", "1") == ["1", "10"]
    assert numbers("--rows", "18,2-3") == ["18", "2", "3"]


def test_tokens_shows_the_chat_template(workspace, saved_gpt2, capsys, tmp_path):
    folder = shutil.copytree(saved_gpt2, tmp_path / "chat")
    template = "<bos>Be kind.\n{{ messages[0]['content'] }}<|im_end|>"
    (folder / "chat_template.jinja").write_text(template)
    name = write("t.csv", "a,x y", "a,z", "b,u", "b,<|im_end|> v")
    assert cli.main(["tokens", name, "--model", str(folder), "--chat", "--rows", "4"]) == 0
    out = capsys.readouterr().out
    assert ": position last, chat template\n" in out
    assert "  <bos>Be kind.\n  <|im_end|> v<|im_end|>\n" in out
    shown = tokens_shown(out)
    assert [s for m, _, s in shown if m == "."][-1] == "<|im_end|>"
    assert [s for m, _, s in shown if m == "*"] == ["v"]
    assert len([s for _, _, s in shown if s == "<|im_end|>"]) == 1


def test_tokens_that_count_are_bold_on_a_terminal(workspace, saved_gpt2, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main(["tokens", good(), "--model", str(saved_gpt2), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\x1b\[1;32m\* ", out)
    assert re.search(r"\x1b\[2m  <bos>", out)


def test_check_and_plan_read_what_tokens_shows(workspace, saved_gpt2, capsys):
    name = write("s.csv", "a,x [[y]]", "a,[[z]]", "b,[[u]] w", "b,v")
    for command_name in ("check", "plan", "tokens", "run"):
        said = refused(capsys, command_name, name, "--position", "span", "--model", str(saved_gpt2))
        assert 's.csv:5: no marked stretch, which position "span" needs' in said
        said = refused(capsys, command_name, name, "--skip-first", "90", "--model", str(saved_gpt2))
        assert "s.csv:2: 'x [[y]]' has no token at position 'last' once its first 90" in said
    said = refused(capsys, "plan", name, "--chat", "--model", str(saved_gpt2))
    assert "no chat template" in said


def test_plan_predicts_units_exactly_and_disk_nearly(workspace, saved_gpt2, capsys, monkeypatch):
    from activation_analysis.experiment import Experiment, apply_overrides
    from activation_analysis.pipeline import prepare, run
    from activation_analysis.plan import plan

    path = write_prompts(workspace / "p.csv", {"a": 20, "b": 20})
    for sites, layers in (("residual,attention,mlp,neuron,head", "all"), ("neuron", "0,2")):
        experiment = apply_overrides(
            Experiment.from_prompts(path),
            [f"model.id={saved_gpt2}", f"recording.sites={sites}", f"recording.layers={layers}"],
        )
        ready = prepare(experiment)
        predicted = plan(ready)
        recorded = run(experiment, ready=ready, progress=False).activations
        assert predicted.n_units == recorded.n_units
        assert predicted.n_tokens == recorded.n_tokens.sum()
        assert predicted.longest == recorded.n_tokens.max()
        assert predicted.n_layers == recorded.n_layers


def test_plan_knows_the_width_of_every_family():
    from tiny_models import DECODERS, tiny_config, tiny_model, tiny_tokenizer

    from activation_analysis import ActivationCapture
    from activation_analysis.models.sizes import site_width

    for family in ("gpt2", "llama", "opt", "falcon", "gemma2", "gpt_neo", "mistral", "phi"):
        assert family in DECODERS
        capture = ActivationCapture(tiny_model(family), tokenizer=tiny_tokenizer(), progress=False)
        recorded = capture.capture_batch(["The sea is wide."], layers=[1])
        widths = {site: recorded.matrix(site).shape[1] for site in recorded.sites}
        assert widths == {site: site_width(site, tiny_config(family)) for site in widths}, family


# From a prompt file to a tracked run.


def rows_of(n=5):
    return [(c, text) for c in ("calm", "angry") for text in prompts_of(c, n)]


def as_csv():
    return [write("mine.csv", *(f"{c},{t}" for c, t in rows_of()))]


def as_tsv():
    with open("mine.tsv", "w") as file:
        file.write("condition\tprompt\n" + "".join(f"{c}\t{t}\n" for c, t in rows_of()))
    return ["mine.tsv"]


def as_jsonl():
    with open("mine.jsonl", "w") as file:
        file.writelines(json.dumps({"condition": c, "prompt": t}) + "\n" for c, t in rows_of())
    return ["mine.jsonl"]


def as_texts():
    for condition in ("calm", "angry"):
        with open(f"{condition}.txt", "w") as file:
            file.writelines(f"{text}\n" for c, text in rows_of() if c == condition)
    return ["calm.txt", "angry.txt"]


@pytest.fixture
def blank_figures(monkeypatch):
    from matplotlib.figure import Figure

    def blank(*_):
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(gallery, "FIGURES", {"layer_profile": blank})
    monkeypatch.setattr(gallery, "SITE_FIGURES", {})


@pytest.mark.parametrize("make", [as_csv, as_tsv, as_jsonl, as_texts])
def test_a_users_own_prompts_run_without_touching_the_package(
    workspace, saved_gpt2, capsys, blank_figures, make
):
    files = make()
    sites = ["--sites", "mlp", "--model", str(saved_gpt2)]
    assert cli.main(["run", *files, "--contrast", "calm - angry", *sites]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^calm - angry: \d+ of \d+ units \(.*%\) differ \(welch", out, re.MULTILINE)
    (run,) = tracking.list_runs()
    assert run.params["prompts.n_calm"] == run.params["prompts.n_angry"] == "5"
    assert run.tags["aa.exit"] == "ok"
    assert f"run {run.run_id} ({run.name}), FINISHED" in out
    for line in re.findall(r"^(?:summary: |top units:| ) +(\S+\.(?:md|csv|png))$", out, re.M):
        assert os.path.isfile(line), line
    assert "activation-analysis ui" in out


def test_run_list_and_analyze_end_to_end(workspace, saved_gpt2, capsys, blank_figures):
    write_prompts(workspace / "p.csv", {"a": 16, "b": 16, "c": 16})
    asked = ["--contrast", "a - b", "--contrast", "a + b - c", "--model", str(saved_gpt2)]
    chosen = ["--sites", "mlp,residual", "--layers", "0,2", "--seed", "3"]
    assert cli.main(["run", "p.csv", *asked, *chosen, "--run-name", "my own name"]) == 0
    out = capsys.readouterr().out
    assert "a - b: " in out
    assert "a + b - c: " in out
    assert out.count("figures/layer_profile.png") == 2
    parent = tracking.find_run("latest")
    assert parent.name == "my own name"
    children = [r for r in tracking.list_runs() if r.parent_id == parent.run_id]
    assert len(children) == 2

    assert cli.main(["list", "runs"]) == 0
    out = capsys.readouterr().out
    assert f"{parent.run_id[:8]}" in out
    assert "(several)" in out

    # One contrast of it, then that analysis again; no model is read.
    (child,) = [c for c in children if c.tags["aa.contrast"] == "a + b - c"]
    assert cli.main(["analyze", child.run_id[:10], "--test", "mannwhitney"]) == 0
    first = tracking.find_run("latest")
    assert first.params["analysis.test"] == "mannwhitney"
    assert first.params["contrast"] == "a + b - c"
    assert first.params["analysis.seed"] == "3"
    assert first.tags["aa.capture_run"] == parent.run_id
    assert cli.main(["analyze", "latest", "--alpha", "0.01"]) == 0
    second = tracking.find_run("latest")
    assert second.run_id != first.run_id
    assert second.params["analysis.test"] == "mannwhitney"
    assert second.params["analysis.alpha"] == "0.01"
    assert second.tags["aa.capture"] == parent.tags["aa.capture"]

    # All contrasts of the parent, then one that was never asked before.
    assert cli.main(["analyze", parent.run_id, "--contrast", "c - a"]) == 0
    third = tracking.find_run("latest")
    assert third.tags["aa.contrast"] == "c - a"
    assert capsys.readouterr().err == ""

    # Gone from the run, the capture is found in the store; gone from there too, it is missed.
    shutil.rmtree(tracking.local_artifacts(parent) / "activations")
    assert cli.main(["analyze", "latest"]) == 0
    capsys.readouterr()
    shutil.rmtree(captures_folder())
    assert "was too large to be uploaded and is no more at" in refused(capsys, "analyze", "latest")


def test_a_run_of_other_peoples_files_is_analysed_again_without_them(
    workspace, saved_gpt2, capsys, blank_figures
):
    rows = [prompts_of(c, 8) for c in ("calm", "angry")]
    table = pd.DataFrame({"Calm text": rows[0], "angry": rows[1]})
    table.to_csv("theirs.csv", index=False, encoding="utf-16-le")
    asked = ["--columns", "calm=Calm text", "--wide", "calm,angry", "--encoding", "utf-16-le"]
    few = ["--sites", "mlp", "--layers", "0", "--test", "paired"]
    assert cli.main(["run", "theirs.csv", *asked, *few, "--model", str(saved_gpt2)]) == 0
    ran = tracking.find_run("latest")
    assert ran.params["wide"] == "calm,angry"
    assert ran.params["columns"] == "calm=Calm text"
    (workspace / "theirs.csv").unlink()
    assert cli.main(["analyze", "latest", "--test", "wilcoxon"]) == 0
    again = tracking.find_run("latest")
    assert again.params["prompts.sha256"] == ran.params["prompts.sha256"]
    assert (again.params["wide"], again.params["encoding"]) == ("none", "")
    assert capsys.readouterr().err == ""


def test_a_capture_above_the_limit_stays_in_the_store(workspace, saved_gpt2, capsys, blank_figures):
    write_prompts(workspace / "p.csv", ["a", "b"])
    run = ["run", "p.csv", "--model", str(saved_gpt2), "--sites", "mlp", "--upload-mb", "0"]
    assert cli.main(run) == 0
    first = tracking.find_run("latest")
    assert not (tracking.local_artifacts(first) / "activations").exists()
    kept = Path(first.tags["aa.capture_uri"].removeprefix("file://"))
    assert kept.parent == captures_folder()
    assert first.tags["aa.capture_digest"] == digest(kept)
    assert cli.main(["analyze", "latest", "--test", "student"]) == 0
    assert tracking.find_run("latest").tags["aa.capture"] == first.tags["aa.capture"]


def test_a_second_run_uses_the_capture_again(workspace, saved_gpt2, capsys, blank_figures):
    write_prompts(workspace / "p.csv", ["a", "b"])
    run = ["run", "p.csv", "--model", str(saved_gpt2), "--sites", "mlp"]
    assert cli.main(run) == 0
    assert "was made before" not in capsys.readouterr().err
    assert cli.main([*run, "--test", "student"]) == 0
    assert "this capture was made before, and is used again" in capsys.readouterr().err
    assert cli.main([*run, "--position", "mean"]) == 0
    assert "was made before" not in capsys.readouterr().err
    first, second, third = [r for r in tracking.list_runs()][::-1]
    assert first.tags["aa.capture"] == second.tags["aa.capture"] != third.tags["aa.capture"]
    assert "padded = alone" in first.tags["aa.proof"]
    assert "padded = alone within 1e-04" in second.tags["aa.proof"]  # as the capture remembers


@pytest.mark.parametrize("test", ["welch", "student"])
def test_a_streamed_run_equals_a_stored_one(workspace, saved_gpt2, capsys, blank_figures, test):
    write_prompts(workspace / "p.csv", ["a", "b"])
    run = ["run", "p.csv", "--model", str(saved_gpt2), "--position", "mean", "--test", test]
    assert cli.main(run) == 0
    stored = tracking.find_run("latest")
    assert cli.main([*run, "--stream"]) == 0
    streamed = tracking.find_run("latest")
    assert not (tracking.local_artifacts(streamed) / "activations").exists()
    assert list(captures_folder().iterdir()) == [captures_folder() / kept_name(stored)]
    for name in ("layer_profile", "top_units", "units_mlp", "units_neuron"):
        one, other = (
            pd.read_parquet(tracking.local_artifacts(r) / "tables" / f"{name}.parquet")
            for r in (stored, streamed)
        )
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-9)
    capsys.readouterr()
    assert "needs every activation at once" in refused(
        capsys, *run[:-2], "--test", "mannwhitney", "--stream"
    )
    assert "has no activations" in refused(capsys, "analyze", streamed.run_id)


def kept_name(run) -> str:
    return Path(run.tags["aa.capture_uri"]).name


def test_truncated_prompts_are_counted_in_the_summary(workspace, saved_gpt2, capsys, blank_figures):
    name = write("long.csv", "a,one", "a,two" + " and more" * 99, "b,three", "b,four")
    assert cli.main(["run", name, "--truncate", "--model", str(saved_gpt2), "--sites", "mlp"]) == 0
    (run,) = tracking.list_runs()
    summary = (tracking.local_artifacts(run) / "summary.md").read_text()
    said = "1 of 4 prompts was longer than the model's context and was cut"
    assert said in summary
    assert said in capsys.readouterr().out
    assert run.params["recording.truncate"] == "true"


def test_output_into_a_pipe_that_closes_draws_no_complaint(workspace):
    process = subprocess.Popen(
        [sys.executable, "-m", "activation_analysis", "list"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_ui_starts_a_server_that_ends_with_its_command(workspace, capsys):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "activation_analysis", "ui", "--port", str(port)],
        cwd=workspace,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: answers(f"{url}/health"), process=process)
        assert f"cannot listen on 127.0.0.1:{port}" in refused(capsys, "ui", "--port", str(port))
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert f"{url}/#/experiments/" in out
    assert "?workflowType=machine_learning" in out
    assert wait_until(lambda: not answers(f"{url}/health"), seconds=15)


def balanced(name="fine.csv", n=20):
    """Two conditions of equal sentences in words of six letters, none like another."""
    from random import Random

    draw, syllables = Random(0), [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    rows = [
        f"{'ab'[i % 2]},{' '.join(''.join(draw.choices(syllables, k=3)) for _ in range(9))}."
        for i in range(2 * n)
    ]
    return write(name, *rows)


def test_strict_ends_with_1_where_something_is_off_and_only_there(workspace, saved_gpt2, capsys):
    model = ["--model", str(saved_gpt2)]
    few = balanced("few.csv", n=4)
    assert cli.main(["check", few, *model]) == 0
    assert cli.main(["check", few, *model, "--strict"]) == 1
    assert "! too few: a - b" in capsys.readouterr().out
    fine = balanced()
    # Tokens of a tiny vocabulary are not what this set was balanced on.
    declared = ["--set", "check.expected=tokens"]
    assert cli.main(["check", fine, *model, "--strict", *declared]) == 0
    assert "nothing is off" in capsys.readouterr().out
    assert cli.main(["check", fine, "--model", "/no/model", "--strict", *declared]) == 1


def test_a_check_goes_on_where_prompts_are_there_twice_and_a_run_does_not(workspace, capsys):
    name = write("twice.csv", "a,one thing", "a,two things", "b,one thing", "b,three things")
    assert cli.main(["check", name, "--model", "/no/model", "--strict"]) == 1
    out = capsys.readouterr().out
    assert "! duplicates: 1 prompt is there before, word for word, 1 of them in another" in out
    assert "twice.csv:4 repeats twice.csv:2" in out
    assert "! too few" in out
    assert "the same prompt as line 2, there 'a' and here 'b'" in refused(capsys, "run", name)


def test_a_check_is_saved_as_figure_table_and_json(workspace, saved_gpt2, capsys):
    import json

    import pandas as pd

    command = ["check", balanced(), "--model", str(saved_gpt2), "--save", "out/of check"]
    assert cli.main([*command, "--surprisal"]) == 0
    assert "wrote out/of check/balance.png" in capsys.readouterr().out
    folder = workspace / "out" / "of check"
    assert (folder / "balance.png").read_bytes()[:4] == b"\x89PNG"
    measures = set(pd.read_csv(folder / "balance.csv")["covariate"])
    assert {"tokens", "words", "characters", "punctuation", "surprisal"} <= measures
    told = json.loads((folder / "check.json").read_text())
    assert told["counts"] == {"a": 20, "b": 20}
    assert told["contrasts"][0]["surface_baseline"]["surface_chance"] == 0.5
