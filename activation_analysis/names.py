"""Names that users give: the nearest known one, and whether a name may become a file name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from activation_analysis.errors import ExperimentError, InputError

LONGEST_NAME = 100
_SAFE = re.compile(r"\w(?:[\w. \-]*[\w\-])?")
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, letter case aside; None where none is like it."""
    by_lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: " (did you mean 'alpha'?)", or nothing."""
    close = nearest(name, known)
    return f" (did you mean {close!r}?)" if close else ""


def safe_name(
    name: str, what: str = "experiment", error: type[InputError] = ExperimentError
) -> str:
    """``name`` itself, where it can be one folder or file name on every system.

    Letters and digits of any script, ``_``, ``-``, ``.`` and inner spaces; starts with a letter,
    digit or ``_``; at most 100 characters and 200 bytes. So no separator, no ``..``, no control
    character, no device name of Windows.

    Raises
    ------
    error
        If it is anything else.
    """
    if (
        isinstance(name, str)
        and len(name) <= LONGEST_NAME
        and _SAFE.fullmatch(name)
        and not _WINDOWS_DEVICE.fullmatch(name)
        and len(name.encode("utf-8", "surrogatepass")) <= 2 * LONGEST_NAME
    ):
        return name
    received = repr(name)
    raise error(
        f"{received if len(received) <= 120 else received[:120] + '...'} cannot be the name of "
        f"{'an' if what[0] in 'aeiou' else 'a'} {what}; use letters, digits, _ - . and inner "
        f"spaces, starting with a letter or digit, at most {LONGEST_NAME} characters"
    )


def made_safe(text: str) -> str:
    """A safe name made from any text, for names that nobody typed."""
    name = re.sub(r"[^\w.\-]+", "_", text).strip("_.-")[: LONGEST_NAME // 2].rstrip(".")
    return f"_{name}" if not name or _WINDOWS_DEVICE.fullmatch(name) else name
