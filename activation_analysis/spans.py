"""The marked stretches of prompts, for position ``span``: which characters speak for a prompt.

A prompt marks them in its text, as in ``The [[cat]] sat.``, or by offsets in the columns
``span_start`` and ``span_end``; several offsets in a row are parted by white space. Either way
the model reads the text alone. At any other position ``[[`` is text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from activation_analysis.prompt_problems import refuse

if TYPE_CHECKING:
    from activation_analysis.prompts import PromptSet

SPAN_COLUMNS = ("span_start", "span_end")

Span = tuple[int, int]  # the characters from the first to before the second

_BRACKETS = re.compile(r"\[{2,}|\]{2,}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_HOW = "put [[ and ]] around it, or fill in span_start and span_end"


def with_spans(prompts: PromptSet) -> PromptSet:
    """The same prompts without marks, every one with its stretches in the two columns.

    Prompts that are so already come back equal.

    Raises
    ------
    PromptError
        All prompts without a stretch, with broken marks, with both marks and columns, with
        offsets that the text does not have, or that are there twice; each with file and line.
    """
    starts, stops = (_column(prompts, column) for column in SPAN_COLUMNS)
    texts, spans, problems = [], [], []
    first_with: dict[tuple[str, tuple[Span, ...]], int] = {}
    for row, written in enumerate(prompts.texts):
        try:
            text, found = _read(written, starts[row], stops[row])
        except ValueError as error:
            problems.append(f"{prompts.where(row)}: {error}")
            continue
        texts.append(text)
        spans.append(found)
        first = first_with.setdefault((text, found), row)
        if first != row:
            where = prompts.where(first)
            problems.append(f"{prompts.where(row)}: the same prompt and stretch as {where}")
    refuse(problems)
    table = prompts.table.drop(columns=[c for c in SPAN_COLUMNS if c in prompts.table])
    columns = {
        "prompt": texts,
        "span_start": [" ".join(str(start) for start, _ in row) for row in spans],
        "span_end": [" ".join(str(stop) for _, stop in row) for row in spans],
    }
    return replace(prompts, table=table.assign(**{c: _texts(v) for c, v in columns.items()}))


def without_spans(prompts: PromptSet) -> PromptSet:
    """The prompts themselves, once they differ in more than stretches that nobody reads."""
    if not any(column in prompts.table for column in SPAN_COLUMNS):
        return prompts
    first_with: dict[str, int] = {}
    problems = []
    for row, text in enumerate(prompts.texts):
        first = first_with.setdefault(text, row)
        if first != row:
            problems.append(
                f"{prompts.where(row)}: the same prompt as {prompts.where(first)} but for its "
                f'marked stretch, which only position "span" reads'
            )
    refuse(problems)
    return prompts


def has_marks(text: str) -> bool:
    """Whether a text would mark a stretch, if it were read so."""
    try:
        return bool(_unmarked(text)[1])
    except ValueError:
        return False


def marked_spans(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[Span, ...], ...]]:
    """Texts without their marks ``[[`` and ``]]``, and the stretches that stood between.

    Raises
    ------
    PromptError
        All texts without a stretch, or with broken marks.
    """
    read, problems = [], []
    for i, written in enumerate(texts):
        try:
            read.append(_read(written, "", ""))
        except ValueError as error:
            problems.append(f"prompt {i}: {error}")
    refuse(problems)
    return tuple(text for text, _ in read), tuple(spans for _, spans in read)


def spans_of(table: pd.DataFrame) -> tuple[tuple[Span, ...], ...]:
    """The stretches of every row of prompts that `with_spans` returned; none in others."""
    if not all(column in table for column in SPAN_COLUMNS):
        return ((),) * len(table)
    columns = (table[column].str.split() for column in SPAN_COLUMNS)
    return tuple(
        tuple((int(start), int(stop)) for start, stop in zip(*row, strict=True))
        for row in zip(*columns, strict=True)
    )


def _column(prompts: PromptSet, column: str) -> Sequence[str]:
    return tuple(prompts.table[column]) if column in prompts.table else ("",) * len(prompts)


def _texts(values: Sequence[str]) -> pd.Series:
    return pd.Series(values, dtype=object)


def _read(written: str, starts: str, stops: str) -> tuple[str, tuple[Span, ...]]:
    """A row's text and stretches, or a ValueError that says what is wrong."""
    if not (starts.strip() or stops.strip()):
        text, spans = _unmarked(written)
        if not spans:
            raise ValueError(f'no marked stretch, which position "span" needs; {_HOW}')
    elif has_marks(written):
        raise ValueError("both [[...]] in the prompt and offsets in span_start, span_end; keep one")
    else:
        text, spans = written, tuple(_offsets(starts, stops))
    for problem in _span_problems(text, spans):
        raise ValueError(problem)
    return text, spans


def _unmarked(written: str) -> tuple[str, tuple[Span, ...]]:
    kept: list[str] = []
    spans: list[Span] = []
    length, done, opened = 0, 0, None
    for match in _BRACKETS.finditer(written):
        brackets, column = match.group(), match.start() + 1
        if len(brackets) > 2:
            raise ValueError(
                f"{brackets!r} at character {column}: it is unclear which brackets are text; "
                f"say where the stretch is in span_start and span_end instead"
            )
        if brackets == "[[" and opened is not None:
            raise ValueError(f"'[[' at character {column} opens a stretch inside another one")
        if brackets == "]]" and opened is None:
            raise ValueError(f"']]' at character {column} closes a stretch that was not opened")
        kept.append(written[done : match.start()])
        length += len(kept[-1])
        done = match.end()
        if brackets == "[[":
            opened = (length, column)
        else:
            spans.append((opened[0], length))
            opened = None
    if opened is not None:
        raise ValueError(f"'[[' at character {opened[1]} is never closed; write ]] after it")
    return "".join([*kept, written[done:]]), tuple(spans)


def _offsets(starts: str, stops: str) -> Iterator[Span]:
    first, second = starts.split(), stops.split()
    for column, values in zip(SPAN_COLUMNS, (first, second), strict=True):
        wrong = [value for value in values if not _NUMBER.fullmatch(value)]
        if wrong:
            raise ValueError(f"{column} is {wrong[0]!r}; write whole numbers, such as 4 or 4 20")
    if len(first) != len(second):
        raise ValueError(
            f"span_start has {len(first)} numbers and span_end {len(second)}; give every stretch "
            f"one of both"
        )
    yield from zip(map(int, first), map(int, second), strict=True)


def _span_problems(text: str, spans: Sequence[Span]) -> Iterator[str]:
    for start, stop in spans:
        if stop > len(text):
            yield f"span_end is {stop}, but the prompt has {len(text)} characters"
        elif start >= stop:
            yield f"the stretch from {start} to {stop} is empty; {_HOW}"
        elif not text[start:stop].strip():
            yield f"the stretch from {start} to {stop} holds only white space"
    for (_, stop), (start, _) in pairwise(spans):
        if start < stop:
            yield f"the stretch from {start} begins before the one before it ends at {stop}"
