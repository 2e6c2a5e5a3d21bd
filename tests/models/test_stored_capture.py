"""A model's capture in the store: killed, resumed, shared out, damaged; and what its key covers."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import SENTENCES, tiny_model, tiny_tokenizer
from workbench import ROOT, clean_environment

from activation_analysis.errors import StoreError
from activation_analysis.models import batching
from activation_analysis.models.distributed import Processes
from activation_analysis.models.loaded_model import LoadedModel
from activation_analysis.models.request import Request
from activation_analysis.models.stored_capture import StoredCapture, defining_values, store_capture
from activation_analysis.store import (
    CaptureWriter,
    capture_key,
    open_recording,
    read_activations,
    verify_capture,
)

TEXTS = [f"{SENTENCES[i % 4][: 8 + 5 * (i % 8)]} {i:02d}" for i in range(60)]
REQUEST = Request(("mlp", "residual"), positions=("last", "mean"), batch_tokens=60)
SHARD_TOKENS = 60
N_KILLS = 20


def tiny_llama() -> LoadedModel:
    return LoadedModel(tiny_model("llama"), tokenizer=tiny_tokenizer(), progress=False)


def record(capture: LoadedModel, root: Path, processes: Processes | None = None) -> StoredCapture:
    tokens = capture.tokens(TEXTS, positions=REQUEST.positions)
    return store_capture(capture, tokens, REQUEST, root=root, processes=processes or Processes())


def capture_in(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def files(root: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(capture_in(root).iterdir()) if f.name != ".lock"}


def finished_in(root: Path) -> set[int]:
    """Shards that a journal calls finished, or, once it is sealed, all of them."""
    folder = next(iter(root.iterdir()), None) if root.exists() else None
    if folder is None:
        return set()
    if (folder / "manifest.json").exists():
        return {int(f.stem.removeprefix("shard-")) for f in folder.glob("shard-*.safetensors")}
    lines = [
        line
        for journal in folder.glob("journal-*.jsonl")
        for line in journal.read_text().splitlines(keepends=True)
    ]
    return {json.loads(line)["shard"] for line in lines if line.endswith("\n")}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(batching, "SHARD_TOKENS", SHARD_TOKENS)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("unbroken") / "captures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "SHARD_TOKENS", SHARD_TOKENS)
        made = record(tiny_llama(), root)
    assert made.n_shards >= 10
    assert made.n_kept == 0
    return files(root)


# Kills

# One process loads the model; every try is a fork of it, so that none waits for imports.
SERVER = """
import json, os, sys, time
sys.path[:0] = [{tests!r}, {tests!r} + "/models"]
import torch
torch.set_num_threads(1)
import test_stored_capture as t

capture, slow = t.tiny_llama(), time.sleep
read, unlink = t.LoadedModel.read, os.unlink

def noted(self, prepared, passes, **options):
    first_rows = {{int(s[0]): i for i, s in enumerate(prepared.plan.to_json()["shards"])}}
    shards = [first_rows[int(p.rows[0])] for p in passes if int(p.rows[0]) in first_rows]
    with open(note, "a") as file:
        file.write(json.dumps(shards))
    return read(self, prepared, passes, **options)

def slowed(step, seconds):
    return lambda *a, **k: (slow(seconds), step(*a, **k), slow(seconds))[1]

print("ready", flush=True)
while line := sys.stdin.readline():
    root, note = json.loads(line)
    child = os.fork()
    if child == 0:
        t.LoadedModel.read = noted
        t.batching.SHARD_TOKENS = {shard_tokens}
        for name, seconds in (("replace", 0.006), ("fsync", 0.003), ("unlink", 0.003)):
            setattr(os, name, slowed(getattr(os, name), seconds))
        t.record(capture, t.Path(root))
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()  # until it is collected, its number is no other process's
    print(os.waitpid(child, 0)[1], flush=True)
"""


class ForkServer:
    """A process that has loaded the tiny model and forks a recording child on request."""

    def __init__(self) -> None:
        code = SERVER.format(tests=str(ROOT / "tests"), shard_tokens=SHARD_TOKENS)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=clean_environment(PYTHONPATH=str(ROOT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def begin(self, root: Path, note: Path) -> int:
        self.process.stdin.write(json.dumps([str(root), str(note)]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """The signal that the child died of; 0 if it finished."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.process.stdin.close()
    server.process.wait(timeout=60)
    server.process.stdout.close()


def test_a_capture_killed_twenty_times_is_that_of_an_unbroken_run(server, tmp_path, unbroken):
    rng, n_killed, n_finished, number = np.random.default_rng(3), 0, [], 0
    note = tmp_path / "note"
    while n_killed < N_KILLS:
        root, number, died = tmp_path / f"captures-{number}", number + 1, signal.SIGKILL
        while died:
            before = finished_in(root)
            note.write_text("")
            child = server.begin(root, note)
            if n_killed < N_KILLS:
                time.sleep(rng.uniform(0.0, 0.9))
                os.kill(child, signal.SIGKILL)
            died = server.end()
            asked = set(json.loads(note.read_text() or "[]"))
            assert not before & asked, "a finished shard was computed again"
            if died:
                n_killed += 1
                n_finished.append(len(finished_in(root)))
        assert files(root) == unbroken
    assert n_killed == N_KILLS
    assert len(set(n_finished)) >= 4  # in all parts of a capture


# Ranks


class Killed(BaseException):
    """Nothing in the store catches this, as nothing catches kill -9."""


@dataclass(frozen=True)
class Threads(Processes):
    """Ranks that are threads of this process, and meet at a barrier."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def meet(self) -> None:
        self.barrier.wait(timeout=60)


def record_by(n: int, root: Path, capture: LoadedModel) -> list[StoredCapture | BaseException]:
    """What every rank answered, or died of."""
    barrier = threading.Barrier(n)
    answers: list[StoredCapture | BaseException | None] = [None] * n

    def of_rank(rank: int) -> None:
        own = copy.copy(capture)
        own.model, own._found = copy.deepcopy(capture.model), None
        own._proven = None  # its sites are those of the other copy
        try:
            answers[rank] = record(own, root, Threads(rank, n, barrier))
        except BaseException as error:
            answers[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=of_rank, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return answers


@contextmanager
def counted(dies_after: int | None = None) -> Iterator[list[int]]:
    """The shards that are written, in order; the ``dies_after``-th is the last."""
    written: list[int] = []
    write_shard, one_at_a_time = CaptureWriter.write_shard, threading.Lock()

    def noted(writer: CaptureWriter, i: int, tensors: dict) -> None:
        with one_at_a_time:
            if dies_after is not None and len(written) >= dies_after:
                raise Killed
            write_shard(writer, i, tensors)
            written.append(i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptureWriter, "write_shard", noted)
        yield written


@pytest.mark.parametrize("n_after", [1, 2, 3])
@pytest.mark.parametrize("n_before", [1, 2, 3])
def test_any_number_of_ranks_goes_on_where_another_stopped(n_before, n_after, tmp_path, unbroken):
    root, capture = tmp_path / "captures", tiny_llama()
    with counted(dies_after=5) as first:
        answers = record_by(n_before, root, capture)
    assert any(isinstance(answer, Killed) for answer in answers)
    assert len(list(capture_in(root).glob("journal-*.jsonl"))) <= n_before
    with counted() as second:
        answers = record_by(n_after, root, capture)
    n_shards = len([name for name in unbroken if name.startswith("shard-")])
    assert {answer.n_kept for answer in answers} == {5}
    assert sorted(first + second) == list(range(n_shards))  # every one once
    assert files(root) == unbroken
    again = record_by(n_after, root, capture)
    assert all(answer.was_there for answer in again)


# Damage


def test_damage_to_a_models_capture_is_named_by_every_way_of_reading_it(tmp_path):
    root = tmp_path / "captures"
    record(tiny_llama(), root)
    folder, whole = capture_in(root), files(root)
    rng, names = np.random.default_rng(5), sorted(whole)
    n_named = 0
    for trial in range(400):
        name = names[trial // 2 % len(names)]
        spoiled = bytearray(whole[name])
        place = int(rng.integers(len(spoiled)))
        if trial % 2:
            spoiled[place] ^= 1 << int(rng.integers(8))
        else:
            del spoiled[place:]
        (folder / name).write_bytes(spoiled)
        for read in (verify_capture, lambda f: read_activations(f, "mean")):
            with pytest.raises(StoreError) as refusal:
                read(folder)
            n_named += name in str(refusal.value)
        (folder / name).write_bytes(whole[name])
    assert n_named == 800
    verify_capture(folder)


# What is in the key


def test_an_equal_model_and_equal_prompts_are_the_same_capture(tmp_path):
    keys = set()
    for _ in range(2):
        capture = tiny_llama()
        tokens = capture.tokens(TEXTS, positions=REQUEST.positions)
        keys.add(capture_key(defining_values(capture, tokens, REQUEST)))
    assert len(keys) == 1
    record(tiny_llama(), tmp_path / "captures")
    assert record(tiny_llama(), tmp_path / "captures").was_there


def key_of(capture: LoadedModel, texts=TEXTS, *, chat: bool = False, **asked) -> str:
    request = Request(**{"sites": ("mlp", "residual"), **asked})
    tokens = capture.tokens(texts, positions=request.positions, chat=chat)
    return capture_key(defining_values(capture, tokens, request))


CHAT = "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def chatty() -> LoadedModel:
    capture = tiny_llama()
    capture.tokenizer.chat_template = CHAT
    return capture


def spoiled(part: str) -> LoadedModel:
    """The model with one value of one parameter or buffer changed."""
    capture = tiny_llama()
    named = dict(capture.model.named_parameters()) | dict(capture.model.named_buffers())
    with torch.no_grad():
        named[part].reshape(-1)[3] += 1e-3
    return capture


def with_attention(backend: str) -> LoadedModel:
    capture = tiny_llama()
    capture.model.set_attn_implementation(backend)
    return capture


def with_tokenizer(template: str) -> LoadedModel:
    return LoadedModel(
        tiny_model("llama"), tokenizer=tiny_tokenizer(template=template), progress=False
    )


def in_bfloat16() -> LoadedModel:
    return LoadedModel(tiny_model("llama").bfloat16(), tokenizer=tiny_tokenizer(), progress=False)


def with_config(**changes) -> LoadedModel:
    capture = tiny_llama()
    for name, value in changes.items():
        setattr(capture.model.config, name, value)
    return capture


CHANGED = {
    "position": lambda: key_of(tiny_llama(), positions=("mean",)),
    "skip_first": lambda: key_of(tiny_llama(), positions=("mean",), skip_first=3),
    "one more position": lambda: key_of(tiny_llama(), positions=("last", "mean")),
    "sites": lambda: key_of(tiny_llama(), sites=("mlp",)),
    "order of sites": lambda: key_of(tiny_llama(), sites=("residual", "mlp")),
    "layers": lambda: key_of(tiny_llama(), layers=(0, 2)),
    "layout": lambda: key_of(tiny_llama(), layout="padded"),
    "batch_tokens": lambda: key_of(tiny_llama(), batch_tokens=64),
    "chat": lambda: key_of(chatty(), chat=True),
    "one text": lambda: key_of(tiny_llama(), [*TEXTS[:-1], "another"]),
    "order of texts": lambda: key_of(tiny_llama(), TEXTS[::-1]),
    "a text twice": lambda: key_of(tiny_llama(), [*TEXTS, TEXTS[0]]),
    "one weight": lambda: key_of(spoiled("model.layers.1.mlp.down_proj.weight")),
    "one value of a norm": lambda: key_of(spoiled("model.norm.weight")),
    "a buffer that is not saved": lambda: key_of(spoiled("model.rotary_emb.inv_freq")),
    "dtype": lambda: key_of(in_bfloat16()),
    "attention": lambda: key_of(with_attention("eager")),
    "special tokens": lambda: key_of(with_tokenizer("<bos> $A <eos>")),
    "config": lambda: key_of(with_config(rms_norm_eps=1e-3)),
}


def test_whatever_changes_the_values_makes_another_capture():
    keys = {"nothing": key_of(tiny_llama())} | {name: key() for name, key in CHANGED.items()}
    assert len(set(keys.values())) == len(CHANGED) + 1, keys


def test_the_code_version_makes_another_capture(monkeypatch):
    before = key_of(tiny_llama())
    monkeypatch.setattr("activation_analysis.models.stored_capture.code_version", lambda: "99")
    assert key_of(tiny_llama()) != before


# Room


def test_a_model_is_not_recorded_onto_a_disk_that_is_too_small(tmp_path, unbroken):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounts are refused here: {mounted.stderr.decode().strip()}")
    try:
        with counted() as written, pytest.raises(StoreError, match=r"are needed in .* are free; f"):
            record(tiny_llama(), disk / "captures")
        assert written == []
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert record(tiny_llama(), disk / "captures").n_kept == 0
        assert files(disk / "captures") == unbroken
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_read_back_is_what_the_model_gives(tmp_path):
    """The stored rows against a capture of the same request in memory."""
    from activation_analysis.models.capture import ActivationCapture

    root = tmp_path / "captures"
    record(tiny_llama(), root)
    capture = ActivationCapture(tiny_model("llama"), tokenizer=tiny_tokenizer(), progress=False)
    for position in REQUEST.positions:
        stored = open_recording(capture_in(root), position)
        there = capture.capture_batch(TEXTS, ["mlp", "residual"], position=position)
        for site in ("mlp", "residual"):
            np.testing.assert_allclose(
                stored.matrix(site), there.matrix(site), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("n_prompts", [4, 40, 300])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_number_of_threads_changes_no_byte(tmp_path, family, n_prompts):
    """Also where there are fewer passes than threads."""
    texts, captures = [f"{i} {SENTENCES[i % 4]}" for i in range(n_prompts)], []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        capture = LoadedModel(tiny_model(family), tokenizer=tiny_tokenizer(), progress=False)
        request = Request(positions=("last", "mean"))
        done = store_capture(
            capture, capture.tokens(texts), request, root=tmp_path / str(n_threads)
        )
        captures.append(
            {f.name: f.read_bytes() for f in done.folder.iterdir() if f.name != ".lock"}
        )
        assert torch.get_num_threads() == n_threads
    assert captures[0] == captures[1] == captures[2]
