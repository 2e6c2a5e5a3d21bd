"""Prompts with their conditions: what a study shows to the model.

A row is a prompt with its condition, perhaps its item (the matched set it belongs to), its group
(exchangeability block) and further covariates. Everything is text, as written in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from activation_analysis.balance import balance
from activation_analysis.errors import ContrastError, PromptError
from activation_analysis.names import did_you_mean, made_safe
from activation_analysis.prompt_files import files_of, rows_of
from activation_analysis.prompt_layout import Layout
from activation_analysis.prompt_problems import REQUIRED, Problems
from activation_analysis.prompt_rows import PromptRows
from activation_analysis.spans import SPAN_COLUMNS, Span, spans_of
from activation_analysis.text_files import is_encoding, shown

__all__ = ["PromptSet", "balance", "read_prompts"]

PathLike = str | os.PathLike[str]
_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _nowhere() -> np.ndarray:
    return np.zeros(0, dtype=int)


@dataclass(frozen=True, eq=False)
class PromptSet:
    """The prompts of one study, in the order of their files."""

    name: str
    table: pd.DataFrame = field(repr=False)
    """Columns condition and prompt, then item, group and covariates where given; all str."""
    source: tuple[Path, ...] = ()  # the files, in the order read
    file: np.ndarray = field(default_factory=_nowhere, repr=False)  # (n_prompts,) of `source`
    line: np.ndarray = field(default_factory=_nowhere, repr=False)  # (n_prompts,) the first is 1

    def __len__(self) -> int:
        return len(self.table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PromptSet):
            return NotImplemented
        return (self.name, self.fingerprint) == (other.name, other.fingerprint)

    def __hash__(self) -> int:
        return hash((self.name, self.fingerprint))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.table["prompt"])

    def chunks(self, size: int) -> Iterator[list[str]]:
        """The prompts in their order, so many at a time."""
        column = self.table["prompt"]
        for start in range(0, len(column), size):
            yield column.iloc[start : start + size].tolist()

    @property
    def conditions(self) -> tuple[str, ...]:
        """In the order in which they first appear."""
        return tuple(dict.fromkeys(self.table["condition"]))

    @property
    def counts(self) -> dict[str, int]:
        """Prompts of every condition."""
        return dict(Counter(self.table["condition"]))

    @property
    def covariates(self) -> tuple[str, ...]:
        """The columns beside prompt, condition, item, group and the marked stretches."""
        return tuple(c for c in self.table if c not in (*REQUIRED, "item", "group", *SPAN_COLUMNS))

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """The marked stretches of every prompt that `spans.with_spans` has read."""
        return spans_of(self.table)

    @property
    def blocks(self) -> np.ndarray | None:
        """Exchangeability blocks: the group, else the item, else None; (n_prompts,) of str."""
        for column in ("group", "item"):
            if column in self.table:
                return self.table[column].to_numpy()
        return None

    def rows_of(self, conditions: str | Sequence[str]) -> np.ndarray:
        """Rows of one or more conditions, ascending, (n,) int."""
        wanted = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        for condition in wanted:
            if condition not in self.conditions:
                raise ContrastError(
                    f"no condition {condition!r} in {self.name!r}; it has "
                    f"{', '.join(map(repr, self.conditions))}"
                    f"{did_you_mean(condition, self.conditions)}"
                )
        return np.flatnonzero(self.table["condition"].isin(wanted).to_numpy())

    def select(self, conditions: str | Sequence[str]) -> PromptSet:
        """The prompts of some conditions only, in the same order."""
        return self.take(self.rows_of(conditions))

    def take(self, rows: np.ndarray) -> PromptSet:
        """Some rows only, in the order given."""
        placed = len(self.line) == len(self)
        return PromptSet(
            name=self.name,
            table=self.table.iloc[rows].reset_index(drop=True),
            source=self.source,
            file=self.file[rows] if placed else self.file,
            line=self.line[rows] if placed else self.line,
        )

    def pairs(
        self, first: str | Sequence[str], second: str | Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of each side, matched by item, each (n_items,) int; for paired tests.

        Raises
        ------
        PromptError
            If there is no item column, or an item is not on each side exactly once.
        """
        if "item" not in self.table:
            raise PromptError(
                f"{self.name!r} has no item column; a paired test needs one that says which "
                f"prompts belong together"
            )
        codes, _ = pd.factorize(self.table["item"])
        sides = [self.rows_of(first), self.rows_of(second)]
        times = [np.bincount(codes[rows], minlength=codes.max() + 1) for rows in sides]
        if np.any(times[0] != times[1]) or np.any(times[0] > 1):
            wrong = list(self._unpaired(codes, sides, times))
            more = f"\n... and {len(wrong) - 20} more" if len(wrong) > 20 else ""
            raise PromptError("\n".join(wrong[:20]) + more)
        row_with = np.empty(codes.max() + 1, dtype=int)
        row_with[codes[sides[1]]] = sides[1]
        return sides[0], row_with[codes[sides[0]]]

    def where(self, row: int) -> str:
        """The file and line that a row came from, as messages spell it."""
        if len(self.line) != len(self):
            return f"{self.name} row {row}"
        return f"{shown(self.source[self.file[row]])}:{self.line[row]}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the rows in order; the same for the same rows in any format or encoding."""
        digest = hashlib.sha256()
        for line in self._json_rows():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def to_jsonl(self) -> str:
        """The rows as JSON lines, from which `read_prompts` brings back the same fingerprint."""
        return "".join(line + "\n" for line in self._json_rows())

    def _json_rows(self) -> Iterator[str]:
        columns = list(self.table)
        for values in zip(*(self.table[c] for c in columns), strict=True):
            filled = {c: v for c, v in zip(columns, values, strict=True) if v != ""}
            yield _JSON.encode(filled)

    def _unpaired(
        self, codes: np.ndarray, sides: Sequence[np.ndarray], times: Sequence[np.ndarray]
    ) -> Iterator[str]:
        items = self.table["item"].to_numpy()
        for rows, own, other in zip(sides, times, times[::-1], strict=True):
            for row in rows:
                item, code = items[row], codes[row]
                if own[code] > 1:
                    yield (
                        f"{self.where(row)}: item {item!r} is on this side of the contrast more "
                        f"than once; a paired test needs it once"
                    )
                elif not other[code]:
                    yield (
                        f"{self.where(row)}: item {item!r} is on one side of the contrast only; "
                        f"a paired test needs it on both"
                    )


def read_prompts(
    path: PathLike | Iterable[PathLike],
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    wide: Sequence[str] = (),
    encoding: str | None = None,
    duplicates: str = "refuse",
) -> PromptSet:
    """Read prompts with their conditions, or say everything that is wrong with them.

    Parameters
    ----------
    path : one of these, or several
        a table (.csv, .tsv, .jsonl, .xlsx, .parquet) with a prompt and a condition in every row;
        a folder of .txt files, each a condition with a prompt a line; a folder of folders, each a
        condition with .txt files that are a prompt each; a dataset, as the folder that
        ``save_to_disk`` wrote or as ``hf:owner/name:split``
    name : name of the prompt set; the file's or folder's where left out
    columns : what the tables call prompt, condition, item and so on: our name -> theirs
    wide : columns that are conditions, in tables whose rows are items; `columns` goes first
    encoding : read the files so; UTF-8, or what their byte order mark says, where left out
    duplicates : "refuse" the same prompt twice, or "keep" it, for a check that goes on to tell
        what else there is

    Raises
    ------
    PromptError
        All problems at once, each with file and line: no file, other encodings, broken rows,
        missing columns, empty or duplicate prompts, conditions with fewer than two prompts.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(p) for p in path]
    if encoding and not is_encoding(encoding):
        raise PromptError(f"no encoding {encoding!r}; such as utf-8, utf-16, cp1252")
    layout = Layout(columns, wide)
    problems = Problems()
    files = list(files_of(paths, problems))
    rows = PromptRows([file.path for file in files], problems)
    for number, file in enumerate(files):
        rows.read(number, partial(rows_of, file, encoding, layout))
    rows.compare(duplicates=duplicates)
    problems.refuse()
    numbers, lines = rows.places()
    return PromptSet(name or _name_of(paths), rows.table(), tuple(rows.files), numbers, lines)


def _name_of(paths: list[Path]) -> str:
    """The files' own name; the folder's for a file that is just called prompts."""
    first = Path(os.path.abspath(paths[0]))
    if len(paths) == 1:
        return first.parent.name if first.stem == "prompts" and first.suffix else first.stem
    return made_safe("_".join(path.stem for path in paths))
