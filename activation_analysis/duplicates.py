"""Which rows are the same as an earlier one, found without a table of all texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIX = 1_000_003  # odd: no hash is lost, though sums wrap around


def first_alike(*columns: Sequence[str]) -> np.ndarray:
    """For every row the first one that is the same in all columns, (n_rows,) int.

    A row that is like none before it is its own first. Rows are sorted by a hash, and those of
    one hash compared: 16 bytes a row, where a dictionary of a million texts takes 130.
    """
    n_rows = len(columns[0])
    digest = np.fromiter(map(hash, columns[0]), dtype=np.int64, count=n_rows)
    for column in columns[1:]:
        digest *= MIX
        digest += np.fromiter(map(hash, column), dtype=np.int64, count=n_rows)
    first = np.arange(n_rows, dtype=np.int32)
    ascending = np.sort(digest)
    if not np.any(ascending[1:] == ascending[:-1]):
        return first
    order = np.argsort(digest, kind="stable")
    alike = np.concatenate([[False], np.diff(digest[order]) == 0, [False]])
    starts = np.flatnonzero(~alike[:-1] & alike[1:])
    ends = np.flatnonzero(alike[:-1] & ~alike[1:])
    for start, end in zip(starts, ends + 1, strict=True):
        _within(columns, order[start:end], first)
    return first


def _within(columns: Sequence[Sequence[str]], rows: np.ndarray, first: np.ndarray) -> None:
    """Note the first of each kind among rows of one hash, which come in ascending order."""
    kinds: dict[tuple[str, ...], int] = {}
    for row in rows:
        first[row] = kinds.setdefault(tuple(column[row] for column in columns), int(row))
