"""The commands and their arguments. No logic, and nothing heavy is imported."""

from __future__ import annotations

import argparse
from typing import NoReturn

from activation_analysis.command_options import (
    ANALYSIS_OPTIONS,
    MODEL_OPTIONS,
    POSITION_OPTIONS,
    POWER_OPTIONS,
    PROMPT_OPTIONS,
    RECORDING_OPTIONS,
    TEXT_FLAGS,
    count,
    port,
    rows,
)
from activation_analysis.errors import InputError


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are answered like every other mistake of a user."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\nsee: {self.prog} --help")


def command_parser() -> argparse.ArgumentParser:
    """The parser of every command, for `cli.main`."""
    parser = _Parser(
        prog="activation-analysis",
        description="Which units of a language model respond differently to two conditions, "
        "where, how strongly and how surely? Tracked in MLflow.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_new(commands)
    _add_run(commands)
    _add_analyze(commands)
    _add_calibrate(commands)
    _add_check(commands)
    _add_plan(commands)
    _add_power(commands)
    _add_tokens(commands)
    _add_list(commands)
    _add_ui(commands)
    return parser


def _add_new(commands: argparse._SubParsersAction) -> None:
    new = commands.add_parser(
        "new",
        help="write the folder of a new experiment, with comments",
        description="Write a folder with an experiment.toml that explains every option, a "
        "prompts.csv and a README.md. It runs as it stands; nothing is ever overwritten.",
        epilog="examples:\n"
        "  activation-analysis new first_try\n"
        "  activation-analysis new questions --conditions question,statement --paired",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("name", metavar="NAME", help="the experiment's, and its folder's")
    new.add_argument(
        "--conditions",
        metavar="A,B[,C]",
        help="write placeholders for these, to be replaced (default: a small real set, mornings "
        "and evenings)",
    )
    new.add_argument(
        "--paired", action="store_true", help="prompts are matched across conditions (items)"
    )
    new.add_argument(
        "--folder", default="experiments", metavar="FOLDER", help="where (default: experiments)"
    )


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="record a model on an experiment's prompts and analyse it",
        description="Record a model on an experiment's prompts, test every unit, and track it.",
        epilog="examples:\n"
        "  activation-analysis run math_vs_nonmath\n"
        "  activation-analysis run emotion --model gpt2 --position mean\n"
        '  activation-analysis run my_prompts.csv --contrast "a - b"\n'
        "  activation-analysis run calm.txt angry.txt --sites mlp,neuron --test mannwhitney",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_target(run)
    _add_options(run, MODEL_OPTIONS | RECORDING_OPTIONS | ANALYSIS_OPTIONS)
    _add_flags(run)
    run.add_argument(
        "--stream",
        action="store_true",
        help="keep no activations, only moments: one pass, memory independent of the prompts",
    )
    run.add_argument("--run-name", default="", metavar="NAME", help="name of the tracked run")


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="repeat or change the statistics of a tracked run; no model is loaded",
        description="Repeat or change the statistics of a tracked run from its stored capture.",
    )
    analyze.add_argument("run", help="run id, the start of one, a run's name, or: latest")
    _add_contrast(analyze)
    _add_options(analyze, ANALYSIS_OPTIONS)
    analyze.add_argument("--run-name", default="", metavar="NAME", help="name of the new run")


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="measure the false positives of an analysis on nulls made of its own capture",
        description="Make nulls of a stored capture (conditions exchanged, one condition halved, "
        "signs flipped), analyse them as the contrast is analysed, and say how often something "
        "is found where nothing differs. No model is loaded.",
    )
    calibrate.add_argument(
        "run",
        metavar="CAPTURE",
        help="run id, the start of one, a run's name, or: latest; with --experiment also the "
        "folder or the key of a capture in the store",
    )
    calibrate.add_argument(
        "--relabellings",
        default="",
        metavar="N",
        help="repetitions of each null (default: 200)",
    )
    calibrate.add_argument(
        "--units",
        default="",
        metavar="N",
        help="units drawn evenly over layers and sites, or: all (default: 20000; 2000 with "
        "--control max_t)",
    )
    calibrate.add_argument(
        "--experiment", default="", metavar="NAME", help="whose prompts a bare capture is of"
    )
    _add_contrast(calibrate)
    names = ("test", "control", "alpha", "nuisance", "groups", "n-permutations", "seed")
    _add_options(calibrate, {name: ANALYSIS_OPTIONS[name] for name in names})
    calibrate.add_argument("--run-name", default="", metavar="NAME", help="name of the new run")


def _add_check(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        "check",
        help="check an experiment or a prompt file before anything is computed",
        description="Look for what would make a result of these prompts mean less than it seems "
        "to: copies, templates, sides that differ in length or marks, words that give the answer "
        "away, too few prompts. No weights are loaded unless --surprisal asks for them.",
    )
    _add_target(check)
    _add_options(
        check,
        {"model": MODEL_OPTIONS["model"] + "; its tokenizer counts the tokens"}
        | POSITION_OPTIONS
        | {name: ANALYSIS_OPTIONS[name] for name in ("test", "control", "nuisance", "groups")},
    )
    _add_flags(check)
    check.add_argument(
        "--strict", action="store_true", help="exit code 1 where something is off (2: a mistake)"
    )
    check.add_argument(
        "--surprisal",
        action="store_true",
        help="load the model and compare how unexpected the prompts are to it",
    )
    check.add_argument(
        "--save",
        default="",
        metavar="FOLDER",
        help="write balance.png, balance.csv and check.json there",
    )


def _add_plan(commands: argparse._SubParsersAction) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what a run would take: prompts, tokens, time, memory, disk",
        description="Say what a run would take, before it starts. No weights are loaded.",
    )
    _add_target(plan)
    _add_options(plan, MODEL_OPTIONS | RECORDING_OPTIONS)
    _add_flags(plan)


def _add_power(commands: argparse._SubParsersAction) -> None:
    power = commands.add_parser(
        "power",
        help="say how many prompts it takes to find an effect, before there are any",
        description="Say how many prompts per condition it takes to find an effect under the "
        "stated error control; with an experiment, also what its prompts can find.",
        epilog="examples:\n"
        "  activation-analysis power --effect 0.5 --units 115200 --control fdr_bh\n"
        "  activation-analysis power --paired --control bonferroni\n"
        "  activation-analysis power --groups 10 --icc 0.3 --control none\n"
        "  activation-analysis power math_vs_nonmath --effect 0.8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_target(power, nargs="*")
    # Not the options of an experiment: plans know controls that a run does not offer.
    for name, (kind, meaning) in POWER_OPTIONS.items():
        power.add_argument(
            *dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"]),
            dest=f"planned_{name.replace('-', '_')}",
            type=kind,
            metavar=name.rsplit("-", 1)[-1].upper(),
            help=meaning,
        )
    power.add_argument("--paired", action="store_true", help="prompts come in pairs (items)")


def _add_tokens(commands: argparse._SubParsersAction) -> None:
    tokens = commands.add_parser(
        "tokens",
        help="show what the model is sent, token by token, and which tokens count",
        description="Show prompts as they are sent and token by token: place, id, the tokenizer's "
        "spelling, and which tokens count at the position asked for. No weights are loaded.",
    )
    _add_target(tokens)
    names = ("model", "revision")
    _add_options(tokens, {name: MODEL_OPTIONS[name] for name in names} | POSITION_OPTIONS)
    _add_flags(tokens)
    shown = tokens.add_mutually_exclusive_group()
    shown.add_argument(
        "--limit", type=count, default=3, metavar="N", help="prompts per condition (default: 3)"
    )
    shown.add_argument("--rows", type=rows, metavar="1,5,7-9", help="these prompts, the first is 1")


def _add_list(commands: argparse._SubParsersAction) -> None:
    listing = commands.add_parser("list", help="list the experiments, or the tracked runs")
    listing.add_argument("what", nargs="?", choices=("experiments", "runs"), default="experiments")


def _add_ui(commands: argparse._SubParsersAction) -> None:
    ui = commands.add_parser(
        "ui", help="open MLflow's UI on this machine", description="Start MLflow's UI and stay."
    )
    ui.add_argument("--port", type=port, default=5000, help="default: 5000")
    ui.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")


_CONTRAST_HELP = "such as 'math - nonmath'; may be given several times"


def _add_target(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    parser.add_argument(
        "target",
        nargs=nargs,
        metavar="EXPERIMENT",
        help="an experiment's name or folder, or prompts: .csv, .tsv, .jsonl, .xlsx or .parquet "
        "files, one .txt per condition, a folder of these, a folder per condition with one .txt "
        "per prompt, a saved dataset's folder, or hf:owner/name:split",
    )
    _add_contrast(parser)
    _add_each(parser, PROMPT_OPTIONS)


def _add_contrast(parser: argparse.ArgumentParser) -> None:
    # --contrasts is the name in MLproject: a param called contrast is the run's own.
    parser.add_argument(
        "--contrast", "--contrasts", action="append", metavar="'a - b'", help=_CONTRAST_HELP
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for name, meaning in TEXT_FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)


def _add_options(parser: argparse.ArgumentParser, options: dict[str, str]) -> None:
    _add_each(parser, options)
    parser.add_argument(
        "--set",
        action="append",
        metavar="TABLE.OPTION=VALUE",
        help="any option of experiment.toml, such as univariate.alpha=0.01",
    )


def _add_each(parser: argparse.ArgumentParser, options: dict[str, str]) -> None:
    for name, meaning in options.items():
        value = name.rsplit("-", 1)[-1].upper()
        # `mlflow run -P top_n=5` and -P top-n=5 both arrive.
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        parser.add_argument(*spellings, default="", metavar=value, help=meaning)
