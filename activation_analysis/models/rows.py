"""Every distinct prompt once, with the tokens that speak for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Every distinct prompt once, with the tokens that speak for it at each position."""

    ids: list[list[int]]
    places: Mapping[str, list[np.ndarray]]  # position -> row -> token places, ascending
    reductions: Mapping[str, str]  # position -> mean, max or every
    row_of_prompt: np.ndarray  # (n_prompts,) int

    def __len__(self) -> int:
        return len(self.ids)

    def prompts_of(self, row: int) -> np.ndarray:
        """The prompts that a row stands for, ascending."""
        ends = np.searchsorted(self._sorted, [row, row + 1])
        return self._order[ends[0] : ends[1]]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.row_of_prompt, kind="stable")

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self.row_of_prompt[self._order]

    @property
    def first_prompts(self) -> np.ndarray:
        """The first prompt that each row stands for, (n_rows,)."""
        return np.unique(self.row_of_prompt, return_index=True)[1]

    def n_kept(self, position: str) -> np.ndarray:
        """Values that a row keeps at each unit: its tokens where every one is kept, else 1."""
        if self.reductions[position] != "every":
            return np.ones(len(self), dtype=np.int64)
        return np.array([len(p) for p in self.places[position]], dtype=np.int64)


def distinct_rows(
    ids: Sequence[list[int]],
    places: Mapping[str, Sequence[np.ndarray]],
    reductions: Mapping[str, str],
) -> Rows:
    """Prompts that are read alike become one row."""
    row_of: dict[tuple, int] = {}
    firsts: list[int] = []
    row_of_prompt = np.empty(len(ids), dtype=np.int64)
    for i, row in enumerate(ids):
        key = (tuple(row), *(p[i].tobytes() for p in places.values()))
        if key not in row_of:
            row_of[key] = len(firsts)
            firsts.append(i)
        row_of_prompt[i] = row_of[key]
    return Rows(
        ids=[ids[i] for i in firsts],
        places={name: [p[i] for i in firsts] for name, p in places.items()},
        reductions=dict(reductions),
        row_of_prompt=row_of_prompt,
    )
