"""What a check of prompts found, on the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from activation_analysis.balance import balance_label
from activation_analysis.experiment import Experiment
from activation_analysis.results import ContrastCheck, PromptCheck
from activation_analysis.terminal import console, shown

SHOWN_CUES = 4
OPENING = {
    "few_prompts": "too few",
    "near_duplicates": "near-duplicates",
    "too_long": "too long",
    "last_token": "last token",
    "first_token": "first token",
}


def show_check(checked: PromptCheck, experiment: Experiment) -> None:
    """Counts, then every contrast's balance and design, then what is off."""
    out, prompts = console(), experiment.prompts
    _say(f"{checked.name}: {experiment.question}".rstrip(": "), "bold")
    counts = ", ".join(f"{n:,} {condition}" for condition, n in checked.counts.items())
    _say(f"{len(prompts):,} prompts: {counts}")
    for column in ("item", "group"):
        if column in prompts.table:
            n = prompts.table[column].nunique()
            _say(f"{n:,} different {column}s" if n > 1 else f"one {column}")
    if prompts.covariates:
        _say(f"covariates: {', '.join(prompts.covariates)}")
    for contrast in checked.contrasts:
        _show_contrast(contrast)
    out.print()
    if checked.sampled:
        _say(
            f"templates and near-duplicates were looked for among {checked.n_compared:,} prompts "
            f"drawn at random, copies among all",
            "dim",
        )
    if checked.passed:
        _say("nothing is off", "bold green")
        return
    for finding in checked.findings:
        kind = OPENING.get(finding.kind, finding.kind)
        out.print(
            Text.assemble(("! ", "yellow"), (f"{kind}: ", "bold yellow"), shown(finding.message)),
            soft_wrap=not out.is_terminal,
        )
    n = len(checked.findings)
    _say(f"{n} thing{'s' * (n != 1)} to mend (--strict: exit code 1)", "bold")


def _show_contrast(checked: ContrastCheck) -> None:
    out = console()
    out.print()
    out.print(_balance_table(checked))
    _say("SMD: standardised mean difference. ! too large, (!) as declared or adjusted for", "dim")
    _show_baseline(checked)
    if checked.power:
        _say(f"design: test {checked.test}, {checked.relabellings}")
        _say(f"power: {checked.power.sentence}")
    for note in checked.notes:
        _say(f"note: {note}")


def _show_baseline(checked: ContrastCheck) -> None:
    """What words alone tell; which ones only where they tell anything."""
    baseline = checked.baseline
    if baseline is None:
        _say("surface: nothing can be held out (too few prompts, groups or templates)", "dim")
        return
    _say(f"surface: {baseline.sentence}")
    if not baseline.beats_chance(by=0):
        return
    telling = zip(baseline.classes, baseline.telling, strict=True)
    _say("; ".join(f"{c}: {' '.join(words)}" for c, words in telling), "dim")
    if baseline.cues:
        _say(f"uneven: {'; '.join(baseline.cues[:SHOWN_CUES])}", "dim")


def _balance_table(checked: ContrastCheck) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    table.title = shown(checked.contrast)
    table.add_column("measure")
    sides = checked.sides if len(checked.sides) == 2 else ("one", "other of the pair")
    for column in (*sides, "SMD", "at most"):
        table.add_column(shown(column), justify="right")
    for row in checked.balance.itertuples(index=False):
        excused = row.covariate in checked.excused
        mark = (" (!)" if excused else " !") if row.flagged else ""
        table.add_row(
            shown(balance_label(row)),
            f"{row.mean_first:.2f} ± {row.sd_first:.2f}",
            f"{row.mean_second:.2f} ± {row.sd_second:.2f}",
            Text(f"{row.smd:+.3f}{mark}", "yellow" if mark == " !" else ""),
            f"{row.limit:.2g}",
        )
    return table


def _say(text: str, style: str = "") -> None:
    out = console()
    out.print(shown(text, style), soft_wrap=not out.is_terminal)
