"""The reading of sheets: out of memory, early stops, threads, prefixes, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_models import LAYERS, SENTENCES, n_hooks, tiny_model, tiny_tokenizer
from workbench import ROOT, clean_environment

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError
from activation_analysis.models import memory
from activation_analysis.models.batching import LAYOUTS, Plan, plan_passes, with_shards
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.prefixes import shared_prefixes
from activation_analysis.models.request import Request

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


@contextmanager
def before_each_pass(capture, does: Callable[[int], None]) -> Iterator[None]:
    """``does(n_tokens of the sheet)`` before the model's second block reads it."""
    block = capture.model.model.layers[1]
    handle = block.register_forward_pre_hook(lambda m, args: does(args[0].shape[:-1].numel()))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def counting(module: torch.nn.Module) -> Iterator[list[int]]:
    """Numbers that a module was given, call by call."""
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda m, args: calls.append(args[0].numel()))
    try:
        yield calls
    finally:
        handle.remove()


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


@pytest.mark.parametrize("error", [RuntimeError("device lost"), ValueError("shapes")])
def test_other_errors_are_not_taken_for_memory(error):
    capture, n_calls = capture_of(), []
    capture.capture_batch(SENTENCES, ["mlp"])
    before = n_hooks(capture.model)

    def fail(n_tokens):
        n_calls.append(n_tokens)
        raise error

    with before_each_pass(capture, fail), pytest.raises(type(error)) as raised:
        capture.capture_batch(texts_of(40), ["mlp"], batch_tokens=100)
    assert raised.value is error
    assert len(n_calls) == 1  # not tried again in halves
    assert capture.notes == []
    assert n_hooks(capture.model) == before


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("any words"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("device-side assert triggered"), False),
    ],
)
def test_out_of_memory_is_known_by_its_type_or_words(error, is_memory):
    assert memory.is_out_of_memory(error) == is_memory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_too_large_for_memory_is_named_by_its_tokens(layout):
    capture, texts = capture_of(), texts_of(40)
    capture.capture_batch(texts, ["mlp"])
    longest = max(map(len, capture.tokens(texts).ids))

    def fail(n_tokens):
        if n_tokens >= longest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    said = (
        rf"a single prompt of {longest} tokens \(CUDA out of memory\); use a smaller dtype, fewer "
        r"sites, or --max-memory"
    )
    with before_each_pass(capture, fail), pytest.raises(ModelError, match=said):
        capture.capture_batch(texts, ["mlp"], layout=layout, batch_tokens=200)
    capture.capture_batch(texts, ["mlp"], layout=layout)  # nothing is left of it


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_that_is_short_again_and_again_is_lived_with(layout):
    capture, texts, sizes = capture_of(), texts_of(80), []
    right = capture.capture_positions(texts, positions=ALL_POSITIONS)
    alone = max(map(len, capture.tokens(texts).ids))
    failed = []

    def fail(n_tokens):
        sizes.append(n_tokens)
        if n_tokens > alone:
            failed.append(n_tokens)
            raise torch.OutOfMemoryError("out of memory")

    with before_each_pass(capture, fail):
        found = capture.capture_positions(
            texts, positions=ALL_POSITIONS, layout=layout, batch_tokens=2000
        )
    assert_equal(found, right)
    # Said once for each lowering, and what is above the limit of the moment is not tried.
    assert capture.notes == [
        f"out of memory at a batch of {n} tokens: going on with {n // 2}" for n in failed
    ]
    assert len(failed) >= 4
    limits = [n // 2 for n in failed]
    assert limits == sorted(set(limits), reverse=True)
    last = sizes.index(failed[-1])
    assert max(sizes[last + 1 :]) <= max(limits[-1], alone)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pass_is_yielded_once_in_order_though_it_was_halved(layout, n_threads):
    """Behind a shared beginning, too, and in several threads."""
    torch.set_num_threads(n_threads)
    capture = capture_of()
    right = capture.capture_positions(SHARED, positions=("mean", "all"), layout=layout)
    request = Request(["mlp"], layout=layout, batch_tokens=100)
    prepared = capture.prepare(capture.tokens(SHARED), request)
    failed = []

    def fail(n_tokens):
        # The beginning itself, of less than 80 tokens, and every prompt alone go through.
        if n_tokens > 80:
            failed.append(n_tokens)
            raise MemoryError("std::bad_alloc")

    with before_each_pass(capture, fail):
        answers = list(capture.read(prepared))
        found = capture.capture_positions(
            SHARED, positions=("mean", "all"), layout=layout, batch_tokens=100
        )
    assert failed
    assert [one for one, _ in answers] == list(prepared.plan.passes)
    for one, heard in answers:
        assert {len(states) for states in heard.values()} == {len(one.rows)}
    assert_equal({"mean": found["mean"]}, {"mean": right["mean"]})
    for site, layers in right["all"].values.items():
        for layer, there in layers.items():
            difference = np.abs(found["all"].values[site][layer] - there).max()
            assert difference <= 1e-5 * np.abs(there).max()


def test_a_gpu_takes_longer_passes(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 80e9)
    cuda = torch.device("cuda")
    assert memory.batch_budget(cuda, "padded", widest=8192, itemsize=2) == memory.GPU_TOKENS
    # A quarter of 80 GB over 16 states of a million units of 2 bytes.
    assert memory.batch_budget(cuda, "padded", widest=10**6, itemsize=2) == 625


@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize("sites", [["residual"], ["head"], ["mlp", "neuron"], list(SITES)])
@pytest.mark.parametrize("deepest", range(LAYERS))
def test_as_many_blocks_run_as_the_deepest_recorded_one_needs(sites, deepest, position):
    capture = capture_of()
    capture.capture_batch(SENTENCES, ["mlp"])
    runs = [0] * (LAYERS + 1)

    def count(k):
        runs[k] += 1

    for k, module in enumerate([*capture.model.model.layers, capture.model.model.norm]):
        module.register_forward_pre_hook(lambda *_, k=k: count(k))
    capture.capture_batch(SENTENCES, sites, layers=[0, deepest], position=position)
    assert runs[0] > 0
    assert runs == [runs[0] * (k <= deepest) for k in range(LAYERS + 1)]


def test_the_mlp_of_the_last_block_need_not_run_for_its_attention():
    capture = capture_of()
    capture.capture_batch(SENTENCES, ["mlp"])
    with counting(capture.model.model.layers[1].mlp) as read:
        capture.capture_batch(SENTENCES, ["head", "attention"], layers=[1])
    assert read == []


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_change_no_bit_of_any_position_behind_a_beginning_or_not(family, layout):
    capture, recorded = capture_of(family), []
    for n in (1, 2, 4):
        torch.set_num_threads(n)
        recorded.append(
            capture.capture_positions(
                [*SHARED, *texts_of(30)],
                positions=(*ALL_POSITIONS, "all"),
                batch_tokens=64,
                layout=layout,
            )
        )
        assert torch.get_num_threads() == n
    assert recorded[0] == recorded[1] == recorded[2]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_few_passes_are_under_way_at_a_time(n_threads):
    """Whoever takes rows slowly does not find all of them waiting in memory."""
    torch.set_num_threads(n_threads)
    capture, texts = capture_of(), texts_of(60)
    prepared = capture.prepare(capture.tokens(texts), Request(["mlp"], batch_tokens=30))
    assert len(prepared.plan.passes) > 20
    ahead = n_threads + 1 if n_threads > 1 else 0
    with counting(capture.model.get_input_embeddings()) as read:
        for k, _ in enumerate(capture.read(prepared)):
            assert len(read) <= k + 1 + ahead


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_reading_given_up_puts_the_model_back_into_its_mode(n_threads):
    torch.set_num_threads(n_threads)
    capture, texts = capture_of(), texts_of(60)
    capture.model.train()
    prepared = capture.prepare(capture.tokens(texts), Request(["mlp"], batch_tokens=30))
    before = n_hooks(capture.model)
    reading = capture.read(prepared)
    next(reading)
    assert n_hooks(capture.model) > before
    assert not any(module.training for module in capture.model.modules())
    reading.close()
    assert n_hooks(capture.model) == before
    assert all(module.training for module in capture.model.modules())
    assert torch.get_num_threads() == n_threads


def test_memory_that_runs_out_in_several_threads_leaves_no_hook_and_the_threads():
    torch.set_num_threads(2)
    capture, texts = capture_of(), texts_of(60)
    right = capture.capture_positions(texts, positions=ALL_POSITIONS)
    before = n_hooks(capture.model)

    def fail(n_tokens):
        if n_tokens > 50:
            raise torch.OutOfMemoryError("out of memory")

    with before_each_pass(capture, fail):
        found = capture.capture_positions(texts, positions=ALL_POSITIONS, batch_tokens=200)
    assert_equal(found, right)
    assert n_hooks(capture.model) == before
    assert torch.get_num_threads() == 2


def test_passes_that_fail_side_by_side_lower_the_limit_once():
    torch.set_num_threads(2)
    capture, texts = capture_of(), [f"{i} sea" for i in range(10, 26)]
    (n_tokens,) = {len(row) for row in capture.tokens(texts).ids}
    right = capture.capture_positions(texts, positions=ALL_POSITIONS)
    whole = 8 * n_tokens
    both = threading.Barrier(2)

    def fail(n):
        if n == whole:
            both.wait(timeout=30)  # neither has failed before the other is read
            raise torch.OutOfMemoryError("out of memory")

    with before_each_pass(capture, fail):
        found = capture.capture_positions(texts, positions=ALL_POSITIONS, batch_tokens=whole)
    assert_equal(found, right)
    assert capture.notes == [
        f"out of memory at a batch of {whole} tokens: going on with {whole // 2}"
    ]
