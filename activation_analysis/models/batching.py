"""Which prompts are read together: every distinct prompt once, in passes of similar length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from activation_analysis.models.prefixes import Prefix, shared_prefixes

LAYOUTS = ("packed", "padded")
SHARD_BYTES = 64e6  # what a store keeps of a capture is made of parts of about this size
SHARD_TOKENS = 8192  # or of so many tokens: what an interruption may cost


@dataclass(frozen=True)
class Pass:
    """One forward pass: some rows, perhaps behind a prefix that was read before."""

    rows: np.ndarray  # (n_rows,) int
    prefix: int = -1  # index into the plan's prefixes


@dataclass(frozen=True)
class Plan:
    """How a set of rows is read. The same rows and options always give the same plan."""

    layout: str
    batch_tokens: int
    prefixes: tuple[Prefix, ...]
    passes: tuple[Pass, ...]
    shards: tuple[tuple[int, int], ...] = ()  # passes of each shard: first, stop

    def shard_rows(self, shard: int) -> np.ndarray:
        """The rows of a shard, in the order in which they are read."""
        return np.concatenate([p.rows for p in self.shard_passes(shard)])

    def shard_passes(self, shard: int) -> tuple[Pass, ...]:
        first, stop = self.shards[shard]
        return self.passes[first:stop]

    def to_json(self) -> dict[str, object]:
        return {
            "layout": self.layout,
            "batch_tokens": self.batch_tokens,
            "prefixes": [{"rows": p.rows.tolist(), "length": p.length} for p in self.prefixes],
            "passes": [{"rows": p.rows.tolist(), "prefix": p.prefix} for p in self.passes],
            "shard_passes": [list(ends) for ends in self.shards],
            "shards": [self.shard_rows(i).tolist() for i in range(len(self.shards))],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Plan:
        return cls(
            layout=stored["layout"],
            batch_tokens=stored["batch_tokens"],
            prefixes=tuple(Prefix(np.array(p["rows"]), p["length"]) for p in stored["prefixes"]),
            passes=tuple(Pass(np.array(p["rows"]), p["prefix"]) for p in stored["passes"]),
            shards=tuple((first, stop) for first, stop in stored["shard_passes"]),
        )


def plan_passes(
    ids: Sequence[Sequence[int]],
    *,
    layout: str,
    batch_tokens: int,
    share_prefixes: bool = True,
    lone_above: int | None = None,
    most_rows: int | None = None,
) -> Plan:
    """Arrange rows in forward passes of at most ``batch_tokens`` tokens.

    Rows are sorted by length, longest first, so that padding is a few percent and the largest
    pass comes first. A row longer than the budget is a pass of its own.

    Parameters
    ----------
    ids : token ids of every row; all different
    layout : "packed" or "padded"
    batch_tokens : tokens of one pass, padding included, a prefix not
    lone_above : rows of more tokens are read alone, shortest first (see `lone_above` in threads)
    most_rows : rows of one pass, so that what many short rows keep stays small

    Returns
    -------
    Plan
        Without shards; every row is in exactly one pass.
    """
    n_tokens = np.array([len(row) for row in ids], dtype=np.int64)
    left = n_tokens <= (n_tokens.max(initial=0) if lone_above is None else lone_above)
    lone = np.flatnonzero(~left)
    prefixes = shared_prefixes(ids) if share_prefixes and not len(lone) else []
    passes: list[Pass] = []
    for k, prefix in enumerate(prefixes):
        left[prefix.rows] = False
        own = n_tokens[prefix.rows] - prefix.length
        batches = token_batches(own, batch_tokens, layout, most_rows)
        passes += [Pass(prefix.rows[batch], k) for batch in batches]
    rest = np.flatnonzero(left)
    batches = token_batches(n_tokens[rest], batch_tokens, layout, most_rows)
    passes += [Pass(rest[batch]) for batch in batches]
    passes += [Pass(np.array([i])) for i in lone[np.argsort(n_tokens[lone], kind="stable")]]
    return Plan(layout, batch_tokens, tuple(prefixes), tuple(passes))


def with_shards(plan: Plan, ids: Sequence[Sequence[int]], row_bytes: Sequence[int]) -> Plan:
    """The same plan, its passes gathered into shards of about `SHARD_BYTES`.

    ``row_bytes`` is what is kept of every row, (n_rows,).
    """
    shards, first, n_bytes, n_tokens = [], 0, 0, 0
    for k, one in enumerate(plan.passes):
        n_bytes += sum(int(row_bytes[i]) for i in one.rows)
        n_tokens += sum(len(ids[i]) for i in one.rows)
        if n_bytes >= SHARD_BYTES or n_tokens >= SHARD_TOKENS or k == len(plan.passes) - 1:
            shards.append((first, k + 1))
            first, n_bytes, n_tokens = k + 1, 0, 0
    return replace(plan, shards=tuple(shards))


def token_batches(
    n_tokens: np.ndarray, budget: int, layout: str = "padded", most_rows: int | None = None
) -> list[np.ndarray]:
    """Split prompts into batches of at most ``budget`` tokens.

    Parameters
    ----------
    n_tokens : (n_prompts,)
        Length of every prompt.
    budget : tokens; in the padded layout rows times the longest row of a batch
    layout : "packed" or "padded"
    most_rows : rows of a batch, if there is a limit

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
    n_tokens = np.asarray(n_tokens)
    order = np.argsort(-n_tokens, kind="stable")
    most = len(order) if most_rows is None else max(most_rows, 1)
    return (_packed if layout == "packed" else _padded)(n_tokens, order, budget, most)


def _padded(n_tokens: np.ndarray, order: np.ndarray, budget: int, most: int) -> list[np.ndarray]:
    batches, start = [], 0
    while start < len(order):
        n_rows = min(max(int(budget // n_tokens[order[start]]), 1), most)
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


def _packed(n_tokens: np.ndarray, order: np.ndarray, budget: int, most: int) -> list[np.ndarray]:
    """Neighbours in length share a row: passes of near equal size, largest first."""
    batches, start, total = [], 0, 0
    for k, row in enumerate(order):
        if k > start and (total + n_tokens[row] > budget or k - start == most):
            batches.append(order[start:k])
            start, total = k, 0
        total += int(n_tokens[row])
    return [*batches, order[start:]] if len(order) else batches


def pad_right(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids side by side, (n_rows, longest), and the mask of the real ones, same shape.

    A causal model never reads what stands to the right, so any id will do: each row repeats its
    last one, which needs no pad token and is never taken for one.
    """
    longest = max(len(row) for row in rows)
    ids = np.array([row + row[-1:] * (longest - len(row)) for row in rows], dtype=np.int64)
    lengths = np.array([len(row) for row in rows])
    return ids, np.arange(longest) < lengths[:, None]
