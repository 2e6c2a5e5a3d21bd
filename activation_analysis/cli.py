"""The command line: what can be asked, and how mistakes are answered. No logic here.

Nothing heavy is imported before the arguments are checked.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from activation_analysis.errors import InputError, PeerError

OVERRIDES = {
    "model": "model.id",
    "revision": "model.revision",
    "device": "model.device",
    "dtype": "model.dtype",
    "sites": "recording.sites",
    "layers": "recording.layers",
    "position": "recording.position",
    "batch_tokens": "recording.batch_tokens",
    "skip_first": "recording.skip_first",
    "layout": "recording.layout",
    "upload_mb": "recording.upload_mb",
    "max_memory": "model.max_memory",
    "offload_folder": "model.offload_folder",
    "test": "univariate.test",
    "control": "univariate.control",
    "alpha": "univariate.alpha",
    "top_n": "univariate.top_n",
    "nuisance": "univariate.nuisance",
    "groups": "univariate.groups",
    "n_permutations": "univariate.n_permutations",
    "calibration": "univariate.calibration",
    "seed": "seed",
}
FLAGS = {
    "truncate": "recording.truncate",
    "chat": "recording.chat",
    "control_tokens": "recording.control_tokens",
    "stream": "recording.stream",
}

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 are minutes of silence before a dead server
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the command shows the link itself
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",  # a warning at every fork otherwise
}

MODEL_OPTIONS = {
    "model": "embedded alias, hub id, local folder or .gguf file (default: smollm2-135m)",
    "revision": "branch, tag or commit of a hub id",
    "device": "auto, cpu, cuda, cuda:N or mps",
    "dtype": "auto, float32, bfloat16 or float16",
    "max-memory": "limits such as 0=20GiB,cpu=8GiB; what does not fit goes to CPU, then disk",
    "offload-folder": "where weights go that fit into no memory",
}
POSITION_OPTIONS = {
    "position": "which tokens speak for a prompt: last, first, mean, max, word_final, span "
    "(marked [[so]]) or all",
    "skip-first": "leave out so many places at the beginning (attention sinks)",
}
RECORDING_OPTIONS = POSITION_OPTIONS | {
    "sites": "residual,attention,mlp,neuron,head or some of them",
    "layers": "block indices such as 0,5,11 (default: all)",
    "batch-tokens": "tokens per forward pass (default: what is fastest and fits into memory)",
    "layout": "auto, packed (prompts share a row, kept apart) or padded",
    "upload-mb": "a larger capture stays in mlruns/captures; its address and digest are logged",
}
TEXT_FLAGS = {
    "truncate": "cut prompts longer than the model's context",
    "chat": "send every prompt as a user turn of the model's chat template",
    "control-tokens": "strings such as <|im_end|> in prompts are control tokens, not text",
}
ANALYSIS_OPTIONS = {
    "test": "welch, student, mannwhitney, brunnermunzel, paired, wilcoxon, f, kruskal, glm_t or "
    "glm_f",
    "control": "fdr_bh, fdr_by, fdr_tsbky, bonferroni, holm or max_t (permutation)",
    "alpha": "error rate over the whole family of units",
    "top-n": "discriminative units to list",
    "nuisance": "columns to adjust for, such as tokens,author (with --test glm_t)",
    "groups": "auto: a column 'group' binds prompts together; ignore: it does not",
    "n-permutations": "random relabellings of control max_t (default: 1000)",
    "calibration": "relabellings that check the run's own false positives; 0: none",
    "seed": "seed of everything random",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user, 130 if stopped."""
    began = time.perf_counter()
    _be_quiet()
    try:
        args = _parser().parse_args(arguments)
        args.began = began
        with _terminable():
            return _command(args.command)(args)
    except InputError as error:
        if _speaks(error):
            print(f"error: {error}", file=sys.stderr)
        _leave_reason(error)
        return 2
    except KeyboardInterrupt as stop:
        print(_stopped(stop), file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains about the same pipe on its way out
        return 0


def overrides(args: argparse.Namespace) -> list[str]:
    """The options that were given, as ``table.option=value``; an empty value was not given."""
    given = {key: getattr(args, name, "") for name, key in OVERRIDES.items()}
    changes = [f"{key}={value}" for key, value in given.items() if value]
    changes += [f"{key}=true" for name, key in FLAGS.items() if getattr(args, name, False)]
    return changes + list(getattr(args, "set", None) or [])


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    return getattr(import_module("activation_analysis.commands"), f"{name}_command")


def _speaks(error: InputError) -> bool:
    """Whether this process tells of an error: of several the first does, or whoever is left."""
    import os

    return os.environ.get("RANK", "0") == "0" or isinstance(error, PeerError)


def _stopped(stop: KeyboardInterrupt) -> str:
    import os

    if str(stop) == "SIGTERM" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return (
            f"stopped (process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}): another "
            f"process of this run ended, or the launcher was told to stop; what is finished is "
            f"kept, and the same command goes on from there"
        )
    return "stopped"


def _leave_reason(error: InputError) -> None:
    import os

    if os.environ.get("MLFLOW_RUN_ID"):
        from activation_analysis.tracking import tag_failure

        tag_failure(error)


def _be_quiet() -> None:
    """No telemetry and no chatter from libraries, unless the user's environment says otherwise."""
    import logging
    import os

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _terminable() -> Iterator[None]:
    """A request to end (SIGTERM) ends the run as Ctrl-C does: tracked as KILLED, with a reason."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are answered like every other mistake of a user."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\nsee: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="activation-analysis",
        description="Which units of a language model respond differently to two conditions, "
        "where, how strongly and how surely? Tracked in MLflow.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
        description="Read an experiment or prompt files; print counts, balance and mistakes.",
    )
    _add_target(check)
    _add_options(
        check,
        {"model": MODEL_OPTIONS["model"] + "; its tokenizer counts the tokens"} | POSITION_OPTIONS,
    )
    _add_flags(check)


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
        "--limit", type=_count, default=3, metavar="N", help="prompts per condition (default: 3)"
    )
    shown.add_argument(
        "--rows", type=_rows, metavar="1,5,7-9", help="these prompts, the first is 1"
    )


def _add_list(commands: argparse._SubParsersAction) -> None:
    listing = commands.add_parser("list", help="list the experiments, or the tracked runs")
    listing.add_argument("what", nargs="?", choices=("experiments", "runs"), default="experiments")


def _add_ui(commands: argparse._SubParsersAction) -> None:
    ui = commands.add_parser(
        "ui", help="open MLflow's UI on this machine", description="Start MLflow's UI and stay."
    )
    ui.add_argument("--port", type=_port, default=5000, help="default: 5000")
    ui.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write it as 0.5") from None


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 1 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count: a whole number from 1 on")
    return int(text)


def _rows(text: str) -> list[int]:
    """Prompt numbers as they are spelled, ranges opened up."""
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        ends = (first, last) if dash else (first, first)
        if not all(end.isdecimal() and int(end) for end in ends) or int(ends[0]) > int(ends[1]):
            raise argparse.ArgumentTypeError(
                f"{text!r} names no prompts; write numbers from 1 on, as in 1,5,7-9"
            )
        rows += range(int(ends[0]), int(ends[1]) + 1)
    return list(dict.fromkeys(rows))


POWER_OPTIONS: dict[str, tuple[Callable[[str], object], str]] = {
    "effect": (_number, "true effect to be found: Cohen's d, d_z of pairs (default: 0.5)"),
    "units": (_count, "units tested (default: 115200, smollm2-135m at all sites)"),
    "control": (
        str,
        "none, bonferroni, holm, fdr_bh, fdr_by, fdr_tsbky or max_t (default: the "
        "experiment's, else fdr_bh)",
    ),
    "alpha": (_number, "error rate over all units (default: the experiment's, else 0.05)"),
    "power": (_number, "share of the responding units to be found (default: 0.8)"),
    "responding": (_number, "share of the units that respond, for fdr (default: 0.05)"),
    "groups": (_count, "groups per condition (templates, authors) that the prompts come in"),
    "icc": (_number, "correlation of prompts of one group (default: 0.3)"),
    "threshold-t": (_number, "the |t| that a max_t permutation test of a run asked for"),
}
_CONTRAST_HELP = "such as 'math - nonmath'; may be given several times"


def _add_target(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    parser.add_argument(
        "target",
        nargs=nargs,
        metavar="EXPERIMENT",
        help="an experiment's name or folder, or prompt files (.csv, .tsv, .jsonl, or one .txt "
        "per condition)",
    )
    _add_contrast(parser)


def _add_contrast(parser: argparse.ArgumentParser) -> None:
    # --contrasts is the name in MLproject: a param called contrast is the run's own.
    parser.add_argument(
        "--contrast", "--contrasts", action="append", metavar="'a - b'", help=_CONTRAST_HELP
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for name, meaning in TEXT_FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)


def _add_options(parser: argparse.ArgumentParser, options: dict[str, str]) -> None:
    for name, meaning in options.items():
        value = name.rsplit("-", 1)[-1].upper()
        # `mlflow run -P top_n=5` and -P top-n=5 both arrive.
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        parser.add_argument(*spellings, default="", metavar=value, help=meaning)
    parser.add_argument(
        "--set",
        action="append",
        metavar="TABLE.OPTION=VALUE",
        help="any option of experiment.toml, such as univariate.alpha=0.01",
    )
