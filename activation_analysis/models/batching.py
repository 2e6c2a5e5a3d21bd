"""Batches of similar length under a token budget, padded on the right."""

from __future__ import annotations

import numpy as np


def token_batches(n_tokens: np.ndarray, budget: int) -> list[np.ndarray]:
    """Split prompts into batches of at most ``budget`` tokens, padding included.

    Prompts are sorted by length, longest first, so that padding is a few percent and the
    largest batch comes first. A prompt longer than the budget is a batch of its own.

    Parameters
    ----------
    n_tokens : (n_prompts,)
        Length of every prompt.
    budget : tokens, rows times the longest row of a batch

    Returns
    -------
    list of (n_rows,) index arrays that hold every prompt exactly once

    Raises
    ------
    ValueError
        If the budget is below one token.
    """
    if budget < 1:
        raise ValueError(
            f"a batch of {budget} tokens holds nothing; batch_tokens must be 1 or more"
        )
    order = np.argsort(-np.asarray(n_tokens), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        n_rows = max(int(budget // n_tokens[order[start]]), 1)
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


def pad_right(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids side by side, (n_rows, longest), and the mask of the real ones, same shape.

    A causal model never reads what stands to the right, so any id will do: each row repeats its
    last one, which needs no pad token and is never taken for one.
    """
    longest = max(len(row) for row in rows)
    ids = np.array([row + row[-1:] * (longest - len(row)) for row in rows], dtype=np.int64)
    lengths = np.array([len(row) for row in rows])
    return ids, np.arange(longest) < lengths[:, None]
