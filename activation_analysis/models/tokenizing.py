"""Texts to token ids, exactly as the model reads them one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from activation_analysis.errors import PromptError
from activation_analysis.models.architectures import POSITIONS_FOLLOW_PADDING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNLIMITED = 10**9  # tokenizers without a limit state a huge number
SHOWN = 20  # bad prompts listed in one message


@dataclass(frozen=True)
class Tokens:
    """What the model reads: one list of ids per prompt."""

    ids: list[list[int]]
    counted: list[list[int]]  # 1 where a token is the prompt's own, 0 where it is special
    n_tokens: np.ndarray  # (n_prompts,) special tokens included
    n_truncated: int

    def __len__(self) -> int:
        return len(self.ids)


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that the model can read at once; None where it states no limit."""
    text_config = config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions and text_config.model_type in POSITIONS_FOLLOW_PADDING:
        positions -= (text_config.pad_token_id or 0) + 1
    limits = [int(n) for n in (positions, tokenizer.model_max_length) if n and 0 < n < UNLIMITED]
    return min(limits, default=None)


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int | None = None,
    truncate: bool = False,
    sources: Sequence[str] | None = None,
) -> Tokens:
    """Token ids of every text, with the special tokens that the tokenizer adds by itself.

    Strings such as ``<|im_end|>`` inside a text are text, not control tokens. The tokenizer is
    left as it was: padding is added later, on the right.

    Parameters
    ----------
    limit : the model's context length
    truncate : cut longer texts at the end instead of refusing them; special tokens stay
    sources : where each text came from ("prompts.csv:12"), for messages

    Raises
    ------
    PromptError
        If texts are no text, empty, or longer than ``limit``; all of them are listed.
    """
    _refuse(texts, sources, [not _is_text(text) for text in texts], "is not valid text")
    with _left_as_it_was(tokenizer):
        encoded = [
            tokenizer(
                text,
                split_special_tokens=True,
                return_special_tokens_mask=True,
                return_attention_mask=False,
                verbose=False,
            )
            for text in texts
        ]
    ids = [list(row["input_ids"]) for row in encoded]
    counted = [[1 - s for s in row["special_tokens_mask"]] for row in encoded]
    _refuse(texts, sources, [not any(row) for row in counted], "has no token of its own")
    too_long = [limit is not None and len(row) > limit for row in ids]
    if truncate:
        kept = [_kept_places(row, limit) for row in counted]
        ids = [[row[i] for i in places] for row, places in zip(ids, kept, strict=True)]
        counted = [[row[i] for i in places] for row, places in zip(counted, kept, strict=True)]
    else:
        advice = f"is longer than the model's context of {limit} tokens; shorten it or --truncate"
        _refuse(texts, sources, too_long, advice, [len(row) for row in ids])
    return Tokens(
        ids=ids,
        counted=counted,
        n_tokens=np.array([len(row) for row in ids], dtype=np.int64),
        n_truncated=sum(too_long) if truncate else 0,
    )


def _is_text(text: object) -> bool:
    """Whether this is a string that UTF-8 can hold (half a surrogate pair cannot)."""
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:
        return False


@contextmanager
def _left_as_it_was(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Undo what a call sets in the Rust tokenizer for good: splitting, padding, truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    splits, padding, truncation = backend.encode_special_tokens, backend.padding, backend.truncation
    try:
        yield
    finally:
        backend.encode_special_tokens = splits
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


def _kept_places(counted: list[int], limit: int | None) -> list[int]:
    """The places left in a row when its last own tokens are cut until ``limit`` are left."""
    surplus = 0 if limit is None else max(len(counted) - limit, 0)
    own = [i for i, is_own in enumerate(counted) if is_own]
    cut = set(own[len(own) - surplus :])
    return [i for i in range(len(counted)) if i not in cut]


def _refuse(
    texts: Sequence[str],
    sources: Sequence[str] | None,
    bad: list[bool],
    problem: str,
    n_tokens: list[int] | None = None,
) -> None:
    rows = [i for i, is_bad in enumerate(bad) if is_bad]
    if not rows:
        return
    lines = []
    for i in rows[:SHOWN]:
        place = sources[i] if sources is not None else f"prompt {i}"
        spelled = repr(texts[i])
        start = spelled if len(spelled) <= 42 else spelled[:41] + "…"
        size = f" ({n_tokens[i]} tokens)" if n_tokens else ""
        lines.append(f"{place}: {start}{size} {problem}")
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more")
    raise PromptError("\n".join(lines))
