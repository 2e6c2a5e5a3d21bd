"""A beginning that many prompts share: found among token ids, read once, its keys reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

SHORTEST = 16  # tokens: below, keeping prompts of one length together is worth more
LEAST_SAVED = 256  # tokens


@dataclass(frozen=True)
class Prefix:
    """So many first tokens of ``rows`` are the same; every row goes on after them."""

    rows: np.ndarray  # (n_rows,) int
    length: int

    @property
    def saved(self) -> int:
        """Tokens that need not be read."""
        return (len(self.rows) - 1) * self.length


def shared_prefixes(ids: Sequence[Sequence[int]]) -> list[Prefix]:
    """Beginnings worth reading once, the ones that save most; no row is in two.

    Every set of rows with a common beginning is an interval of the sorted rows; the intervals
    are the nodes of the rows' prefix tree, of which there are fewer than rows.

    Parameters
    ----------
    ids : token ids of every row

    Returns
    -------
    list of Prefix
        Largest saving first; each saves `LEAST_SAVED` tokens at least.
    """
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    found: list[tuple[int, int, int, int]] = []  # saved, first, stop, length
    open_: list[tuple[int, int]] = []  # length, first; lengths ascend
    for stop in range(1, len(order) + 1):
        common = _common(ids[order[stop - 1]], ids[order[stop]]) if stop < len(order) else -1
        first = stop - 1
        while open_ and open_[-1][0] > common:
            length, first = open_.pop()
            if length >= SHORTEST and (stop - first - 1) * length >= LEAST_SAVED:
                found.append(((stop - first - 1) * length, first, stop, length))
        if common > 0 and (not open_ or open_[-1][0] < common):
            open_.append((common, first))
    taken = np.zeros(len(order), dtype=bool)
    chosen = []
    for _, first, stop, length in sorted(found, key=lambda f: (-f[0], f[1], f[3])):
        if not taken[first:stop].any():
            taken[first:stop] = True
            chosen.append(Prefix(np.sort(np.array(order[first:stop])), length))
    return chosen


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Leading tokens that are the same, at least one token of each row left over."""
    most = min(len(first), len(second)) - 1
    n = 0
    while n < most and first[n] == second[n]:
        n += 1
    return n


def after_prefix(cache: object, n_rows: int) -> object:
    """A cache that gives every one of ``n_rows`` the prefix's keys and values, and keeps nothing.

    ``cache`` is the transformers cache that reading the prefix filled; it is left as it is.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class Fixed(DynamicLayer):
        """A layer that hands out what it holds with the new states, and does not grow."""

        def update(self, key_states, value_states, *args, **kwargs):
            return (
                torch.cat([self.keys, key_states], dim=-2),
                torch.cat([self.values, value_states], dim=-2),
            )

    layers = []
    for filled in cache.layers:
        layer = Fixed()
        layer.lazy_initialization(filled.keys, filled.values)
        layer.keys = filled.keys.expand(n_rows, -1, -1, -1)
        layer.values = filled.values.expand(n_rows, -1, -1, -1)
        layers.append(layer)
    return Cache(layers=layers)


def empty_cache() -> object:
    """A transformers cache that keeps every key, windows or not: masks hide what is too old."""
    from transformers.cache_utils import DynamicCache

    return DynamicCache()
