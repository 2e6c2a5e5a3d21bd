"""Texts to token ids, exactly as the model reads them one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from activation_analysis.errors import PromptError

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
    pad_id: int  # never read by a model

    def __len__(self) -> int:
        return len(self.ids)


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that the model can read at once; None where it states no limit."""
    text_config = config.get_text_config()
    stated = [getattr(text_config, "max_position_embeddings", None), tokenizer.model_max_length]
    limits = [int(n) for n in stated if n and 0 < n < UNLIMITED]
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
    not changed: padding is added later, on the right.

    Parameters
    ----------
    limit : the model's context length
    truncate : cut longer texts at the limit instead of refusing them
    sources : where each text came from ("prompts.csv:12"), for messages

    Raises
    ------
    PromptError
        If texts are empty, or longer than ``limit``; all of them are listed.
    """
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
        # The special tokens at the end go with the tail, as a cut context would lose them.
        ids = [row[:limit] for row in ids]
        counted = [row[:limit] for row in counted]
    else:
        advice = f"is longer than the model's context of {limit} tokens; shorten it or --truncate"
        _refuse(texts, sources, too_long, advice, [len(row) for row in ids])
    return Tokens(
        ids=ids,
        counted=counted,
        n_tokens=np.array([len(row) for row in ids], dtype=np.int64),
        n_truncated=sum(too_long) if truncate else 0,
        pad_id=tokenizer.pad_token_id or 0,
    )


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
        start = texts[i] if len(texts[i]) <= 40 else texts[i][:39] + "…"
        size = f" ({n_tokens[i]} tokens)" if n_tokens else ""
        lines.append(f"{place}: {start!r}{size} {problem}")
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more")
    raise PromptError("\n".join(lines))
