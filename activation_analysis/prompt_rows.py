"""The rows of all prompt files side by side, and what can be wrong among them."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from activation_analysis.duplicates import first_alike
from activation_analysis.prompt_problems import REQUIRED, Problems, Report, Row
from activation_analysis.spans import SPAN_COLUMNS

FEWEST_PROMPTS = 2
COMPLETE = ("item", "group")  # columns that are filled on every row or on none
_NOT_IN_A_NAME = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029"]')


class PromptRows:
    """Columns that grow row by row; problems are noted with the line where a row starts."""

    def __init__(self, files: Sequence[Path], problems: Problems) -> None:
        self.files = files
        self.problems = problems
        self.columns: dict[str, list[str]] = {column: [] for column in REQUIRED}
        self.file = array("l")
        self.line = array("q")
        self._known: dict[str, str] = {}
        self._silent_files = 0

    def read(self, number: int, rows: Callable[[Report], Iterator[tuple[int, Row]]]) -> None:
        """Add the rows of one file, which are told where to report what is wrong with it."""
        report = partial(self.problems.add, self.files[number])
        n_rows, n_problems = len(self.line), len(self.problems)
        try:
            for line, row in rows(report):
                self._add(number, line, row)
        except OSError as error:
            report(0, f"cannot be read: {error.strerror or error}")
        if len(self.line) == n_rows:
            self._silent_files += 1
            if len(self.problems) == n_problems:
                report(0, "holds no prompts")

    def compare(self, *, duplicates: str = "refuse") -> None:
        """Note what only all rows together can show; duplicates only if they are refused."""
        if duplicates == "refuse":
            self._refuse_duplicates()
        for column in COMPLETE:
            self._check_complete(column)
        condition = self.columns["condition"]
        counts = Counter(condition)
        for row, label in enumerate(condition):
            if label.strip() and counts[label] < FEWEST_PROMPTS:
                self._note(row, f"condition {label!r} has only this prompt; it needs two or more")
        labels = [label for label in counts if label.strip()]
        if len(labels) == 1 and not self._silent_files:
            hint = (
                "; give one .txt file for each" if self.files[0].name == f"{labels[0]}.txt" else ""
            )
            message = f"only one condition, {labels[0]!r}; a contrast needs two or more{hint}"
            self.problems.add(self.files[0], 0, message)

    def table(self) -> pd.DataFrame:
        """condition, prompt, then the other columns as they came; all str, "" where not given."""
        unused = [c for c in COMPLETE if not any(self.columns.get(c, ()))]
        kept = [column for column in self.columns if column not in unused]
        return pd.DataFrame({c: pd.Series(self._padded(c), dtype=object) for c in kept})

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """File number and line of every row, each (n_prompts,)."""
        return np.array(self.file, dtype=np.int32), np.array(self.line, dtype=np.int32)

    def _add(self, number: int, line: int, row: Row) -> None:
        n_before = len(self.line)
        self.file.append(number)
        self.line.append(line)
        for column, value in row.items():
            values = self.columns.setdefault(column, [])
            if len(values) < n_before:
                values.extend([""] * (n_before - len(values)))
            values.append(value if column == "prompt" else self._known.setdefault(value, value))
        self._check(n_before, row["condition"], row["prompt"])

    def _check(self, row: int, condition: str, prompt: str) -> None:
        if not condition.strip():
            self._note(row, "the condition is missing")
        elif condition != condition.strip():
            self._note(row, f"condition {condition!r} has white space around it; delete it")
        elif _NOT_IN_A_NAME.search(condition):
            self._note(row, f"condition {condition!r} holds a double quote or control character")
        if not prompt.strip():
            self._note(row, "the prompt is empty")

    def _refuse_duplicates(self) -> None:
        # Two stretches of one text are two prompts.
        parts = [self._padded(c) for c in ("prompt", *SPAN_COLUMNS) if c in self.columns]
        first = first_alike(*parts)
        for row in np.flatnonzero(first != np.arange(len(first))):
            if parts[0][row].strip():  # an empty prompt is told as such
                self._note(int(row), self._duplicate(int(first[row]), int(row)))

    def _duplicate(self, first: int, row: int) -> str:
        condition = self.columns["condition"][row]
        there = self.columns["condition"][first]
        same_file = self.file[first] == self.file[row]
        where = f"line {self.line[first]}" + (
            "" if same_file else f" of {self.files[self.file[first]].name}"
        )
        if there == condition:
            return f"the same prompt as {where}, in the same condition {condition!r}"
        return f"the same prompt as {where}, there {there!r} and here {condition!r}"

    def _check_complete(self, column: str) -> None:
        values = self._padded(column) if column in self.columns else []
        if not any(values):
            return
        for row, value in enumerate(values):
            if not value.strip():
                self._note(row, f"no {column}, but other rows have one; fill it in on every row")

    def _padded(self, column: str) -> list[str]:
        values = self.columns[column]
        n_missing = len(self.line) - len(values)
        return values + [""] * n_missing if n_missing else values

    def _note(self, row: int, message: str) -> None:
        self.problems.add(self.files[self.file[row]], self.line[row], message)
