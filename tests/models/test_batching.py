"""Batches by token budget, plans of a whole capture, and padding on the right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from activation_analysis.models import batching
from activation_analysis.models.batching import (
    LAYOUTS,
    Plan,
    pad_right,
    plan_passes,
    token_batches,
    with_shards,
)
from activation_analysis.models.prefixes import LEAST_SAVED

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def random_ids(seed: int, *, n_rows: int = 150, longest: int = 60) -> list[list[int]]:
    """Rows that are all different; a third begin alike, another third alike otherwise."""
    rng = np.random.default_rng(seed)
    beginnings = [[], [1] * 20, [2, 3] * 15]
    rows = {}
    while len(rows) < n_rows:
        own = rng.integers(4, 300, size=rng.integers(1, longest)).tolist()
        rows[tuple(beginnings[len(rows) % 3] + own)] = None
    return [list(row) for row in rows]


def tokens_of(plan: Plan, ids: list[list[int]], one) -> int:
    """What a pass reads, padding included and its prefix not."""
    before = plan.prefixes[one.prefix].length if one.prefix >= 0 else 0
    own = [len(ids[i]) - before for i in one.rows]
    return sum(own) if plan.layout == "packed" else max(own) * len(own)


@pytest.mark.parametrize("budget", [1, 7, 64, 512, 10**9])
@pytest.mark.parametrize("seed", range(5))
def test_every_prompt_is_in_exactly_one_batch_within_the_budget(budget, seed):
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(1, 120, size=rng.integers(1, 200))
    batches = token_batches(n_tokens, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(n_tokens)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * n_tokens[batch].max() <= budget
    longest = [n_tokens[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)  # the largest batch comes first


def test_no_prompts_make_no_batches():
    assert token_batches(np.array([], dtype=int), 100) == []


@pytest.mark.parametrize("budget", [0, -5])
def test_an_empty_budget_is_refused(budget):
    with pytest.raises(ValueError, match="batch_tokens must be 1 or more"):
        token_batches(np.array([3, 4]), budget)


def test_padding_stands_on_the_right_and_repeats_the_last_id():
    ids, mask = pad_right([[5, 6, 7], [8], [9, 4]])
    assert ids.tolist() == [[5, 6, 7], [8, 8, 8], [9, 4, 4]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert ids.dtype == np.int64


@every_layout
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("most_rows", [None, 1, 5])
@pytest.mark.parametrize("budget", [1, 37, 512])
def test_a_plan_reads_every_row_once_within_the_budget(layout, share, most_rows, budget):
    ids = random_ids(budget)
    plan = plan_passes(
        ids, layout=layout, batch_tokens=budget, share_prefixes=share, most_rows=most_rows
    )
    assert sorted(np.concatenate([p.rows for p in plan.passes])) == list(range(len(ids)))
    assert (plan.layout, plan.batch_tokens, plan.shards) == (layout, budget, ())
    assert bool(plan.prefixes) == share
    for one in plan.passes:
        assert len(one.rows) == 1 or tokens_of(plan, ids, one) <= budget
        assert len(one.rows) <= (most_rows or len(ids))


def test_packed_passes_are_as_full_as_they_can_be():
    """No pass has room for the first row of the next."""
    ids = random_ids(0)
    plan = plan_passes(ids, layout="packed", batch_tokens=100, share_prefixes=False)
    for one, following in zip(plan.passes, plan.passes[1:], strict=False):
        assert tokens_of(plan, ids, one) + len(ids[following.rows[0]]) > 100


@every_layout
def test_passes_behind_a_prefix_hold_its_rows_and_no_others(layout):
    ids = random_ids(1)
    plan = plan_passes(ids, layout=layout, batch_tokens=128)
    assert [p.length for p in plan.prefixes] == [30, 20]
    for k, prefix in enumerate(plan.prefixes):
        behind = [p.rows for p in plan.passes if p.prefix == k]
        np.testing.assert_array_equal(np.sort(np.concatenate(behind)), prefix.rows)
        assert prefix.saved >= LEAST_SAVED
        assert len({tuple(ids[i][: prefix.length]) for i in prefix.rows}) == 1
    assert {p.prefix for p in plan.passes} == {-1, 0, 1}
    numbers = [p.prefix for p in plan.passes if p.prefix >= 0]
    assert numbers == sorted(numbers)  # a prefix is done with before the next one


@every_layout
def test_rows_above_the_limit_are_read_alone_shortest_first_and_last(layout):
    ids = random_ids(2)
    plan = plan_passes(ids, layout=layout, batch_tokens=10_000, lone_above=40)
    n_tokens = np.array([len(row) for row in ids])
    n_long = int((n_tokens > 40).sum())
    assert 0 < n_long < len(ids)
    assert plan.prefixes == ()
    alone = plan.passes[-n_long:]
    assert [len(p.rows) for p in alone] == [1] * n_long
    lengths = [n_tokens[p.rows[0]] for p in alone]
    assert lengths == sorted(lengths)
    assert min(lengths) > 40
    together = np.concatenate([p.rows for p in plan.passes[:-n_long]])
    assert n_tokens[together].max() <= 40
    assert sorted([*together, *(p.rows[0] for p in alone)]) == list(range(len(ids)))


@every_layout
def test_a_limit_that_no_row_exceeds_changes_no_plan(layout):
    ids = random_ids(3)
    plans = [
        plan_passes(ids, layout=layout, batch_tokens=64, lone_above=limit)
        for limit in (None, max(map(len, ids)), 10**6)
    ]
    assert plans[0].to_json() == plans[1].to_json() == plans[2].to_json()


@every_layout
def test_the_same_rows_give_the_same_plan(layout):
    one, again = (
        plan_passes(random_ids(4), layout=layout, batch_tokens=200).to_json() for _ in range(2)
    )
    assert json.dumps(one) == json.dumps(again)


@every_layout
def test_no_rows_make_an_empty_plan(layout):
    plan = plan_passes([], layout=layout, batch_tokens=8)
    assert (plan.passes, plan.prefixes) == ((), ())
    assert with_shards(plan, [], []).shards == ()


@every_layout
def test_a_plan_comes_back_from_json_as_it_was(layout):
    ids = random_ids(5)
    plan = with_shards(plan_passes(ids, layout=layout, batch_tokens=64), ids, [4000] * len(ids))
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert (back.layout, back.batch_tokens, back.shards) == (layout, 64, plan.shards)
    for ours, theirs in ((plan.passes, back.passes), (plan.prefixes, back.prefixes)):
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.rows, other.rows)
            assert other.rows.dtype == np.int64
    assert [p.prefix for p in back.passes] == [p.prefix for p in plan.passes]
    assert [p.length for p in back.prefixes] == [p.length for p in plan.prefixes]


@every_layout
@pytest.mark.parametrize(("row_bytes", "limit"), [(1, "tokens"), (10**6, "bytes")])
def test_shards_hold_every_pass_once_and_end_at_the_first_limit(
    layout, row_bytes, limit, monkeypatch
):
    monkeypatch.setattr(batching, "SHARD_TOKENS", 600 if limit == "tokens" else 10**9)
    monkeypatch.setattr(batching, "SHARD_BYTES", 1e12 if limit == "tokens" else 20e6)
    ids = random_ids(6)
    plan = plan_passes(ids, layout=layout, batch_tokens=64)
    plan = with_shards(plan, ids, [row_bytes] * len(ids))
    ends = [end for shard in plan.shards for end in shard]
    assert ends[0] == 0
    assert ends[-1] == len(plan.passes)
    assert ends[1:-1:2] == ends[2::2]  # each begins where the one before it ends
    assert len(plan.shards) > 3

    def size(passes) -> int:
        rows = [i for one in passes for i in one.rows]
        return sum(len(ids[i]) for i in rows) if limit == "tokens" else row_bytes * len(rows)

    most = batching.SHARD_TOKENS if limit == "tokens" else batching.SHARD_BYTES
    for shard in range(len(plan.shards)):
        passes = plan.shard_passes(shard)
        assert size(passes[:-1]) < most
        assert size(passes) >= most or shard == len(plan.shards) - 1
        np.testing.assert_array_equal(
            plan.shard_rows(shard), np.concatenate([one.rows for one in passes])
        )
    rows = np.concatenate([plan.shard_rows(i) for i in range(len(plan.shards))])
    assert sorted(rows) == list(range(len(ids)))
