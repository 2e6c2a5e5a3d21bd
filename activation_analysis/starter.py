"""A new experiment: a folder that runs as it stands, with comments that say what to change."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from activation_analysis import contrasts, starter_texts
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import FILE_NAME
from activation_analysis.experiment_file import toml_key, toml_value
from activation_analysis.names import safe_name
from activation_analysis.prompt_files import are_prompts
from activation_analysis.text_files import shown

Rows = list[tuple[str, str, str]]  # condition, prompt, item ("" where prompts are not matched)


def starter_files(
    name: str, conditions: Sequence[str] = (), *, paired: bool = False
) -> dict[str, str]:
    """The files of a new experiment, name -> text; nothing is written.

    Parameters
    ----------
    name : of the experiment, also its folder's
    conditions : two or more, whose prompts are placeholders then; where left out, mornings and
        evenings, with real prompts
    paired : whether prompts are matched, in a column ``item``

    Returns
    -------
    dict
        ``experiment.toml``, ``prompts.csv`` and ``README.md``. They read back with
        `read_experiment`. Several conditions get an omnibus contrast, which all their pairs
        follow.

    Raises
    ------
    ExperimentError
        If the name is unsafe or that of prompts, or the conditions are fewer than two, there
        twice, or unusable as labels.
    """
    safe_name(name)
    if are_prompts(Path(name)):
        raise ExperimentError(
            f"`run {name}` would read {name!r} as prompts, not as the name of this experiment; "
            f"choose another one"
        )
    if conditions:
        _check_conditions(conditions)
        rows, question = _placeholders(conditions, paired), _question(conditions)
        warning = starter_texts.PLACEHOLDER_WARNING
    else:
        conditions, question = tuple(starter_texts.MORNING_EVENING), starter_texts.QUESTION
        rows, warning = _demonstration(paired), starter_texts.STARTER_WARNING
    expressions = _contrasts(conditions)
    filled = {
        "name": name,
        "target": f'"{name}"' if " " in name else name,
        "question": toml_value(question),
        "question_plain": question,
        "contrasts": "\n".join(f"{toml_key(n)} = {toml_value(e)}" for n, e in expressions.items()),
        "contrasts_plain": ", ".join(f"`{e}`" for e in expressions.values()),
        "conditions": ", ".join(f"`{c}`" for c in conditions),
        "test": _test(conditions, paired),
        "design": starter_texts.PAIRED_DESIGN if paired else starter_texts.UNPAIRED_DESIGN,
        "warning": Template(warning).substitute(n_prompts=len(rows)),
    }
    return {
        FILE_NAME: Template(starter_texts.EXPERIMENT).substitute(filled),
        "prompts.csv": _csv(rows, paired),
        "README.md": Template(starter_texts.README).substitute(filled),
    }


def write_files(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write a new folder with these files; the paths written.

    Raises
    ------
    ExperimentError
        If the folder is there already, or cannot be made.
    """
    if os.path.lexists(folder):
        raise ExperimentError(
            f"{shown(folder)} is there already, and nothing in it is overwritten; choose another "
            f"name, or delete it first"
        )
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ExperimentError(f"{shown(folder)}: cannot be written: {error.strerror}") from None
    return [folder / name for name in files]


def _check_conditions(conditions: Sequence[str]) -> None:
    if len(conditions) < 2:
        raise ExperimentError(
            f"--conditions has only {conditions[0]!r}; a contrast needs two or more, as in "
            f"question,statement"
        )
    bad = [c for c in conditions if not c.strip() or c != c.strip() or not c.isprintable()]
    bad += [c for c in conditions if '"' in c]
    if bad:
        raise ExperimentError(
            f"--conditions: {bad[0]!r} cannot be the name of a condition; write names without "
            f"double quotes or control characters between the commas, as in question,statement"
        )
    twice = [c for c in conditions if conditions.count(c) > 1]
    if twice:
        raise ExperimentError(f"--conditions has {twice[0]!r} twice; give each its own name")


def _contrasts(conditions: Sequence[str]) -> dict[str, str]:
    """One condition minus the other, or any difference among several, name -> expression."""
    quoted = [contrasts.quoted(condition) for condition in conditions]
    return contrasts.named((" - " if len(quoted) == 2 else " | ").join(quoted), conditions)


def _test(conditions: Sequence[str], paired: bool) -> str:
    if not paired:
        return starter_texts.UNPAIRED_TEST
    return starter_texts.PAIRED_TEST if len(conditions) == 2 else starter_texts.BLOCKED_TEST


def _question(conditions: Sequence[str]) -> str:
    *others, last = conditions
    if len(others) == 1:
        return f"Which units respond more to {others[0]} than to {last}?"
    return f"Which units respond differently to {', '.join(others)} and {last}?"


def _demonstration(paired: bool) -> Rows:
    alone, pairs = starter_texts.MORNING_EVENING, starter_texts.MORNING_EVENING_PAIRS
    if paired:
        return [(c, text.format(c), item) for item, text in pairs.items() for c in alone]
    return [(c, text, "") for c, texts in alone.items() for text in texts]


def _placeholders(conditions: Sequence[str], paired: bool) -> Rows:
    text = starter_texts.PLACEHOLDER
    numbers = range(1, starter_texts.N_PLACEHOLDERS + 1)
    rows = [
        (c, text.format(number=k, condition=c), f"item{k}") for k in numbers for c in conditions
    ]
    return rows if paired else sorted(rows, key=lambda row: conditions.index(row[0]))


def _csv(rows: Rows, paired: bool) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("condition", "prompt", "item") if paired else ("condition", "prompt"))
    writer.writerows(row if paired else row[:2] for row in rows)
    return stream.getvalue()
