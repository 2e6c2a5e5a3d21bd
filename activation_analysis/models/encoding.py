"""One text to token ids, with what each token is and which characters it covers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis.errors import ModelError, PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 20  # bad prompts listed in one message
NOWHERE = -1  # the offset of a token that covers no character of the prompt


@dataclass(frozen=True)
class Encoding:
    """What the model reads for one prompt."""

    ids: list[int]
    counted: list[int]  # 1 where a token is the prompt's own, 0 where it is special or scaffold
    offsets: np.ndarray | None  # (n_tokens, 2) characters of the text; `NOWHERE` where not counted
    rendered: str  # the characters that were tokenised


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, control_tokens: bool, offsets: bool
) -> Encoding:
    """A text with the special tokens that the tokenizer adds by itself.

    Strings such as ``<|im_end|>`` inside it are text; with ``control_tokens`` they are the tokens
    that they name, and count as little as any other special token.
    """
    row = tokenizer(
        text,
        split_special_tokens=not control_tokens,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_offsets_mapping=offsets,
        verbose=False,
    )
    ids = list(row["input_ids"])
    counted = [1 - special for special in row["special_tokens_mask"]]
    if control_tokens:
        controls = control_ids(tokenizer)
        counted = [int(c and i not in controls) for c, i in zip(counted, ids, strict=True)]
    covered = None
    if offsets:
        covered = np.array(row["offset_mapping"], dtype=np.int32).reshape(-1, 2)
        covered[np.array(counted) == 0] = NOWHERE
    return Encoding(ids, counted, covered, text)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that no ordinary text gives: every special token but the one for unknown text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    roles = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = {tokenizer.unk_token_id} - roles  # GPT-2's is its end of text
    return frozenset(added | set(tokenizer.all_special_ids)) - unknown


def require_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a ModelError unless the tokenizer tells which characters a token covers."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} does not tell which characters a token "
            f"covers, as a chat template and the positions span and word_final need; use last, "
            f"first, mean, max or all without a chat template, or a model with a tokenizer.json"
        )


@contextmanager
def left_as_it_was(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
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


def refuse(
    texts: Sequence[str], sources: Sequence[str] | None, problems: Mapping[int, str]
) -> None:
    """Raise one PromptError that lists the rows with a problem, if there are any."""
    if not problems:
        return
    lines = []
    for row, problem in list(problems.items())[:SHOWN]:
        place = sources[row] if sources is not None else f"prompt {row}"
        spelled = repr(texts[row])
        start = spelled if len(spelled) <= 42 else spelled[:41] + "…"
        lines.append(f"{place}: {start} {problem}")
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more")
    raise PromptError("\n".join(lines))
