"""What can be counted on the surface of a text: length, marks, digits, capitals, variety.

Nobody asks about these, and a model responds to all of them. They are counted for many texts at
once, through one table of what every character is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

CHUNK = 10_000  # texts that are joined at a time
WORD = re.compile(r"\w+(?:['’]\w+)*")

SPACE, DIGIT, CAPITAL, MARK, UNKNOWN = 1, 2, 4, 8, 128


def characters(texts: Sequence[str]) -> np.ndarray:
    """Code points, white space included, (n_texts,) float64."""
    return np.fromiter(map(len, texts), dtype=float, count=len(texts))


def words(texts: Sequence[str]) -> np.ndarray:
    """Stretches between white space, (n_texts,) float64."""
    return _by_chunk(texts, _word_starts)


def punctuation(texts: Sequence[str]) -> np.ndarray:
    """Characters that are no letter, digit or white space, (n_texts,) float64."""
    return _by_chunk(texts, lambda kind: kind & MARK > 0)


def digits(texts: Sequence[str]) -> np.ndarray:
    """Characters that are digits, (n_texts,) float64."""
    return _by_chunk(texts, lambda kind: kind & DIGIT > 0)


def capitals(texts: Sequence[str]) -> np.ndarray:
    """Upper-case letters, (n_texts,) float64."""
    return _by_chunk(texts, lambda kind: kind & CAPITAL > 0)


def type_token_ratio(texts: Sequence[str]) -> np.ndarray:
    """Different words over words, case ignored, (n_texts,) float64; 1 where there are none."""

    def ratio(text: str) -> float:
        said = WORD.findall(text.lower())
        return len(set(said)) / len(said) if said else 1.0

    return np.fromiter(map(ratio, texts), dtype=float, count=len(texts))


SURFACE: Mapping[str, Callable[[Sequence[str]], np.ndarray]] = {
    "words": words,
    "characters": characters,
    "punctuation": punctuation,
    "digits": digits,
    "capitals": capitals,
    "type_token_ratio": type_token_ratio,
}
TEXT_LENGTHS = ("words", "characters")
LENGTHS = ("tokens", *TEXT_LENGTHS)
PLACES = ("last_token", "first_token")  # where activations may be read
MEASURES = ("tokens", *SURFACE, "word_frequency", "surprisal")  # all that a check can hold


def _by_chunk(texts: Sequence[str], counted: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """How many characters of every text are counted, by what kind they are."""
    counts = np.empty(len(texts))
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        kind = _kinds("\n".join(["", *part, ""]))
        ends = np.cumsum(np.fromiter(map(len, part), dtype=np.int64, count=len(part)) + 1)
        running = np.cumsum(counted(kind), dtype=np.int64)
        # The separator before each text is no mark, digit or capital, and starts no word.
        counts[start : start + len(part)] = np.diff(running[np.concatenate([[0], ends])])
    return counts


def _word_starts(kind: np.ndarray) -> np.ndarray:
    space = kind & SPACE > 0
    return np.concatenate([[False], space[:-1] & ~space[1:]])


def _kinds(text: str) -> np.ndarray:
    """What every character is, (n,) uint8."""
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kind = _TABLE[code]
    for new in np.unique(code[kind == UNKNOWN]):
        _TABLE[new] = _kind_of(chr(new))
    return _TABLE[code] if np.any(kind == UNKNOWN) else kind


def _kind_of(character: str) -> int:
    if character.isspace():
        return SPACE
    mark = 0 if character.isalnum() else MARK
    return mark | DIGIT * character.isdigit() | CAPITAL * character.isupper()


_TABLE = np.full(0x110000, UNKNOWN, dtype=np.uint8)  # filled as characters are met
