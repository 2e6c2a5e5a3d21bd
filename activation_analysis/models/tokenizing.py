"""Texts to token ids, exactly as the model reads them one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from activation_analysis.errors import ModelError
from activation_analysis.models.architectures import POSITIONS_FOLLOW_PADDING
from activation_analysis.models.chat import ChatTemplate
from activation_analysis.models.encoding import (
    Encoding,
    encode,
    left_as_it_was,
    refuse,
    require_offsets,
)
from activation_analysis.spans import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNLIMITED = 10**9  # tokenizers without a limit state a huge number


@dataclass(frozen=True)
class Tokens:
    """What the model reads: one list of ids per prompt, and what each token is."""

    ids: list[list[int]]
    counted: list[list[int]]  # 1 where a token is the prompt's own, 0 where special or scaffold
    n_tokens: np.ndarray  # (n_prompts,) special tokens included
    n_truncated: int
    texts: tuple[str, ...] = field(repr=False)  # the prompts, without marks
    rendered: tuple[str, ...] = field(repr=False)  # what was tokenised: the texts, or whole chats
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    sources: tuple[str, ...] | None = field(default=None, repr=False)  # "prompts.csv:12", ...
    spans: tuple[tuple[Span, ...], ...] = field(default=(), repr=False)  # one tuple per prompt
    offsets: list[np.ndarray] | None = field(default=None, repr=False)
    """Per prompt (n_tokens, 2): the characters of its text that each token covers, the end
    excluded; (-1, -1) at special tokens and scaffold. None unless asked for."""
    n_read: np.ndarray | None = None  # (n_prompts,) characters left by truncation; with offsets

    def __len__(self) -> int:
        return len(self.ids)

    def strings(self, row: int) -> list[str]:
        """The tokens of one prompt as the tokenizer spells them."""
        return self.tokenizer.convert_ids_to_tokens(self.ids[row])


@dataclass(frozen=True)
class KeptTokens:
    """Tokens that each have a row of their own, prompt by prompt."""

    strings: tuple[tuple[str, ...], ...]  # (n_prompts,) of (n_kept,) as the tokenizer spells them
    offsets: tuple[np.ndarray, ...]  # (n_prompts,) of (n_kept, 2) characters of the prompt's text


def kept_tokens(tokens: Tokens, places: Sequence[np.ndarray], prompts: Iterable[int]) -> KeptTokens:
    """What the tokens at some places are; ``places[i]`` are those of the i-th of ``prompts``."""
    strings, offsets = [], []
    for prompt, kept in zip(prompts, places, strict=True):
        spelled = tokens.strings(prompt)
        strings.append(tuple(spelled[i] for i in kept))
        offsets.append(tokens.offsets[prompt][kept])
    return KeptTokens(tuple(strings), tuple(offsets))


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
    chat: bool = False,
    control_tokens: bool = False,
    spans: Sequence[Sequence[Span]] | None = None,
    offsets: bool = False,
) -> Tokens:
    """Token ids of every text, with the special tokens that the tokenizer adds by itself.

    Strings such as ``<|im_end|>`` inside a text are text, not control tokens, unless asked
    otherwise. The tokenizer is left as it was: padding is added later, on the right.

    Parameters
    ----------
    limit : the model's context length
    truncate : cut longer texts at the end instead of refusing them; special tokens and a chat
        template's own stay
    sources : where each text came from ("prompts.csv:12"), for messages
    chat : make each text one user turn of the tokenizer's chat template, a default system prompt
        and the prompt for an answer included; then no other special token is added
    control_tokens : strings of control tokens inside a text are those tokens; they never count
    spans : stretches of each text, for position ``span``
    offsets : keep which characters every token covers

    Raises
    ------
    PromptError
        If texts are no text, empty, longer than ``limit``, or changed by the chat template; all
        of them are listed.
    ModelError
        If there is no chat template that takes one user turn, or the tokenizer has no offsets.
    """
    tell = partial(refuse, texts, sources)
    tell({i: "is not valid text" for i, text in enumerate(texts) if not _is_text(text)})
    if spans is not None and len(spans) != len(texts):
        raise ValueError(f"{len(spans)} lists of spans for {len(texts)} texts; give one for each")
    if offsets:
        require_offsets(tokenizer)
    with left_as_it_was(tokenizer):
        read = ChatTemplate(tokenizer).encode if chat else partial(encode, tokenizer)
        encodings, problems = [], {}
        for i, text in enumerate(texts):
            try:
                encodings.append(read(text, control_tokens=control_tokens, offsets=offsets))
            except ModelError:
                raise
            except ValueError as error:
                problems[i] = str(error)
    tell(problems)
    tell({i: "has no token of its own" for i, e in enumerate(encodings) if not any(e.counted)})
    if control_tokens and not chat:
        tell(dict.fromkeys(_doubled_starts(tokenizer, encodings), _DOUBLED_START))
    n_tokens = [len(e.ids) for e in encodings]
    too_long = [i for i, n in enumerate(n_tokens) if limit is not None and n > limit]
    n_read = np.array([len(text) for text in texts], dtype=np.int64) if offsets else None
    if truncate and too_long:
        for i in too_long:
            encodings[i], n_left = _shortened(encodings[i], limit)
            if n_read is not None:
                n_read[i] = n_left
        tell({i: _NOTHING_LEFT.format(limit) for i in too_long if not any(encodings[i].counted)})
    else:
        tell({i: f"({n_tokens[i]} tokens) {_TOO_LONG.format(limit)}" for i in too_long})
    return Tokens(
        ids=[e.ids for e in encodings],
        counted=[e.counted for e in encodings],
        n_tokens=np.array([len(e.ids) for e in encodings], dtype=np.int64),
        n_truncated=len(too_long),
        texts=tuple(texts),
        rendered=tuple(e.rendered for e in encodings),
        tokenizer=tokenizer,
        sources=None if sources is None else tuple(sources),
        spans=tuple(tuple(row) for row in spans) if spans is not None else ((),) * len(texts),
        offsets=[e.offsets for e in encodings] if offsets else None,
        n_read=n_read,
    )


_TOO_LONG = "is longer than the model's context of {} tokens; shorten it or --truncate"
_NOTHING_LEFT = (
    "has no token of its own left when cut to the model's context of {} tokens: special tokens "
    "and chat template fill it; record without the template, or with another model"
)
_DOUBLED_START = (
    "begins with the control token that the tokenizer puts before every text by itself; delete it "
    "from the prompt"
)


def _is_text(text: object) -> bool:
    """Whether this is a string that UTF-8 can hold (half a surrogate pair cannot)."""
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:
        return False


def _doubled_starts(tokenizer: PreTrainedTokenizerBase, encodings: Sequence[Encoding]) -> list[int]:
    """Rows whose text brings a start token of its own behind the tokenizer's."""
    start = [tokenizer.bos_token_id] * 2
    return [i for i, e in enumerate(encodings) if start[0] is not None and e.ids[:2] == start]


def _shortened(encoding: Encoding, limit: int) -> tuple[Encoding, int]:
    """The encoding without its last own tokens, ``limit`` left, and the characters then read."""
    own = [i for i, is_own in enumerate(encoding.counted) if is_own]
    n_own = max(len(own) - (len(encoding.ids) - limit), 0)
    cut = set(own[n_own:])
    kept = [i for i in range(len(encoding.ids)) if i not in cut]
    covered = encoding.offsets
    return (
        replace(
            encoding,
            ids=[encoding.ids[i] for i in kept],
            counted=[encoding.counted[i] for i in kept],
            offsets=None if covered is None else covered[kept],
        ),
        0 if covered is None else int(covered[own[n_own], 0]),
    )
