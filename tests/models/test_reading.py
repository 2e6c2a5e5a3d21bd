"""The reading of sheets: out of memory, early stops, threads, prefixes, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import SENTENCES, n_hooks, tiny_model, tiny_tokenizer
from workbench import ROOT, clean_environment

from activation_analysis.errors import ModelError
from activation_analysis.models import memory
from activation_analysis.models.batching import Plan, plan_passes, with_shards
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.prefixes import shared_prefixes

BEGINNING = "The sea is wide and the sky is high above it. A friend wrote a long letter "
WORDS = ("about", "it", "and then she left", "for", "me and you", "x y z", "in the north", "3", "4")
SHARED = tuple(f"{BEGINNING}{word} {i}" for i, word in enumerate(WORDS * 3)) + SENTENCES
ALL_POSITIONS = ("last", "mean", "max", "first", "word_final")


def capture_of(family: str = "llama") -> ActivationCapture:
    return ActivationCapture(tiny_model(family), tokenizer=tiny_tokenizer(), progress=False)


def assert_equal(found, right, tolerance=1e-5):
    for position in right:
        for site in right[position].sites:
            x, y = found[position].matrix(site), right[position].matrix(site)
            assert np.abs(x - y).max() <= tolerance * np.abs(y).max()


def texts_of(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{i} {SENTENCES[i % 4][: int(rng.integers(1, 40))]}" for i in range(n)]


# Memory


def test_out_of_memory_at_any_of_ten_batches_halves_it_and_goes_on(capsys):
    capture, texts = capture_of(), texts_of(80)
    right = capture.capture_positions(texts, positions=ALL_POSITIONS)
    sizes, fails_at = [], 0

    def fail(module, args):
        sizes.append(args[0].numel())
        if len(sizes) == fails_at + 1:
            raise torch.OutOfMemoryError("out of memory, says the test")

    capture.model.get_input_embeddings().register_forward_pre_hook(fail)
    for fails_at in range(10):
        sizes.clear()
        found = capture.capture_positions(texts, positions=ALL_POSITIONS, batch_tokens=120)
        assert_equal(found, right)
        assert sum(sizes) - sizes[fails_at] == found["last"].n_tokens.sum()  # every prompt once
        said = f"out of memory at a batch of {sizes[fails_at]} tokens: going on with "
        assert capture.notes[-1] == said + str(sizes[fails_at] // 2)
        assert max(sizes[fails_at + 1 :]) <= max(sizes[fails_at] // 2, 45)  # or one long prompt
    assert capsys.readouterr().err.splitlines() == capture.notes
    assert len(capture.notes) == 10


def test_after_running_out_of_memory_no_later_batch_is_as_large():
    capture, texts, sizes = capture_of(), texts_of(120), []
    right = capture.capture_positions(texts)

    def fail(module, args):
        sizes.append(args[0].numel())
        if args[0].numel() > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    capture.model.get_input_embeddings().register_forward_pre_hook(fail)
    assert_equal(capture.capture_positions(texts, batch_tokens=200), right)
    assert sum(size > 50 for size in sizes) <= 3  # 200, 100, and none after
    assert len(capture.notes) <= 3


def test_a_prompt_that_does_not_fit_by_itself_is_told_of():
    capture = capture_of()
    capture.capture_batch(SENTENCES, ["mlp"])
    before = n_hooks(capture.model)

    def fail(module, args):
        raise torch.OutOfMemoryError("out of memory")

    handle = capture.model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"out of memory at a single prompt of \d+ tokens"):
        capture.capture_batch(SENTENCES, ["mlp"])
    handle.remove()
    assert n_hooks(capture.model) == before


def test_the_batch_follows_free_memory(monkeypatch):
    def budget(free, **options):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        cpu = torch.device("cpu")
        return memory.batch_budget(cpu, "packed", widest=4096, itemsize=4, **options)

    assert budget(1e12) == memory.CPU_TOKENS["packed"]
    assert memory.FEWEST < budget(3e8) < memory.CPU_TOKENS["packed"]
    assert budget(3e8, n_workers=2) == budget(3e8) // 2
    assert budget(1e3) == memory.FEWEST


GROWTH = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import torch; torch.set_num_threads(1)
from tiny_models import tiny_model, tiny_tokenizer
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.request import Request
from activation_analysis.models.stored_capture import store_capture
capture = ActivationCapture(tiny_model("gpt2"), tokenizer=tiny_tokenizer(), progress=False)
texts = [f"{{i}} a" for i in range({n})]
tokens = capture.tokens(texts)
request = Request(sites=("residual", "mlp", "neuron"), positions=("mean",))
store_capture(capture, tokens, request, root=Path({root!r}))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def test_peak_memory_does_not_grow_with_the_number_of_prompts(tmp_path):
    peaks = []
    for n in (1_000, 20_000):
        code = GROWTH.format(tests=str(ROOT / "tests"), n=n, root=str(tmp_path / str(n)))
        answer = subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(answer.stdout.split()[-1]) * 1.024e-3)
    print(f"peak memory: {peaks[0]:.0f} MB for 1,000 prompts, {peaks[1]:.0f} MB for 20,000")
    assert peaks[1] - peaks[0] < 50


# What is not computed


def test_blocks_above_the_deepest_recorded_one_do_not_run():
    capture, runs = capture_of(), []
    capture.capture_batch(SENTENCES, ["mlp"])
    for k, block in enumerate(capture.model.model.layers):
        block.register_forward_hook(lambda *_, k=k: runs.append(k))
    capture.model.model.norm.register_forward_hook(lambda *_: runs.append("norm"))
    recorded = capture.capture_batch(SENTENCES, ["residual"], layers=[1])
    assert set(runs) == {0, 1}
    assert recorded.layers == (1,)


def test_identical_prompts_are_read_once():
    capture, n_read = capture_of(), []
    capture.capture_batch(SENTENCES, ["mlp"])
    capture.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: n_read.append(args[0].numel())
    )
    once = capture.capture_batch(SENTENCES, ["mlp"])
    n_once = sum(n_read)
    n_read.clear()
    often = capture.capture_batch(SENTENCES * 5, ["mlp"])
    assert sum(n_read) == n_once
    np.testing.assert_array_equal(often.matrix(), np.tile(once.matrix(), (5, 1)))


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3_text", "bloom", "gptj"])
def test_a_shared_beginning_is_read_once_and_changes_nothing(family, layout):
    """Mistral and Gemma have a window of four tokens here: behind a prefix they are padded."""
    capture, n_read = capture_of(family), []
    alone = capture.capture_positions(
        SHARED, positions=(*ALL_POSITIONS, "all"), batch_tokens=1, layout="padded"
    )
    capture.prove(capture.tokens(SHARED).ids)
    capture.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: n_read.append(args[0].numel())
    )
    found = capture.capture_positions(SHARED, positions=ALL_POSITIONS, layout=layout)
    n_tokens = int(capture.tokens(SHARED).n_tokens.sum())
    if layout == "auto":
        assert sum(n_read) < 0.6 * n_tokens
    assert_equal(found, {p: alone[p] for p in ALL_POSITIONS})
    every = capture.capture_batch(SHARED, position="all", layout=layout)
    for site, layers in every.values.items():
        for layer, values in layers.items():
            right = alone["all"].values[site][layer]
            assert np.abs(values - right).max() <= 1e-5 * np.abs(right).max()
    assert every.tokens == alone["all"].tokens


def test_shared_beginnings_of_random_trees_are_real_and_disjoint():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stems = [rng.integers(0, 3, rng.integers(5, 60)).tolist() for _ in range(4)]
        ids = [
            [*stems[rng.integers(4)], *rng.integers(0, 3, rng.integers(1, 9)).tolist()]
            for _ in range(60)
        ]
        ids = [list(row) for row in dict.fromkeys(map(tuple, ids))]
        prefixes = shared_prefixes(ids)
        rows = np.concatenate([p.rows for p in prefixes]) if prefixes else []
        assert len(set(rows)) == len(rows)
        for prefix in prefixes:
            beginnings = {tuple(ids[i][: prefix.length]) for i in prefix.rows}
            assert len(beginnings) == 1
            assert all(len(ids[i]) > prefix.length for i in prefix.rows)
            assert prefix.saved >= 256


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_plan_reads_every_row_once_and_survives_a_file(layout):
    import json

    rng = np.random.default_rng(1)
    ids = [rng.integers(0, 9, rng.integers(1, 90)).tolist() for _ in range(150)]
    plan = plan_passes(ids, layout=layout, batch_tokens=128, lone_above=80)
    plan = with_shards(plan, ids, np.full(150, 1e6))
    assert sorted(np.concatenate([p.rows for p in plan.passes])) == list(range(150))
    long = [one.rows for one in plan.passes if len(ids[one.rows[0]]) > 80]
    assert long
    assert all(len(rows) == 1 for rows in long)
    lengths = [len(ids[rows[0]]) for rows in long]
    assert lengths == sorted(lengths)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert json.dumps(again.to_json()) == json.dumps(plan.to_json())
    rows = [row for shard in plan.to_json()["shards"] for row in shard]
    assert sorted(rows) == list(range(150))
    assert len(plan.shards) > 1


# Nothing leaks, nothing depends on company or threads


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_no_prompt_reads_another(layout):
    capture = capture_of()
    first = capture.capture_positions(SENTENCES, layout=layout, positions=ALL_POSITIONS)
    others = [SENTENCES[0], *(text.upper() for text in SENTENCES[1:])]
    second = capture.capture_positions(others, layout=layout, positions=ALL_POSITIONS)
    for position in ALL_POSITIONS:
        for site in first[position].sites:
            one, other = first[position].matrix(site), second[position].matrix(site)
            assert np.abs(one[0] - other[0]).max() <= 1e-6 * np.abs(one).max()
            assert np.abs(one[1] - other[1]).max() > 1e-2 * np.abs(one).max()


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_the_number_of_threads_changes_no_bit(layout):
    capture, texts, recorded = capture_of(), texts_of(60), []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        recorded.append(capture.capture_positions(texts, batch_tokens=60, layout=layout))
        assert torch.get_num_threads() == n
    assert recorded[0] == recorded[1] == recorded[2]


def test_an_error_and_a_reading_given_up_leave_hooks_and_threads_as_they_were():
    torch.set_num_threads(2)
    capture, texts = capture_of(), texts_of(40)
    capture.capture_batch(texts, ["mlp"])
    before = n_hooks(capture.model)
    from activation_analysis.models.request import Request

    prepared = capture.prepare(capture.tokens(texts), Request(batch_tokens=40))
    reading = capture.read(prepared)
    next(reading)
    reading.close()
    assert n_hooks(capture.model) == before
    assert torch.get_num_threads() == 2

    def fail(module, args):
        raise RuntimeError("device lost, says the test")

    handle = capture.model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="device lost"):
        capture.capture_batch(texts, ["mlp"])
    handle.remove()
    assert n_hooks(capture.model) == before
    assert torch.get_num_threads() == 2
