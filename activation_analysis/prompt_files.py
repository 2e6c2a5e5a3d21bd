"""Prompt files as rows: CSV, TSV, JSON lines, or one text file per condition.

Every reader streams ``(line, row)`` and reports what it cannot read instead of stopping, so that
all mistakes of a file are told at once. A text comes through as it was written: nothing is taken
for a missing value, and only a line ending ends a line. A CRLF inside a quoted CSV field reads as
LF, since it says how the file was saved; a prompt that needs one is kept by JSON lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from activation_analysis.errors import PromptError
from activation_analysis.names import nearest
from activation_analysis.text_files import shown

REQUIRED = ("condition", "prompt")
MOST_SHOWN = 20
_LONGEST_FIELD = 2**31 - 1

Row = dict[str, str]
Report = Callable[[int, str], None]


class Problems:
    """What is wrong with the prompts, collected to be told in the order of files and lines."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._found: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: Path, line: int, message: str) -> None:
        """Note a problem of one line; line 0 is the file as a whole."""
        where = f"{shown(path)}:{line}" if line else shown(path)
        order = self._files.setdefault(path, len(self._files))
        self._found.append((order, line, f"{where}: {message}"))

    def refuse(self) -> None:
        """Raise one PromptError that lists them all, if there are any."""
        refuse([m for _, _, m in sorted(self._found, key=lambda p: p[:2])])


def refuse(messages: Sequence[str]) -> None:
    """Raise one PromptError that lists the first of what is wrong, if anything is."""
    if not messages:
        return
    hidden = len(messages) - MOST_SHOWN
    more = [f"... and {hidden} more ({len(messages)} problems in all)"] if hidden > 0 else []
    raise PromptError("\n".join([*messages[:MOST_SHOWN], *more]))


def read_csv(path: Path, encoding: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Rows of a comma-separated file with a header."""
    return _read_table(path, encoding, report, ",")


def read_tsv(path: Path, encoding: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Rows of a tab-separated file with a header; quotes work as in CSV."""
    return _read_table(path, encoding, report, "\t")


def read_jsonl(path: Path, encoding: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Rows of a file with one JSON object a line; numbers keep the digits they are written in."""
    with path.open(encoding=encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            line = line.strip(" \t\r\n")
            if not line:
                continue
            try:
                row = _row_of(_JSON.decode(line))
            except json.JSONDecodeError as error:
                report(number, f"is not JSON: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:
                report(number, str(error))
            else:
                yield number, row


def read_txt(path: Path, encoding: str, report: Report) -> Iterator[tuple[int, Row]]:
    """One prompt a line; the file's name is the condition. Blank lines may end the file."""
    blank: list[int] = []
    with path.open(encoding=encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            prompt = line.removesuffix("\n").removesuffix("\r")
            if not prompt.strip():
                blank.append(number)
                continue
            for earlier in blank:
                report(earlier, "the prompt is empty; delete the line")
            blank.clear()
            yield number, {"condition": path.stem, "prompt": prompt}


READERS: dict[str, Callable[[Path, str, Report], Iterator[tuple[int, Row]]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".txt": read_txt,
}


def _read_table(
    path: Path, encoding: str, report: Report, delimiter: str
) -> Iterator[tuple[int, Row]]:
    with path.open(encoding=encoding, newline="") as file, _long_fields():
        records = _records(csv.reader(file, delimiter=delimiter, strict=True), report)
        first = next(records, None)
        if first is None:
            report(0, f"is empty; the first line names the columns {' and '.join(REQUIRED)}")
            return
        line, header = first
        wrong = list(_header_problems(header, delimiter))
        for message in wrong:
            report(line, message)
        if wrong:
            return
        for line, record in records:
            if len(record) == len(header):
                yield line, dict(zip(header, map(_lf, record), strict=True))
            else:
                report(line, _ragged(len(record), len(header), delimiter))


def _records(reader, report: Report) -> Iterator[tuple[int, list[str]]]:
    """Records with the line where each starts; blank lines are none."""
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(line, _csv_problem(error))
            continue
        if record:
            yield line, record


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses fields over 128 KiB unless told; its limit is global."""
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _header_problems(header: list[str], delimiter: str) -> Iterator[str]:
    there = ", ".join(repr(column) for column in header)
    other = [d for d in ",;\t" if d != delimiter and len(header) == 1 and d in header[0]]
    if other:
        yield (
            f"the columns are separated by {other[0]!r}, but the file's name promises "
            f"{delimiter!r}; save it with {delimiter!r}" + (" or as .tsv" * (other[0] == "\t"))
        )
        return
    for column in REQUIRED:
        if column not in header:
            unused = [c for c in header if c not in REQUIRED]
            yield f"no column {column!r}; columns: {there}{_slip(column, unused)}"
    if any(not column.strip() for column in header):
        yield (
            f"column {[bool(c.strip()) for c in header].index(False) + 1} has no name; "
            f"name or delete it (pandas writes one unless told index=False)"
        )
    for column in dict.fromkeys(c for c in header if c.strip() and header.count(c) > 1):
        yield f"column {column!r} is there {header.count(column)} times; keep one"


def _slip(wanted: str, there: list[str]) -> str:
    close = nearest(wanted, there)
    return f" (for {close!r}, did you mean {wanted!r}?)" if close else ""


def _ragged(n_fields: int, n_columns: int, delimiter: str) -> str:
    message = f"{n_fields} fields where the header has {n_columns}"
    if n_fields < n_columns:
        return message
    holding = "a comma" if delimiter == "," else "a tab"
    return f"{message}; put a prompt with {holding} in it in double quotes"


def _csv_problem(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a double quote that opens in this record is never closed"
    return (
        "text follows a closing double quote; put the whole field in double quotes and write "
        f'each quote inside it twice, as in """Yes"", she said." ({error})'
    )


def _lf(field: str) -> str:
    return field.replace("\r\n", "\n") if "\r" in field else field


class _Number(str):
    """A JSON number, as it is spelled in the file."""


def _row_of(value: object) -> Row:
    """The row that a line's JSON object holds, or a ValueError that says why it holds none."""
    if not isinstance(value, dict):
        raise ValueError("is not an object; write one a line, as in " + _EXAMPLE)
    unused = [key for key in value if key not in REQUIRED]
    missing = [key for key in REQUIRED if key not in value]
    if missing:
        there = ", ".join(repr(key) for key in value) or "none"
        wrong = " and ".join(f"{k!r}{_slip(k, unused)}" for k in missing)
        raise ValueError(f"no key {wrong}; keys: {there}")
    if not isinstance(value["prompt"], str) or isinstance(value["prompt"], _Number):
        raise ValueError("the prompt is not a string; put it in double quotes")
    row = {key: _as_text(key, v) for key, v in value.items()}
    if any(_is_broken(text) for pair in row.items() for text in pair):
        raise ValueError("holds half of a surrogate pair (\\ud800-\\udfff), which is no character")
    return row


_EXAMPLE = '{"condition": "math", "prompt": "Two and two"}'


def _as_text(key: str, value: object) -> str:
    if isinstance(value, str):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    kind = "a list" if isinstance(value, list) else "an object"
    raise ValueError(f"{key!r} is {kind}; a row holds texts and numbers only")


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} is there twice; keep one")
    return dict(pairs)


_JSON = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=_Number, parse_int=_Number, parse_constant=_Number
)
