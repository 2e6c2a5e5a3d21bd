"""Which tokens speak for a prompt, and how they become one row.

Only a prompt's own tokens do: special tokens and a chat template's scaffold never enter.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from activation_analysis.activations import POSITIONS
from activation_analysis.errors import ModelError
from activation_analysis.models.encoding import refuse
from activation_analysis.models.tokenizing import Tokens
from activation_analysis.names import did_you_mean

# How the tokens of a prompt become one row; "every" keeps a row for each.
REDUCTIONS = {
    "last": "mean",
    "first": "mean",
    "mean": "mean",
    "max": "max",
    "span": "mean",
    "word_final": "mean",
    "all": "every",
}
READ_BY_CHARACTER = frozenset({"span", "word_final", "all"})  # these need the tokens' offsets
_WORD = re.compile(r"\S+")


def places(position: str, tokens: Tokens, *, skip_first: int = 0) -> list[np.ndarray]:
    """The places of the tokens that speak for each prompt, ascending, (n,) int64 per prompt.

    A place is an index into ``tokens.ids[row]``.

    Parameters
    ----------
    position : ``last``, ``first``: that token of the prompt; ``mean``, ``max``, ``all``: all of
        them; ``span``: those that cover a character of a marked stretch that is no white space;
        ``word_final``: the last token of each word between white space (a text without white
        space, as Chinese is written, is one word; a word that truncation broke is none)
    skip_first : leave out so many places at the beginning of the sequence, special tokens
        included: the first one is an attention sink in many models

    Raises
    ------
    PromptError
        If no token of a prompt is left, or its marked stretch was cut off; all are listed.
    ModelError
        If the position is unknown.
    ValueError
        If the position needs offsets, and ``tokenize`` was not asked for them.
    """
    if position not in CHOICES:
        known, close = ", ".join(POSITIONS), did_you_mean(position, POSITIONS)
        raise ModelError(f"no position {position!r}; known: {known}{close}")
    if position in READ_BY_CHARACTER and tokens.offsets is None:
        raise ValueError(f"position {position!r} needs tokens with offsets: tokenize(offsets=True)")
    choose = CHOICES[position]
    found, problems = [], {}
    for row in range(len(tokens)):
        own = np.flatnonzero(tokens.counted[row]).astype(np.int64)
        chosen = choose(tokens, row, own[own >= skip_first])
        found.append(chosen)
        if position == "span" and _is_cut_off(tokens, row):
            problems[row] = "lost its marked stretch, or part of it, when it was cut; shorten it"
        elif not len(chosen):
            problems[row] = _nothing_left(position, tokens, row, skip_first)
    refuse(tokens.texts, tokens.sources, problems)
    return found


def _last(tokens: Tokens, row: int, own: np.ndarray) -> np.ndarray:
    return own[-1:]


def _first(tokens: Tokens, row: int, own: np.ndarray) -> np.ndarray:
    return own[:1]


def _every(tokens: Tokens, row: int, own: np.ndarray) -> np.ndarray:
    return own


def _in_span(tokens: Tokens, row: int, own: np.ndarray) -> np.ndarray:
    text, spans = tokens.texts[row], tokens.spans[row]
    overlaps = [
        any(text[max(first, start) : min(end, stop)].strip() for start, stop in spans)
        for first, end in tokens.offsets[row][own].tolist()
    ]
    return own[np.array(overlaps, dtype=bool)]


def _word_final(tokens: Tokens, row: int, own: np.ndarray) -> np.ndarray:
    first, end = tokens.offsets[row][own].T
    own, first, end = (values[end > first] for values in (own, first, end))
    words = [m.span() for m in _WORD.finditer(tokens.texts[row]) if m.end() <= tokens.n_read[row]]
    if not words or not len(own):
        return own[:0]
    starts, stops = np.array(words).T
    # The last token that begins before the word's end; it may belong to an earlier word, where
    # the tokenizer drops characters such as accents or zero-width joiners.
    last = np.searchsorted(first, stops, side="left") - 1
    return np.unique(own[last[(last >= 0) & (end[last] > starts)]])


CHOICES: dict[str, Callable[[Tokens, int, np.ndarray], np.ndarray]] = {
    "last": _last,
    "mean": _every,
    "max": _every,
    "first": _first,
    "span": _in_span,
    "word_final": _word_final,
    "all": _every,
}


def _is_cut_off(tokens: Tokens, row: int) -> bool:
    n_read, text = tokens.n_read[row], tokens.texts[row]
    return any(text[max(start, n_read) : stop].strip() for start, stop in tokens.spans[row])


def _nothing_left(position: str, tokens: Tokens, row: int, skip_first: int) -> str:
    if position == "span" and not tokens.spans[row]:
        return (
            "has no marked stretch, which position 'span' needs; put [[ and ]] around it, or fill "
            "in span_start and span_end"
        )
    without = f" once its first {skip_first} places are skipped" if skip_first else ""
    remedy = "lower skip_first, or give a longer prompt" if skip_first else "change the prompt"
    return f"has no token at position {position!r}{without}; {remedy}"
