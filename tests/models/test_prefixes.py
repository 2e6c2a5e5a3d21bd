"""A beginning that many prompts share: found, read once, and nothing but time is saved."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_models import ONE_ROW, tiny_model, tiny_tokenizer

from activation_analysis.activations import SITES
from activation_analysis.models import loaded_model, prefixes
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.prefixes import (
    LEAST_SAVED,
    SHORTEST,
    after_prefix,
    empty_cache,
    shared_prefixes,
)
from activation_analysis.models.reading import Reader


def found_in(ids: list[list[int]]) -> list[tuple[list[int], int]]:
    return [(p.rows.tolist(), p.length) for p in shared_prefixes(ids)]


# Known answers, counted by hand


def test_one_beginning_of_all_rows_is_found():
    ids = [[7] * 20 + [k] for k in range(14)]
    assert found_in(ids) == [(list(range(14)), 20)]
    assert shared_prefixes(ids)[0].saved == 13 * 20


def test_a_token_of_every_row_is_left_to_be_read():
    """The last row is the beginning itself: it joins for one token less, where that saves more."""
    ids = [[7] * 30 + [k] for k in range(20)] + [[7] * 30]
    assert found_in(ids) == [(list(range(21)), 29)]  # 20 x 29 = 580, without it 19 x 30 = 570
    ids = [[7] * 20 + [k] for k in range(30)] + [[7] * 20]
    assert found_in(ids) == [(list(range(30)), 20)]  # 29 x 20 = 580, with it 30 x 19 = 570


@pytest.mark.parametrize(
    ("length", "n_rows", "is_found"),
    [
        (SHORTEST, LEAST_SAVED // SHORTEST + 1, True),
        (SHORTEST, LEAST_SAVED // SHORTEST, False),  # saves too little
        (SHORTEST - 1, 100, False),  # too short
        (LEAST_SAVED, 2, True),
        (LEAST_SAVED - 1, 2, False),
        (LEAST_SAVED, 1, False),
    ],
)
def test_a_beginning_must_be_worth_it(length, n_rows, is_found):
    ids = [[7] * length + [100 + k] for k in range(n_rows)]
    assert found_in(ids) == ([(list(range(n_rows)), length)] if is_found else [])


def test_the_set_of_rows_that_saves_most_wins():
    """Ten rows share 90 tokens, and with forty others the first 20 of them."""
    near = [[1] * 20 + [2] * 70 + [k] for k in range(10)]
    far = [[1] * 20 + [3, k] for k in range(40)]
    # All: 49 x 20 = 980; near alone: 9 x 90 = 810, and far alone 39 x 21 = 819.
    assert found_in([*near, *far]) == [(list(range(50)), 20)]
    longer = [[1] * 20 + [2] * 100 + [k] for k in range(10)]  # 9 x 120 = 1080
    assert found_in([*longer, *far]) == [(list(range(10)), 120), (list(range(10, 50)), 21)]


def test_nothing_is_shared_by_nothing():
    assert shared_prefixes([]) == []
    assert shared_prefixes([[1, 2, 3]]) == []
    assert shared_prefixes([[k] * 200 for k in range(50)]) == []


# Invariants, by brute force


def random_tree(rng: np.random.Generator) -> list[list[int]]:
    """Rows that fork now and then, some of them the beginning of others or the same."""
    rows = [rng.integers(0, 3, size=rng.integers(1, 40)).tolist()]
    for _ in range(rng.integers(0, 80)):
        parent = rows[rng.integers(len(rows))]
        kept = parent[: rng.integers(0, len(parent) + 1)]
        rows.append([*kept, *rng.integers(0, 3, size=rng.integers(1, 25)).tolist()])
    return [rows[i] for i in rng.permutation(len(rows))]


def most_saved(ids: list[list[int]], shortest: int, least: int) -> int:
    """The largest saving of any beginning at all; 0 where none is worth it."""
    rows_of: Counter[tuple] = Counter()
    for row in ids:
        rows_of.update(tuple(row[:n]) for n in range(shortest, len(row)))
    best = max(((n - 1) * len(key) for key, n in rows_of.items()), default=0)
    return best if best >= least else 0


@pytest.mark.parametrize("shortest", [1, 4])
@pytest.mark.parametrize("least", [1, 40])
def test_no_row_is_in_two_and_every_row_shares_its_beginning(monkeypatch, shortest, least):
    monkeypatch.setattr(prefixes, "SHORTEST", shortest)
    monkeypatch.setattr(prefixes, "LEAST_SAVED", least)
    rng = np.random.default_rng(shortest + least)
    n_found = 0
    for _ in range(100):
        ids = random_tree(rng)
        chosen = shared_prefixes(ids)
        n_found += len(chosen)
        counted = Counter(i for p in chosen for i in p.rows.tolist())
        assert set(counted.values()) <= {1}
        for p in chosen:
            assert len(p.rows) > 1
            assert p.length >= shortest
            assert p.saved >= least
            assert len({tuple(ids[i][: p.length]) for i in p.rows}) == 1
            assert min(len(ids[i]) for i in p.rows) > p.length  # one token at least is left
            assert p.rows.tolist() == sorted(p.rows.tolist())
        savings = [p.saved for p in chosen]
        assert savings == sorted(savings, reverse=True)
        assert max(savings, default=0) == most_saved(ids, shortest, least)
    assert n_found > 100


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(5)
    ids = [[1] * 20 + rng.integers(5, 9, 12).tolist() for _ in range(40)]
    ids += [[2] * 30 + rng.integers(5, 9, 12).tolist() for _ in range(40)]
    order = rng.permutation(len(ids))
    straight = {(tuple(rows), n) for rows, n in found_in(ids)}
    shuffled = {
        (tuple(sorted(order[rows].tolist())), n) for rows, n in found_in([ids[i] for i in order])
    }
    assert straight == shuffled
    assert len(straight) == 2


def test_a_cache_behind_a_prefix_does_not_grow(tiny_gpt2):
    model = tiny_gpt2[0]
    filled = empty_cache()
    with torch.inference_mode():
        model(torch.tensor([[5, 6, 7]]), past_key_values=filled, use_cache=True)
        fixed = after_prefix(filled, 2)
        for _ in range(2):
            model(torch.tensor([[8, 9], [10, 11]]), past_key_values=fixed)
    for layer in (*filled.layers, *fixed.layers):
        assert layer.keys.shape[-2] == layer.values.shape[-2] == 3
    assert fixed.get_seq_length() == 3
    assert filled.layers[0].keys.shape[0] == 1


# Captures with and without sharing

INSTRUCTION = "Answer with one word, and say nothing else. "
TEXTS = [f"{INSTRUCTION}{'Sea' if i < 6 else 'A'} {'sky ' * (i % 4)}is {i}." for i in range(14)]
POSITIONS = (*ONE_ROW, "all")


def quiet(family: str) -> ActivationCapture:
    """Proved on `TEXTS`, so that only the capture itself is counted."""
    capture = ActivationCapture(tiny_model(family), tokenizer=tiny_tokenizer(), progress=False)
    capture.prove(capture.tokens(TEXTS).ids)
    return capture


def counted_capture(capture, monkeypatch, *, share: bool, **options):
    """What was recorded, and how many tokens the model read for it."""
    plan = loaded_model.plan_passes
    n_read = []
    embedding = capture.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda m, args: n_read.append(args[0].numel()))
    with monkeypatch.context() as patched:
        if not share:
            without = {"share_prefixes": False}
            patched.setattr(
                loaded_model, "plan_passes", lambda ids, **asked: plan(ids, **{**asked, **without})
            )
        recorded = capture.capture_positions(TEXTS, positions=POSITIONS, **options)
    handle.remove()
    return recorded, sum(n_read)


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3_text", "bloom"])
def test_sharing_a_beginning_changes_no_row(family, layout, monkeypatch):
    """Shared in the layout that was proved with a prefix; as many tokens as ever in the other."""
    capture = quiet(family)
    asked = {"layout": layout, "batch_tokens": 128}
    shared, n_shared = counted_capture(capture, monkeypatch, share=True, **asked)
    plain, n_plain = counted_capture(capture, monkeypatch, share=False, **asked)
    for position in POSITIONS:
        for site in SITES:
            for layer, there in plain[position].values[site].items():
                np.testing.assert_allclose(
                    shared[position].values[site][layer],
                    there,
                    rtol=1e-5,
                    atol=1e-5 * np.abs(there).max(),
                )
    if layout in ("auto", capture._proven.preferred):
        assert n_shared < 0.7 * n_plain
    else:
        assert n_shared == n_plain


def test_the_tokens_read_are_those_of_one_beginning_and_of_what_follows(monkeypatch):
    capture = quiet("llama")
    ids = capture.tokens(TEXTS).ids
    (prefix,) = shared_prefixes(ids)
    assert len(prefix.rows) == len(TEXTS)
    _, n_read = counted_capture(capture, monkeypatch, share=True, layout="packed")
    assert n_read == prefix.length + sum(len(row) - prefix.length for row in ids)
    _, n_read = counted_capture(capture, monkeypatch, share=False, layout="packed")
    assert n_read == sum(map(len, ids))


@pytest.mark.parametrize(("family", "gives_way"), [("mistral", True), ("llama", False)])
def test_a_window_that_ends_inside_the_beginning_makes_packing_give_way(
    family, gives_way, monkeypatch
):
    """Mistral with a window of 4: behind the prefix the rows of each pass are padded."""
    capture = quiet(family)
    assert capture._proven.preferred == "packed"
    assert {"packed", "prefix"} <= capture._proven.holds
    sheets = []
    for name in ("_padded_sheet", "_packed_sheet"):
        made = getattr(Reader, name)

        def told(self, *sheet, made=made, name=name):
            sheets.append(name)
            return made(self, *sheet)

        monkeypatch.setattr(Reader, name, told)
    capture.capture_batch(TEXTS, ["mlp"], batch_tokens=32)
    each_pass = ["_packed_sheet", *(["_padded_sheet"] * gives_way)]
    assert sheets == each_pass * (len(sheets) // len(each_pass))
    assert len(sheets) > 3 * len(each_pass)


def test_rows_may_speak_with_different_places_of_one_beginning(tiny_gpt2):
    """A marked stretch inside the beginning, and one that goes on behind it; places skipped."""
    model, tokenizer = tiny_gpt2
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    texts = [f"[[Answer]] with one word, and say nothing else. sea {k}" for k in range(10)]
    texts += [f"Answer with [[one]] word, and say nothing else. sky [[{k}]]" for k in range(10)]
    asked = {"positions": ("span", "mean", "max"), "skip_first": 1}
    recorded = capture.capture_positions(texts, **asked)
    assert "prefix" in capture._proven.holds
    for i in (0, 9, 10, 19):
        alone = capture.capture_positions(texts[i : i + 1], **asked)
        for position, one in alone.items():
            for site in SITES:
                there = one.matrix(site)[0]
                np.testing.assert_allclose(
                    recorded[position].matrix(site)[i], there, 1e-5, 1e-5 * np.abs(there).max()
                )
