"""A prompt row, what every one needs, and what is wrong with prompts, told all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from activation_analysis.errors import PromptError
from activation_analysis.text_files import shown

REQUIRED = ("condition", "prompt")
MOST_SHOWN = 20

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
