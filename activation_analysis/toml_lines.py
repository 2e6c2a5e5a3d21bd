"""The line of every key of a TOML file, which `tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Key = tuple[str, ...]

_TOKEN = re.compile(
    r'''(?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}'''
    r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
    r"""|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<mark>[][{}=.,])|(?P<bare>[^\s\[\]{}=.,\#"']+)"""
    r"""|(?P<space>[^\S\n]+)""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Key, int]:
    """The first line of every table and key of a text that `tomllib` accepts.

    Keys are full paths, ``("univariate", "test")``. Keys inside inline tables are not listed: they
    stand on the line of their table.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    for number, is_header, key in _keys(text):
        if is_header:
            table = key
        path = table if is_header else table + key
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], number)
        if is_header:
            lines[path] = number
    return lines


def line_of(lines: dict[Key, int], key: Key) -> int:
    """The line of a key, else of the nearest table around it, else 1."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def error_line(error: tomllib.TOMLDecodeError, text: str) -> int:
    """The line where a text stops being TOML; the last one where it ends too early."""
    found = re.search(r"at line (\d+)", str(error))
    return int(found[1]) if found else text.rstrip("\n").count("\n") + 1


def _keys(text: str) -> Iterator[tuple[int, bool, Key]]:
    """(line, is a table header, key) of every statement."""
    tokens = ((m.lastgroup, m.group()) for m in _TOKEN.finditer(text))
    line = 1
    key: list[str] = []
    is_header = in_value = False
    depth = 0
    for kind, token in tokens:
        if kind == "newline":
            line += 1
            if depth == 0:
                key, is_header, in_value = [], False, False
        elif in_value:
            line += token.count("\n")
            if kind == "mark" and not is_header:
                depth += (token in "[{") - (token in "]}")
        elif token == "[":
            is_header = True
        elif kind in ("bare", "string"):
            key.append(_spelled_out(token))
        elif token == "=" or (token == "]" and is_header):
            yield line, is_header, tuple(key)
            in_value = True


def _spelled_out(key: str) -> str:
    return tomllib.loads(f"key = {key}")["key"] if key[0] in "\"'" else key
