"""Tables of prompts as text: CSV, TSV and JSON lines.

Every reader streams ``(line, row)`` and reports what it cannot read instead of stopping, so that
all mistakes of a file are told at once. A text comes through as it was written: nothing is taken
for a missing value, and only a line ending ends a line. A CRLF inside a quoted CSV field reads as
LF, since it says how the file was saved; a prompt that needs one is kept by JSON lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from activation_analysis.prompt_layout import Layout, how_to_say
from activation_analysis.prompt_problems import REQUIRED, Report, Row

LONE_RETURN = (
    "holds a carriage return that ends no line (line ends of old Macs?); save the file with LF "
    "or CRLF line ends"
)
_LONGEST_FIELD = 2**31 - 1


def read_csv(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a comma-separated file with a header."""
    return _read_table(path, encoding, layout, report, ",")


def read_tsv(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a tab-separated file with a header; quotes work as in CSV."""
    return _read_table(path, encoding, layout, report, "\t")


def read_jsonl(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a file with one JSON object a line; numbers keep the digits they are written in."""
    keys: dict[str, None] = {}
    hinted = not layout.is_plain
    with path.open(encoding=encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            line = line.strip(" \t\r\n")
            if not line:
                continue
            value = None
            try:
                value = _JSON.decode(line)
                row = _row_of(value, layout)
            except json.JSONDecodeError as error:
                message = f"is not JSON: {error.msg} at column {error.colno}"
                report(number, LONE_RETURN if "\r" in line else message)
            except (ValueError, RecursionError) as error:
                report(number, str(error))
                if not hinted and isinstance(value, dict) and not set(REQUIRED) & set(value):
                    hinted = True
                    report(number, how_to_say(list(value)))
            else:
                yield number, row
            if layout.columns and isinstance(value, dict):
                keys |= dict.fromkeys(value)
    for message in layout.never_there(keys) if keys else ():
        report(0, message)


def _read_table(
    path: Path, encoding: str, layout: Layout, report: Report, delimiter: str
) -> Iterator[tuple[int, Row]]:
    with path.open(encoding=encoding, newline="") as file, _long_fields():
        records = _records(csv.reader(file, delimiter=delimiter, strict=True), report)
        first = next(records, None)
        if first is None:
            report(0, f"is empty; the first line names the columns {' and '.join(layout.required)}")
            return
        line, header = first
        wrong = _separators(header, delimiter) or list(layout.problems(header))
        for message in wrong:
            report(line, message)
        if wrong:
            return
        names = layout.names(header)
        for line, record in records:
            if len(record) == len(names):
                yield line, dict(zip(names, map(_lf, record), strict=True))
            else:
                report(line, _ragged(len(record), len(names), delimiter))


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


def _separators(header: list[str], delimiter: str) -> list[str]:
    """What to say of columns that are separated by another sign than the file's name promises."""
    other = [d for d in ",;\t" if d != delimiter and len(header) == 1 and d in header[0]]
    if not other:
        return []
    return [
        f"the columns are separated by {other[0]!r}, but the file's name promises "
        f"{delimiter!r}; save it with {delimiter!r}" + (" or as .tsv" * (other[0] == "\t"))
    ]


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


def _row_of(value: object, layout: Layout) -> Row:
    """The row that a line's JSON object holds, or a ValueError that says why it holds none."""
    if not isinstance(value, dict):
        raise ValueError("is not an object; write one a line, as in " + _EXAMPLE)
    named = layout.row(value)
    for key in layout.texts:
        absent = named[key] is None and layout.wide  # told as an empty cell
        if not absent and (not isinstance(named[key], str) or isinstance(named[key], _Number)):
            raise ValueError(
                f"{'the prompt' if key == 'prompt' else repr(key)} is not a string; put it in "
                f"double quotes"
            )
    row = {key: _as_text(key, v) for key, v in named.items()}
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
