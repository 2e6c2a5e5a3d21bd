"""Text that others wrote (model ids, condition names), made fit for a figure.

Never parsed as mathematics (the house style turns mathtext off), never too long for its place,
and never a glyph that no installed font has.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

from matplotlib import font_manager
from matplotlib.text import Text

BASE_FONT = "DejaVu Sans"  # ships with matplotlib
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Noto Sans",
)
NO_GLYPH = "□"
ELLIPSIS = "…"


@cache
def font_families() -> tuple[str, ...]:
    """The base font, then the installed ones of the fallbacks."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return (BASE_FONT, *(name for name in FALLBACK_FONTS if name in installed))


def plain(text: object, n_cells: int | None = None) -> str:
    """One line of drawable characters, at most ``n_cells`` wide.

    White space and control characters become single spaces; a character that no installed font
    has becomes U+25A1, or nothing where it is only a mark or a joiner.
    """
    line = " ".join("".join(map(_spaced, str(text))).split())
    line = "".join(map(_drawn, line))
    return line if n_cells is None else shorten(line, n_cells)


def shorten(text: str, n_cells: int) -> str:
    """``text`` with its middle left out where it is wider than ``n_cells`` Latin letters."""
    if n_cells_of(text) <= n_cells:
        return text
    head, tail = [], []
    left, right = list(text), list(reversed(text))
    room = max(n_cells - 1, 2)
    for characters, kept, share in ((left, head, (room + 1) // 2), (right, tail, room // 2)):
        used = 0
        for character in characters:
            used += _cells(character)
            if used > share:
                break
            kept.append(character)
    return "".join(head).rstrip() + ELLIPSIS + "".join(reversed(tail)).lstrip()


def n_cells_of(text: str) -> int:
    """Width in Latin letters; an East Asian wide character or a missing one counts as two."""
    return sum(map(_cells, text))


def fit(artist: Text, width: float, renderer: object) -> None:
    """Leave out the middle of a drawn line until it is at most ``width`` pixels wide."""
    text = artist.get_text()
    n_cells = n_cells_of(text)
    for _ in range(8):
        drawn = artist.get_window_extent(renderer).width
        if drawn <= width or n_cells <= 3:
            return
        n_cells = min(n_cells - 1, int(n_cells * width / drawn))
        artist.set_text(shorten(text, n_cells))


def _cells(character: str) -> int:
    wide = character == NO_GLYPH or unicodedata.east_asian_width(character) in "WF"
    return 2 if wide else 1


def _spaced(character: str) -> str:
    return " " if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Zs") else character


@lru_cache(maxsize=4096)
def _drawn(character: str) -> str:
    if _has_glyph(character):
        return character
    mark_or_joiner = unicodedata.category(character) in ("Cf", "Mn", "Me", "Sk")
    return "" if mark_or_joiner else NO_GLYPH


def _has_glyph(character: str) -> bool:
    """Whether the regular and the bold face both have it, each with its fallbacks."""
    code = ord(character)
    return all(any(font.get_char_index(code) for font in faces) for faces in _faces())


@cache
def _faces() -> tuple[tuple[font_manager.FT2Font, ...], ...]:
    return tuple(
        tuple(
            font_manager.get_font(
                font_manager.findfont(font_manager.FontProperties(family=name, weight=weight))
            )
            for name in font_families()
        )
        for weight in ("normal", "bold")
    )
