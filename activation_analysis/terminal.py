"""What a person sees on the terminal. User text is never read as markup."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from activation_analysis.results import number, percent

if TYPE_CHECKING:
    from activation_analysis.activations import Activations
    from activation_analysis.experiment import Experiment
    from activation_analysis.pipeline import Outcome
    from activation_analysis.plan import Plan
    from activation_analysis.results import ContrastResult
    from activation_analysis.results.calibration import CalibratedContrast, Calibration
    from activation_analysis.tracking import TrackedRun

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NARROWEST = 100  # columns assumed where the output is a file


def console() -> Console:
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=NARROWEST)


def shown(text: object, style: str = "") -> Text:
    """User text as it stands: no markup, and no control sequence reaches the terminal."""
    return Text(CONTROL.sub("�", str(text)), style)


def _say(out: Console, text: object, style: str = "") -> None:
    """A line of text, wrapped by words on a terminal and left whole in a file or a pipe."""
    out.print(shown(text, style), soft_wrap=not out.is_terminal)


def show_outcome(outcome: Outcome, runs: Sequence[TrackedRun], *, seconds: float) -> None:
    """Finding, sites, warnings, where the figures are, how to open the UI; `seconds` in all."""
    out = console()
    for result, run in zip(outcome.results, runs, strict=True):
        out.print()
        _say(out, result.finding, style="bold")
        out.print(_sites_table(result))
        for line in _inference(result):
            _say(out, line, style="dim")
        for warning in result.warnings:
            _say(out, f"! {warning}", style="yellow")
        _show_places(out, run)
    out.print()
    if outcome.proven:
        _say(out, outcome.proven, style="dim")
    _say(out, _time_spent(outcome, seconds), style="dim")
    out.print("open the UI:  activation-analysis ui", soft_wrap=True)


def _inference(result: ContrastResult) -> list[str]:
    """What the p-values rest on, a line each."""
    lines = [f"one family of {result.first_map.family_size or 0:,} tests; {result.power.sentence}"]
    if result.n_true_at_least is not None:
        lines[0] += f"; at least {result.n_true_at_least:,} units respond (ARI)"
    if result.permutation is not None:
        lines.append(result.permutation.sentence)
    if result.calibration is not None and not result.calibration.flagged:
        lines.append(result.calibration.sentence)
    if result.surface is not None:
        lines.append(f"surface: {result.surface.sentence}")
    return lines


def _time_spent(outcome: Outcome, seconds: float) -> str:
    s = outcome.seconds
    parts = {"loading": s.loading, "forward passes": s.forward, "analysis": s.analysis}
    parts["start-up, figures and tracking"] = seconds - sum(parts.values())
    named = ", ".join(f"{name} {value:.1f} s" for name, value in parts.items() if value)
    return f"time: {seconds:.1f} s in all: {named}"


def show_source(source: TrackedRun, experiment: Experiment, activations: Activations) -> None:
    """What an analysis of a stored capture rests on, and the settings that it starts from."""
    options = experiment.univariate
    how = f", {options.test}, {options.control} at {options.alpha:g}" if options else ""
    layers = activations.layers
    of = "all layers" if len(layers) == activations.n_layers else f"layers {layers}"
    _say(
        console(),
        f"from run {source.run_id} ({source.name}): {', '.join(activations.sites)}, {of}, "
        f"position {activations.position}{how}",
    )


def show_calibration(of: CalibratedContrast, run: TrackedRun) -> None:
    """The verdict on each null, and where the figures are."""
    out, c = console(), of.calibration
    out.print()
    how = f"{c.test}, {c.control} at {c.alpha:g}, {c.n_units:,} of {c.n_all_units:,} units"
    style = "bold yellow" if c.flagged else "bold"
    _say(out, f"{of.contrast}: calibration {c.verdict} ({how})", style=style)
    out.print(_nulls_table(c))
    for name, why in c.skipped.items():
        _say(out, f"{name}: left out, {why}", style="dim")
    if c.flagged:
        _say(out, f"! {c.warning}", style="yellow")
    _show_places(out, run)


def _nulls_table(c: Calibration) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("null")
    for column in ("repetitions", f"p <= {c.alpha:g}", "any unit left", "verdict"):
        table.add_column(column, justify="right")
    for null in c.nulls:
        rates = [
            f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
            for rate in (null.fpr, null.family_wise)
        ]
        table.add_row(null.null, null.repetitions, *rates, null.verdict)
    return table


def _show_places(out: Console, run: TrackedRun) -> None:
    from activation_analysis.tracking import local_artifacts

    out.print(shown(f"\nrun {run.run_id} ({run.name}), {run.status}"), soft_wrap=True)
    folder = local_artifacts(run)
    if folder is None:
        out.print(Text(f"artifacts: {run.artifact_uri}"), soft_wrap=True)
        return
    near = _relative(folder)
    out.print(Text(f"summary:   {near / 'summary.md'}"), soft_wrap=True)
    if (folder / "top_units.csv").is_file():
        out.print(Text(f"top units: {near / 'top_units.csv'}"), soft_wrap=True)
    out.print("figures:")
    for figure in sorted((folder / "figures").glob("*.png")):
        out.print(Text(f"  {near / 'figures' / figure.name}"), soft_wrap=True)


def _relative(folder: Path) -> Path:
    try:
        return folder.relative_to(Path.cwd())
    except ValueError:
        return folder


def _sites_table(result: ContrastResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("site")
    for column in (
        "significant",
        "share",
        "peak layer",
        f"mean {result.effect_label} there",
        "held-out",
    ):
        table.add_column(column, justify="right")
    for site, profile in result.profiles.items():
        n_tested, n_significant = int(profile.n_tested.sum()), int(profile.n_significant.sum())
        peak = np.flatnonzero(profile.layer == profile.peak_layer)
        table.add_row(
            site,
            f"{n_significant:,} of {n_tested:,}",
            percent(n_significant / max(n_tested, 1)),
            f"{profile.peak_layer} of 0-{profile.n_layers - 1}" if len(peak) else "-",
            number(profile.mean_abs_d[peak[0]]) if len(peak) else "-",
            number(profile.peak_held_out_d),
        )
    return table


def show_plan(experiment: Experiment, plan: Plan) -> None:
    """The estimate, one line each."""
    out = console()
    rows = {
        "experiment": f"{experiment.name} ({', '.join(map(str, experiment.contrasts))})",
        "model": f"{plan.model}, {plan.n_parameters / 1e6:,.0f} M parameters in {plan.n_layers} "
        f"blocks",
        "prompts": f"{plan.n_prompts:,} ({plan.n_tokens:,} tokens, longest {plan.longest})",
        "units": f"{plan.n_units:,} at {', '.join(experiment.recording.sites)}",
        "time": f"about {_duration(plan.seconds)} on this machine's processor",
        "memory": f"about {_size(plan.memory_bytes)}",
        "disk": f"about {_size(plan.disk_bytes)}, and as much again while it is being logged",
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, shown(value))
    out.print(table)


def show_experiments(experiments: Sequence[Experiment], problems: Sequence[str]) -> None:
    """Those that can run, then what is wrong with the others."""
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("experiment", "prompts", "contrast", "question"):
        table.add_column(column, no_wrap=column in ("experiment", "prompts"))
    for experiment in experiments:
        table.add_row(
            shown(experiment.name),
            str(len(experiment.prompts)),
            shown("; ".join(map(str, experiment.contrasts))),
            shown(experiment.question),
        )
    out.print(table)
    for problem in problems:
        _say(out, f"! {problem}", style="yellow")


def show_runs(runs: Sequence[TrackedRun]) -> None:
    from datetime import datetime

    out = console()
    if not runs:
        out.print("no complete run yet; start one with: activation-analysis run math_vs_nonmath")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "name", "contrast", "test", "started"):
        table.add_column(column, no_wrap=column in ("run", "started"))
    for run in runs:
        started = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M")
        contrast = run.params.get("contrast", "(several)")
        test = run.params.get("analysis.test", "")
        table.add_row(run.run_id[:8], shown(run.name), shown(contrast), shown(test), started)
    out.print(table)


def show_files(files: Sequence[Path]) -> None:
    """Where something was written."""
    for file in files:
        _say(console(), f"wrote {file}")


def show_next_steps(experiment: str) -> None:
    """What to do with a new experiment: the commands, as a shell takes them."""
    out, named = console(), shlex.quote(experiment)
    _say(out, "\nnext: write your prompts into prompts.csv, then")
    for command in (f"check {named}", f"run {named}", "ui"):
        _say(out, f"  activation-analysis {command}")


def show_ui(link: str, *, started: bool) -> None:
    out = console()
    out.print("MLflow's UI:" if started else "a tracking server is set; its UI:")
    out.print(Text(f"  {link}", style="bold"), soft_wrap=True)
    if started:
        out.print("stop it with Ctrl-C")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit != "GB" else f"{n_bytes:.1f} GB"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
