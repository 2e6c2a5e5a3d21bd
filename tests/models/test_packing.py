"""Prompts that share a row: each reads itself, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, SENTENCES, tiny_model, tiny_tokenizer
from torch.nn.functional import scaled_dot_product_attention as attention

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.packing import PackingError, SeparateAttention

LENGTHS = [5, 1, 9, 3, 9]
N, HEADS, KEY_HEADS, DIM = sum(LENGTHS), 4, 2, 8
OWNER = np.repeat(np.arange(len(LENGTHS)), LENGTHS)  # which prompt a token of the row belongs to
STARTS = np.cumsum([0, *LENGTHS[:-1]])


def states(n_heads: int, n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, n_heads, n, DIM, generator=torch.Generator().manual_seed(seed))


def inside(n_prefix: int = 0, *, causal: bool = True, window: int = 10**6) -> torch.Tensor:
    """Block-diagonal by hand, token by token: (n_tokens, n_prefix + n_tokens) bool."""
    seen = torch.zeros(N, n_prefix + N, dtype=torch.bool)
    for q in range(N):
        place = n_prefix + q - STARTS[OWNER[q]]  # as its position ids count
        for k in range(n_prefix + N):
            own = k < n_prefix or OWNER[k - n_prefix] == OWNER[q]
            there = k if k < n_prefix else k - STARTS[OWNER[q]]
            near = (there <= place or not causal) and place - there < window
            seen[q, k] = bool(own and near)
    return seen


def additive(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


KINDS = {"boolean": lambda s: s[None, None], "additive": lambda s: additive(s)[None, None]}
every_kind = pytest.mark.parametrize("kind", KINDS)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# Known answers: the whole row under the block-diagonal mask


@every_kind
@pytest.mark.parametrize(
    "pattern",
    [{}, {"causal": False}, {"window": 3}, {"window": 1}, {"causal": False, "window": 4}],
    ids=["causal", "bidirectional", "window of 3", "window of 1", "bidirectional window"],
)
def test_prompt_by_prompt_is_the_row_under_its_block_diagonal_mask(kind, pattern):
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    seen = inside(**pattern)
    apart = SeparateAttention(LENGTHS)
    found = apart(attention, q, k, v, attn_mask=KINDS[kind](seen))
    assert_same(found, attention(q, k, v, attn_mask=seen))
    assert apart.n_products == 1


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_mask_each_prompt_is_causal_or_not_as_the_call_says(causal):
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    found = SeparateAttention(LENGTHS)(attention, q, k, v, is_causal=causal)
    assert_same(found, attention(q, k, v, attn_mask=inside(causal=causal)))


def test_what_a_mask_says_about_other_prompts_is_not_consulted():
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    whole_row = torch.ones(N, N, dtype=torch.bool).tril()[None, None]
    found = SeparateAttention(LENGTHS)(attention, q, k, v, attn_mask=whole_row)
    assert_same(found, attention(q, k, v, attn_mask=inside()))


def test_biases_inside_a_prompt_are_kept():
    """ALiBi, say: finite numbers where a token is seen, for each head its own."""
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    bias = torch.randn(1, HEADS, N, N, generator=torch.Generator().manual_seed(7))
    mask = bias.masked_fill(~inside(), torch.finfo(torch.float32).min)
    found = SeparateAttention(LENGTHS)(attention, q, k, v, attn_mask=mask)
    assert_same(found, attention(q, k, v, attn_mask=mask))


@pytest.mark.parametrize("n_prefix", [0, 6])
def test_grouped_queries_share_keys_and_the_scale_is_kept(n_prefix):
    q = states(HEADS)
    k, v = (states(KEY_HEADS, n_prefix + N, seed=s) for s in (1, 2))
    mask = inside(n_prefix)[None, None]
    options = {"enable_gqa": True, "scale": 0.5}
    found = SeparateAttention(LENGTHS, n_prefix)(attention, q, k, v, attn_mask=mask, **options)
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (k, v))
    assert_same(found, attention(q, k, v, mask, scale=0.5))


@every_kind
@pytest.mark.parametrize("causal", [True, False])
def test_every_prompt_sees_the_prefix_before_the_row(kind, causal):
    q = states(HEADS)
    k, v = (states(HEADS, 6 + N, seed=s) for s in (1, 2))
    seen = inside(6, causal=causal)
    found = SeparateAttention(LENGTHS, 6)(attention, q, k, v, KINDS[kind](seen))
    assert_same(found, attention(q, k, v, seen))


@pytest.mark.parametrize("n_prefix", [0, 6])
def test_a_row_of_one_prompt_is_left_as_it_is(n_prefix):
    q = states(HEADS)
    k, v = (states(HEADS, n_prefix + N, seed=s) for s in (1, 2))
    mask = torch.ones(N, n_prefix + N, dtype=torch.bool).tril(n_prefix)[None, None]
    found = SeparateAttention([N], n_prefix)(attention, q, k, v, attn_mask=mask)
    assert_same(found, attention(q, k, v, mask))


# Invariants


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_prompts_product_is_bit_for_bit_what_it_is_alone(is_causal):
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    row = SeparateAttention(LENGTHS)(attention, q, k, v, is_causal=is_causal)
    for together, *own in zip(*(x.split(LENGTHS, dim=-2) for x in (row, q, k, v)), strict=True):
        assert torch.equal(together, attention(*own, is_causal=is_causal))


@pytest.mark.parametrize("n_prefix", [0, 6])
@pytest.mark.parametrize("value", [1e30, float("nan"), float("inf")])
def test_no_prompt_reaches_another(n_prefix, value):
    q = states(HEADS)
    k, v = (states(HEADS, n_prefix + N, seed=s) for s in (1, 2))
    mask = inside(n_prefix)[None, None]
    changed = [x.clone() for x in (q, k, v)]
    own = torch.from_numpy(np.flatnonzero(OWNER == 2))
    for x, first in zip(changed, (0, n_prefix, n_prefix), strict=True):
        x[..., first + own, :] = value
    before, after = (
        SeparateAttention(LENGTHS, n_prefix)(attention, *x, attn_mask=mask)
        for x in ((q, k, v), changed)
    )
    others = torch.from_numpy(np.flatnonzero(OWNER != 2))
    assert torch.equal(after[..., others, :], before[..., others, :])
    assert not torch.equal(after[..., own, :], before[..., own, :])


def test_masks_are_cut_once_and_each_as_it_says():
    q, k, v = (states(HEADS, seed=s) for s in range(3))
    apart = SeparateAttention(LENGTHS)
    full, narrow = (inside(window=w)[None, None] for w in (10**6, 2))
    for mask in (full, narrow, full, narrow):
        assert_same(apart(attention, q, k, v, attn_mask=mask), attention(q, k, v, mask))
    assert apart.n_products == 4
    assert len(apart._masks) == 2


# Refusals


@pytest.mark.parametrize(
    ("rows", "n", "n_keys", "message"),
    [
        (2, N, N, r"attention of \(2, 4, 27, 8\) over a row of \[5, 1, 9, 3, 9\]"),
        (1, N - 1, N - 1, r"attention of \(1, 4, 26, 8\) over a row of"),
        (1, N, N + 1, "over 28 keys, but 27 tokens were read after a prefix of 0"),
    ],
)
def test_what_is_no_row_of_these_prompts_is_refused(rows, n, n_keys, message):
    q, k = torch.zeros(rows, HEADS, n, DIM), torch.zeros(rows, HEADS, n_keys, DIM)
    with pytest.raises(PackingError, match=message):
        SeparateAttention(LENGTHS)(attention, q, k, k)


def test_a_prefix_without_a_mask_is_refused():
    q, k = states(HEADS), states(HEADS, N + 6)
    with pytest.raises(PackingError, match="no mask after a prefix: later tokens would be seen"):
        SeparateAttention(LENGTHS, 6)(attention, q, k, k, is_causal=True)


@every_kind
def test_a_window_that_begins_to_hide_the_prefix_is_refused(kind):
    q, k = states(HEADS), states(HEADS, N + 6)
    mask = KINDS[kind](inside(6, window=8))
    with pytest.raises(PackingError, match="this model's window does not reach over the prefix"):
        SeparateAttention(LENGTHS, 6)(attention, q, k, k, mask)


# Whole models

TEXTS = [*SENTENCES, "Sea", "The sea is", "Two", "She solved it.", "A friend wrote"]


def capture_of(family: str) -> ActivationCapture:
    return ActivationCapture(tiny_model(family), tokenizer=tiny_tokenizer(), progress=False)


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "mistral", "gemma3_text", "gpt_neox", "bert", "modernbert"]
)
def test_packed_rows_are_those_of_each_prompt_alone(family):
    """Products of other shapes round elsewhere: 1e-5 of the largest value, not bit for bit."""
    capture = capture_of(family)
    for position in ("last", "mean"):
        asked = {"position": position, "batch_tokens": 10_000}
        packed = capture.capture_batch(TEXTS, layout="packed", **asked)
        for i, text in enumerate(TEXTS):
            alone = capture.capture_batch([text], layout="padded", **asked)
            for site in SITES:
                there = alone.matrix(site)[0]
                np.testing.assert_allclose(
                    packed.matrix(site)[i], there, rtol=1e-5, atol=1e-5 * np.abs(there).max()
                )


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3_text", "bert"])
def test_changing_one_prompt_changes_no_bit_of_another(family, layout):
    """All of one length, so that the passes stay as they are."""
    capture = capture_of(family)
    texts = [f"{w} sea" for w in ("a", "b", "c", "d", "e", "f")]
    changed = [*texts[:2], "z sea", *texts[3:]]
    assert {len(row) for row in capture.tokens([*texts, *changed]).ids} == {4}
    asked = {"position": "mean", "layout": layout, "batch_tokens": 10_000}
    before, after = (capture.capture_batch(t, **asked) for t in (texts, changed))
    others = [0, 1, 3, 4, 5]
    for site in SITES:
        np.testing.assert_array_equal(after.matrix(site)[others], before.matrix(site)[others])
        assert not np.array_equal(after.matrix(site)[2], before.matrix(site)[2])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_packing_where_it_is_not_proved_is_refused(family):
    capture = capture_of(family)
    capture.prove(capture.tokens(SENTENCES).ids)
    if "packed" in capture._proven.holds:
        capture.capture_batch(SENTENCES, ["residual"], layers=[0], layout="packed")
        return
    with pytest.raises(ModelError, match="does not keep packed prompts apart; use layout 'padded'"):
        capture.capture_batch(SENTENCES, ["residual"], layers=[0], layout="packed")
