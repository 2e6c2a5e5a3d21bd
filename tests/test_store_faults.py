"""What may happen to a capture while it is written, and to a finished one on the disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from workbench import ROOT, clean_environment

from activation_analysis.errors import StoreError
from activation_analysis.store import (
    CaptureContent,
    CaptureWriter,
    capture_key,
    open_capture,
    open_recording,
    read_activations,
    tensor_name,
    verify_capture,
)

N_SHARDS, ROWS, WIDTH = 12, 3, 40
DEFINING = {"weights": "0" * 64, "what": "noise"}
PLAN = {"shards": [list(range(i * ROWS, (i + 1) * ROWS)) for i in range(N_SHARDS)]}
NAMES = [tensor_name("last", site, layer) for site in ("residual", "mlp") for layer in range(3)]

WRITER = """
import os, sys, time
sys.path.insert(0, {tests!r})
import numpy as np
import test_store_faults as faults
from activation_analysis.store import shards

if {slow}:
    replace, fsync = os.replace, os.fsync
    os.replace = lambda *a: (time.sleep(0.01), replace(*a))[1]
    os.fsync = lambda *a: (time.sleep(0.004), fsync(*a))[1]
faults.write_all({folder!r}, note={note!r}, wait={wait})
"""


def shard(i: int) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {name: rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for name in NAMES}


def content() -> CaptureContent:
    n = N_SHARDS * ROWS
    return CaptureContent(
        prompts=[f"prompt {i}" for i in range(n)],
        n_tokens=[5] * n,
        row_of_prompt=list(range(n))[::-1],
        positions=("last",),
        sites=("residual", "mlp"),
        model="noise",
        n_layers=3,
    )


def write_all(folder, *, note: str | None = None, wait: bool = True) -> CaptureWriter:
    """Write what is not there yet, noting every shard that is begun."""
    with open_capture(folder, DEFINING, plan=PLAN, said=print, wait=wait) as writer:
        if writer.complete:
            print("complete")
            return writer
        for i in sorted(set(range(N_SHARDS)) - writer.finished):
            if note:
                with Path(note).open("a") as file:
                    file.write(f"{i}\n")
            writer.write_shard(i, shard(i))
        writer.seal(content())
        return writer


def process(folder: Path, note: Path, *, slow: bool = True, wait: bool = True) -> subprocess.Popen:
    code = WRITER.format(
        tests=str(ROOT / "tests"), folder=str(folder), note=str(note), slow=slow, wait=wait
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != ".lock"}


def journaled(folder: Path) -> set[int]:
    """Shards that a journal calls finished; a torn last line is not one."""
    finished = set()
    for journal in folder.glob("journal-*.jsonl"):
        for line in journal.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                finished.add(json.loads(line)["shard"])
    return finished


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken") / "capture"
    write_all(folder)
    return files(folder)


def test_after_twenty_kills_the_capture_is_that_of_an_unbroken_run(tmp_path, unbroken):
    rng = np.random.default_rng(0)
    n_killed, round_ = 0, 0
    while n_killed < 20:
        folder, note = tmp_path / f"capture-{round_}", tmp_path / f"note-{round_}"
        round_ += 1
        for _ in range(4):
            finished = journaled(folder)
            note.unlink(missing_ok=True)
            child = process(folder, note)
            begun = time.monotonic()
            while not note.exists() and child.poll() is None and time.monotonic() - begun < 30:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.25))
            child.send_signal(signal.SIGKILL)
            child.communicate()
            was_killed = child.returncode == -signal.SIGKILL
            n_killed += was_killed
            written = [int(line) for line in note.read_text().split()] if note.exists() else []
            assert not finished & set(written), "a finished shard was computed again"
            if not was_killed:
                break
        write_all(folder)
        assert files(folder) == unbroken
    assert n_killed >= 20


def test_every_flip_and_every_truncation_is_named(tmp_path, unbroken):
    folder = tmp_path / "capture"
    write_all(folder)
    verify_capture(folder)
    rng = np.random.default_rng(1)
    names = [name for name in unbroken if name != "manifest.json"]
    detected = 0
    for trial in range(400):
        name = names[rng.integers(len(names))] if trial % 10 else "manifest.json"
        whole = bytearray(unbroken[name])
        if trial % 2:
            place = int(rng.integers(len(whole)))
            whole[place] ^= 1 << int(rng.integers(8))
        else:
            whole = whole[: int(rng.integers(len(whole)))]
        (folder / name).write_bytes(whole)
        with pytest.raises(StoreError) as error:
            verify_capture(folder)
        detected += name in str(error.value)
        (folder / name).write_bytes(unbroken[name])
    assert detected == 400
    verify_capture(folder)


def test_a_flip_in_one_layer_leaves_the_others_readable(tmp_path):
    folder = tmp_path / "capture"
    write_all(folder)
    right = read_activations(folder)
    victim = folder / "shard-00004.safetensors"
    spoiled = bytearray(victim.read_bytes())
    wrong = shard(4)[tensor_name("last", "mlp", 1)].tobytes()
    spoiled[spoiled.find(wrong) + 7] ^= 8
    victim.write_bytes(spoiled)
    recording = open_recording(folder)
    np.testing.assert_array_equal(recording.values["mlp"][2], right.values["mlp"][2])
    with pytest.raises(StoreError, match=r"shard-00004\.safetensors.*last/mlp/layer_001"):
        np.asarray(recording.values["mlp"][1])


@pytest.mark.parametrize("n_kilobytes", [16, 24, 36, 48, 60])
def test_a_full_disk_is_told_of_and_the_capture_goes_on(tmp_path, unbroken, n_kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={n_kilobytes}k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounts are refused here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(StoreError, match=r"(?s)bytes|MB|kB") as error:
            write_all(disk / "capture")
        assert "No space left" in str(error.value) or "full" in str(error.value)
        finished = journaled(disk / "capture")
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        note = tmp_path / "note"
        write_all(disk / "capture", note=str(note))
        assert not finished & {int(line) for line in note.read_text().split()}
        assert files(disk / "capture") == unbroken
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_of_eight_processes_one_writes(tmp_path, unbroken):
    folder, note = tmp_path / "capture", tmp_path / "note"
    children = [process(folder, note, wait=i < 6) for i in range(8)]
    answers = [child.communicate(timeout=120) for child in children]
    assert sorted(note.read_text().split(), key=int) == [str(i) for i in range(N_SHARDS)]
    assert files(folder) == unbroken
    done = [child.returncode == 0 for child in children]
    assert all(done[:6])
    writers = [out for out, _ in answers if "complete" not in out and "StoreError" not in _]
    assert len(writers) == 1
    for child, (out, err) in zip(children[6:], answers[6:], strict=True):
        assert child.returncode == 0 or "is being written by pid " in err, (out, err)


def test_twelve_changed_inputs_are_twelve_other_captures():
    defining = {
        "weights": "a" * 64,
        "revision": "main",
        "config": "b" * 64,
        "tokenizer": "c" * 64,
        "texts": "d" * 64,
        "token_ids": "e" * 64,
        "places": {"last": "f" * 64},
        "sites": ["mlp"],
        "layers": [0, 1],
        "dtype": "float32",
        "attention": "sdpa",
        "code": "0.1.0",
    }
    keys = {capture_key(defining)}
    for name, value in defining.items():
        other = {"mean": "f"} if isinstance(value, dict) else value[:-1] or ["x"]
        keys.add(capture_key({**defining, name: other}))
    assert len(keys) == 13
    assert capture_key(dict(reversed(defining.items()))) == capture_key(defining)


def test_another_capture_in_the_same_folder_is_refused(tmp_path):
    write_all(tmp_path / "capture")
    other = {**DEFINING, "what": "other noise"}
    with (
        pytest.raises(StoreError),
        open_capture(tmp_path / "capture", other, plan=PLAN),
    ):
        pass
