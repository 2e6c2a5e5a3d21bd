"""Tables and user text that are safe in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """User text that cannot become Markdown or HTML, nor end its line."""
    text = re.sub("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", text)
    text = re.sub(r"([\\`*_{}\[\]<>|#$~!&])", r"\\\1", text)
    # What would begin a list, a rule or a quotation, at the start of a line alone.
    return re.sub(r"^(\s*)([-+=>]|\d+(?=[.)]))", _harmless_start, text)


def _harmless_start(match: re.Match[str]) -> str:
    space, sign = match.groups()
    return f"{space}&#{ord(sign[0])};{sign[1:]}"
