"""Text as it lies on a disk: which encoding, which bytes are not text, how to name its path."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from activation_analysis.names import did_you_mean

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages spell it: relative where it lies below the working directory."""
    path = Path(path)
    try:
        text = str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        text = str(path)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def encoding_of(path: Path) -> str:
    """The encoding that a file's byte order mark declares; UTF-8 where there is none."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((e for mark, e in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def is_encoding(name: str) -> bool:
    """Whether a name is one of an encoding of text."""
    try:
        return isinstance("".encode(name), bytes)
    except (LookupError, ValueError):
        return False


def undecodable(
    path: Path, encoding: str, remedy: Callable[[str], str] | None = None
) -> Iterator[tuple[int, str]]:
    """Every line of a file that is not text in ``encoding``, with what to do about it.

    ``remedy`` says what to do about a file that is likely in another encoding, which it is given;
    where left out, to save the file as UTF-8.
    """
    remedy = remedy or save_as_utf8
    if encoding not in ("utf-8", "utf-8-sig"):
        yield from _undecodable_whole(path, encoding, remedy)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if b"\0" in line:
                yield number, "holds a NUL byte; " + _without_nul(line, remedy)
                return
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                # All lines of a file of an old Mac are one here.
                lone = line[: error.start].count(b"\r")
                yield number + lone, _bad_byte(line, error.start) + "; " + remedy("cp1252")


def missing(path: Path) -> str:
    """What to say of a path that is not there, with the nearest one that is."""
    if os.path.isdir(path):
        return "is a folder, not a file"
    folder = path.parent
    if not os.path.isdir(folder):
        return f"no such file: there is no folder {shown(folder)!r}"
    return f"no such file{did_you_mean(path.name, (p.name for p in folder.iterdir()))}"


def _undecodable_whole(
    path: Path, encoding: str, remedy: Callable[[str], str]
) -> Iterator[tuple[int, str]]:
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, errors="replace")
        line = before.count("\n") + 1
        byte = content[min(error.start, len(content) - 1)]
        yield line, f"byte 0x{byte:02x} is not {encoding.upper()}; save the file anew, as UTF-8"
        return
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        yield line, f"holds a NUL character in {encoding.upper()}; " + _without_nul(content, remedy)


def _without_nul(content: bytes, remedy: Callable[[str], str]) -> str:
    """What to do about NUL bytes: a file half of NUL bytes is UTF-16, in one order or the other."""
    for half, encoding in ((content[1::2], "utf-16-le"), (content[::2], "utf-16-be")):
        if half.count(0) > len(half) / 2:
            return remedy(encoding)
    return "delete it"


def _bad_byte(line: bytes, start: int) -> str:
    before = len(line[:start].decode("utf-8", errors="replace"))
    guess = line[start : start + 1].decode("cp1252", errors="replace")
    in_cp1252 = f" ({guess!r} in cp1252)" if guess.isprintable() and guess != "\ufffd" else ""
    return f"byte 0x{line[start]:02x}{in_cp1252} after {before} characters is not UTF-8"


def save_as_utf8(likely: str) -> str:
    """What to do about a file that is likely in another encoding."""
    return f"save the file as UTF-8 (iconv -f {likely} -t utf-8 old > new)"
