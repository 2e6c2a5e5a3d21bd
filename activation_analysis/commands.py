"""What each command does: read, compute, track, show."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis import terminal
from activation_analysis.command_options import overrides
from activation_analysis.errors import ExperimentError, InputError
from activation_analysis.experiment import (
    FILE_NAME,
    Experiment,
    apply_overrides,
    list_experiments,
    load_experiment,
    read_experiment,
)
from activation_analysis.experiment_file import override
from activation_analysis.options import READING, Settings
from activation_analysis.progress import stage
from activation_analysis.prompt_files import are_prompts
from activation_analysis.starter import starter_files, write_files
from activation_analysis.workspace import experiment_roots

if TYPE_CHECKING:
    from activation_analysis.pipeline import Outcome
    from activation_analysis.prompts import PromptSet

RECORDED = ("model", "recording", "prompts", *READING)  # what a capture has settled


def new_command(args: argparse.Namespace) -> int:
    """The folder of a new experiment, and what to do with it."""
    asked = args.conditions
    conditions = () if asked is None else tuple(c.strip() for c in asked.split(","))
    folder = Path(args.folder) / args.name
    files = starter_files(args.name, conditions, paired=args.paired)
    terminal.show_files(write_files(files, folder))
    found = list_experiments(experiment_roots()).get(args.name)
    by_name = found is not None and found.resolve() == folder.resolve()
    terminal.show_next_steps(args.name if by_name else str(folder))
    return 0


def run_command(args: argparse.Namespace) -> int:
    """Record, analyse, track."""
    experiment = _experiment(args)
    from activation_analysis import pipeline

    ready = pipeline.prepare(experiment)
    from activation_analysis.models.distributed import join_processes

    processes = join_processes()
    if not processes.is_main:
        pipeline.run(experiment, ready=ready, processes=processes)
        return 0
    from activation_analysis import tracking
    from activation_analysis.provenance import provenance

    name = pipeline.run_name(experiment.model.id, experiment.name)
    with tracking.tracked_run(experiment, run_name=name, named=args.run_name) as run:
        outcome = pipeline.run(experiment, ready=ready, processes=processes)
        with stage("Drawing and tracking"):
            run_ids = tracking.log_outcome(run, outcome, provenance())
    _show(args, outcome, run_ids)
    return 0


def analyze_command(args: argparse.Namespace) -> int:
    """Statistics again, from the capture of a tracked run."""
    changes = overrides(args)
    _refuse_recorded(changes)
    from activation_analysis import pipeline, tracking
    from activation_analysis.acquisition import stored_recording
    from activation_analysis.provenance import provenance

    source = tracking.find_run(args.run)
    with tracking.stored(source) as (capture, folder):
        experiment = _with_contrasts(read_experiment(folder), args.contrast)
        experiment = apply_overrides(experiment, changes)
        activations = stored_recording(capture)
        terminal.show_source(source, experiment, activations)
        name = pipeline.run_name(activations.model, experiment.name)
        with tracking.tracked_run(experiment, run_name=name, named=args.run_name) as run:
            outcome = pipeline.rerun_analysis(experiment, activations)
            holder = source.tags.get("aa.capture_run", source.run_id)
            with stage("Drawing and tracking"):
                run_ids = tracking.log_outcome(run, outcome, provenance(), capture_run=holder)
    _show(args, outcome, run_ids)
    return 0


def calibrate_command(args: argparse.Namespace) -> int:
    """False positives of an analysis, on nulls made of a stored capture."""
    changes = overrides(args)
    _refuse_recorded(changes)
    n_relabellings = _whole(args.relabellings or "200", "--relabellings", at_least=2)
    every = args.units.strip() == "all"
    n_units = 0 if every else _whole(args.units, "--units") if args.units else None
    from activation_analysis import pipeline, tracking
    from activation_analysis.acquisition import stored_recording
    from activation_analysis.provenance import provenance
    from activation_analysis.study_calibration import calibrated

    with _capture(args) as (capture, experiment, holder):
        experiment = apply_overrides(_with_contrasts(experiment, args.contrast), changes)
        activations = stored_recording(capture)
        pipeline.refuse_other_prompts(experiment, activations)
        name = f"{pipeline.run_name(activations.model, experiment.name)}·calibration"
        tracked = tracking.tracked_run(
            experiment, kind="calibration", run_name=name, named=args.run_name
        )
        with tracked as run:
            with stage("Analysing nulls"):
                of = calibrated(
                    experiment, activations, n_relabellings=n_relabellings, n_units=n_units
                )
            with stage("Drawing and tracking"):
                tracking.log_calibration(
                    run,
                    pipeline.Outcome(experiment, activations, ()),
                    of,
                    provenance(),
                    capture_run=holder,
                    n_relabellings=n_relabellings,
                )
    terminal.show_calibration(of, tracking.find_run(run.run_id))
    return 0


def _whole(text: str, option: str, *, at_least: int = 1) -> int:
    if not text.strip().isdecimal() or int(text) < at_least:
        raise InputError(f"{option} must be a whole number of at least {at_least}, not {text!r}")
    return int(text)


@contextmanager
def _capture(args: argparse.Namespace) -> Iterator[tuple[Path, Experiment, str | None]]:
    """A capture, the experiment it is of, and the run that holds it, if one does."""
    if args.experiment:
        from activation_analysis.store import capture_folder

        folder = Path(args.run)
        folder = folder if folder.is_dir() else capture_folder(args.run)
        yield folder, load_experiment(args.experiment, experiment_roots()), None
        return
    from activation_analysis import tracking

    source = tracking.find_run(args.run)
    with tracking.stored(source) as (capture, folder):
        yield capture, read_experiment(folder), source.tags.get("aa.capture_run", source.run_id)


def _show(args: argparse.Namespace, outcome: Outcome, run_ids: list[str]) -> None:
    from activation_analysis.tracking import find_run

    seconds = time.perf_counter() - args.began
    terminal.show_outcome(outcome, [find_run(run_id) for run_id in run_ids], seconds=seconds)


def check_command(args: argparse.Namespace) -> int:
    """What would make a result of these prompts mean less than it seems to."""
    experiment = _experiment(args, duplicates="keep")
    from activation_analysis.checking import checked
    from activation_analysis.terminal_check import show_check

    found = checked(experiment, surprisal=args.surprisal)
    show_check(found, experiment)
    if args.save:
        from activation_analysis.checking import save_check

        terminal.show_files(save_check(found, Path(args.save)))
    return 1 if args.strict and not found.passed else 0


def plan_command(args: argparse.Namespace) -> int:
    """What a run would take."""
    experiment = _experiment(args)
    from activation_analysis.pipeline import prepare
    from activation_analysis.plan import plan

    terminal.show_plan(experiment, plan(prepare(experiment)))
    return 0


def power_command(args: argparse.Namespace) -> int:
    """How many prompts it takes."""
    experiment = _experiment(args) if args.target else None
    from activation_analysis.power_arguments import plans_asked
    from activation_analysis.terminal_power import show_power

    for plan in plans_asked(args, experiment):
        show_power(plan)
    return 0


def tokens_command(args: argparse.Namespace) -> int:
    """What the model is sent."""
    experiment = _experiment(args)
    rows = _shown_rows(args, experiment.prompts)
    from activation_analysis.models.positions import places
    from activation_analysis.pipeline import read_tokens
    from activation_analysis.terminal_tokens import show_tokens

    experiment = replace(experiment, prompts=experiment.prompts.take(rows))
    tokens, options = read_tokens(experiment).tokens, experiment.recording
    chosen = places(options.position, tokens, skip_first=options.skip_first)
    show_tokens(experiment, rows, tokens, chosen)
    return 0


def _shown_rows(args: argparse.Namespace, prompts: PromptSet) -> np.ndarray:
    """The prompts asked for, else the first few of every condition."""
    if not args.rows:
        return np.sort(
            np.concatenate([prompts.rows_of(c)[: args.limit] for c in prompts.conditions])
        )
    outside = [row for row in args.rows if row > len(prompts)]
    if outside:
        raise InputError(
            f"no prompt {outside[0]}; {prompts.name!r} has {len(prompts)}, the first is 1"
        )
    return np.array(args.rows) - 1


def list_command(args: argparse.Namespace) -> int:
    """Experiments that can be run by name, or runs that are tracked."""
    if args.what == "runs":
        from activation_analysis import tracking

        terminal.show_runs(tracking.list_runs())
        return 0
    experiments, problems = [], []
    for folder in list_experiments(experiment_roots()).values():
        try:
            experiments.append(read_experiment(folder))
        except InputError as error:
            problems.append(str(error))
    terminal.show_experiments(experiments, problems)
    return 0


def ui_command(args: argparse.Namespace) -> int:
    """MLflow's own server with the flags that fit this store; stays until stopped."""
    from activation_analysis import tracking

    uri = tracking.connect()
    if uri.startswith(("http://", "https://")):
        terminal.show_ui(tracking.experiment_link(uri), started=False)
        return 0
    _refuse_taken(args.host, args.port)
    terminal.show_ui(tracking.experiment_link(f"http://{args.host}:{args.port}"), started=True)
    server = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    server += ["--host", args.host, "--port", str(args.port), "--workers", "1"]
    server += ["--no-serve-artifacts"]
    root = tracking.artifact_root()
    server += ["--default-artifact-root", root] if root else []
    # One worker and no job runner: two processes instead of ten.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    sys.stdout.flush()
    # In our place, so that whatever stops this command stops the server and all its children.
    os.execv(sys.executable, server)


def _refuse_taken(host: str, port: int) -> None:
    """The server itself would say so only after seconds, in the middle of a traceback."""
    import socket

    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error}; is a UI open already? "
            f"choose another port with --port"
        ) from None


def _refuse_recorded(changes: list[str]) -> None:
    fixed = [c for c in changes if c.split("=")[0].split(".")[0].strip() in RECORDED]
    if fixed:
        raise ExperimentError(
            f"{', '.join(fixed)}: a stored capture cannot change its model, prompts or recording; "
            f"use `activation-analysis run` for that"
        )


def _experiment(args: argparse.Namespace, *, duplicates: str = "refuse") -> Experiment:
    """The experiment that the arguments mean, with every override applied."""
    target, changes = list(args.target), overrides(args)
    reading = [change for change in changes if change.partition("=")[0].strip() in READING]
    if len(target) > 1 or _is_prompt_file(target[0]):
        said = override(Settings({}), reading)
        experiment = Experiment.from_prompts(
            target if len(target) > 1 else target[0],
            _asked(args.contrast) or None,
            columns=said.renames,
            wide=said.wide,
            encoding=said.encoding,
            duplicates=duplicates,
        )
    else:
        roots = experiment_roots()
        found = load_experiment(target[0], roots, reading=reading, duplicates=duplicates)
        experiment = _with_contrasts(found, args.contrast)
    return apply_overrides(experiment, changes)


def _is_prompt_file(target: str) -> bool:
    path = Path(target)
    return not os.path.isfile(path / FILE_NAME) and are_prompts(path)


def _with_contrasts(experiment: Experiment, contrasts: list[str] | None) -> Experiment:
    """The experiment with the contrasts asked for on the command line instead of its own."""
    asked = _asked(contrasts)
    return experiment.with_contrasts(asked) if asked else experiment


def _asked(contrasts: list[str] | None) -> list[str]:
    """The contrasts given; `mlflow run` passes an empty one where none is."""
    return [contrast for contrast in contrasts or [] if contrast.strip()]
