"""A prompt as one user turn of a chat, as the tokenizer's own template writes it.

The template's tokens are scaffold: they are read by the model, and never speak for the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis.errors import ModelError
from activation_analysis.models.encoding import (
    NOWHERE,
    Encoding,
    control_ids,
    require_offsets,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "Xq7TheWordsOfTheUser7qX"


@dataclass(frozen=True)
class Turn:
    """A rendered chat, and where in it the user's text stands."""

    rendered: str
    start: int
    stop: int
    stripped: int = 0  # characters that the template dropped at the beginning of the text


class ChatTemplate:
    """The chat template of a tokenizer, for single user turns that the model is to answer.

    Raises
    ------
    ModelError
        If there is no template, it refuses a lone user turn, or it does not hold the turn's text
        exactly once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template; record without it (chat = false), or use a "
                "model that was tuned for chat"
            )
        require_offsets(tokenizer)
        self.tokenizer = tokenizer
        self.controls = control_ids(tokenizer)
        try:
            rendered = self._render(PLACEHOLDER)
        except Exception as error:  # templates raise what they like
            raise ModelError(
                f"the chat template refuses a single user turn: {error}; record without it "
                f"(chat = false)"
            ) from error
        if rendered.count(PLACEHOLDER) != 1:
            raise ModelError(
                f"the chat template writes the user's text {rendered.count(PLACEHOLDER)} times, "
                f"not once; record without it (chat = false)"
            )
        self.before, self.after = rendered.split(PLACEHOLDER)

    def turn(self, text: str) -> Turn:
        """The chat with this text in it; a ValueError says why there is none."""
        try:
            rendered = self._render(text)
        except Exception as error:
            raise ValueError(f"is refused by the chat template: {error}") from error
        variants = dict.fromkeys((text, text.strip(), text.rstrip(), text.lstrip()))
        for kept in variants:
            if rendered == self.before + kept + self.after:
                return _turn_at(len(self.before), rendered, kept, text)
        for kept in filter(None, variants):
            if rendered.count(kept) == 1:
                return _turn_at(rendered.index(kept), rendered, kept, text)
        raise ValueError(
            "is changed by the chat template, so that its tokens cannot be told from the "
            "template's; record it without (chat = false)"
        )

    def encode(self, text: str, *, control_tokens: bool, offsets: bool) -> Encoding:
        """The ids of a text's turn, which has no other special tokens than the template's.

        A control-token string inside the text stays text unless ``control_tokens``. A token
        counts if it covers a character of the text that is no white space, or lies within it.
        """
        turn = self.turn(text)
        ids, covered = self._encode(turn.rendered, split=False)
        own = _own(turn, covered)
        is_control = np.isin(ids, list(self.controls))
        if control_tokens:
            own &= ~is_control
        elif (own & is_control).any():
            self._check_pieces()
            ids, covered = self._pieces(turn, ids, covered, is_control & ~own)
            own = _own(turn, covered)
        within = np.clip(covered, turn.start, turn.stop) - turn.start + turn.stripped
        within[~own] = NOWHERE
        return Encoding(
            ids.tolist(),
            own.astype(int).tolist(),
            within.astype(np.int32) if offsets else None,
            turn.rendered,
        )

    def _render(self, text: str) -> str:
        chat = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str, *, split: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) and the characters that each covers (n, 2); no special token is added."""
        row = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=split,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        covered = np.array(row["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        return np.array(row["input_ids"], dtype=np.int64), covered

    def _pieces(
        self, turn: Turn, ids: np.ndarray, covered: np.ndarray, scaffold: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The turn again, all between the template's nearest control tokens read as text.

        Control tokens part a text into pieces that are tokenised each by itself, so nothing
        else changes.
        """
        before = np.flatnonzero(scaffold & (covered[:, 0] < turn.start))
        after = np.flatnonzero(scaffold & (covered[:, 1] > turn.stop))
        n_before = before[-1] + 1 if len(before) else 0
        n_after = after[0] if len(after) else len(ids)
        left = int(covered[n_before - 1, 1]) if n_before else 0
        right = int(covered[n_after, 0]) if n_after < len(ids) else len(turn.rendered)
        middle, places = self._encode(turn.rendered[left:right], split=True)
        return (
            np.concatenate([ids[:n_before], middle, ids[n_after:]]),
            np.concatenate([covered[:n_before], places + left, covered[n_after:]]),
        )

    def _check_pieces(self) -> None:
        """Refuse a tokenizer that reads a piece by itself otherwise than among the others."""
        turn = self.turn(PLACEHOLDER)
        ids, covered = self._encode(turn.rendered, split=False)
        scaffold = np.isin(ids, list(self.controls)) & ~_own(turn, covered)
        again, _ = self._pieces(turn, ids, covered, scaffold)
        if not np.array_equal(again, ids):
            raise ModelError(
                "a prompt holds the string of a control token, and this tokenizer cannot read it "
                "as text inside a chat template; delete the string from the prompts, or let it be "
                "a control token (control_tokens = true)"
            )


def _turn_at(start: int, rendered: str, kept: str, text: str) -> Turn:
    return Turn(rendered, start, start + len(kept), text.index(kept))


def _own(turn: Turn, covered: np.ndarray) -> np.ndarray:
    """Whether each token belongs to the user's text, (n,) bool."""
    text = turn.rendered[turn.start : turn.stop]
    inked = np.cumsum([0, *(not character.isspace() for character in text)])
    first, end = np.clip(covered - turn.start, 0, len(text)).T
    within = (covered[:, 0] >= turn.start) & (covered[:, 1] <= turn.stop)
    return (inked[end] > inked[first]) | (within & (covered[:, 1] > covered[:, 0]))
