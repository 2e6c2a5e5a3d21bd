"""Who may write a capture, where it may lie, what reading it touches, and what a full disk says.

Kills, flips, truncations and disks that fill up midway are in test_store_faults.py.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_store_faults import (
    DEFINING,
    N_SHARDS,
    PLAN,
    content,
    files,
    journaled,
    shard,
    write_all,
)
from workbench import ROOT, clean_environment

from activation_analysis.errors import StoreError
from activation_analysis.store import (
    CaptureContent,
    capture_folder,
    capture_key,
    join_capture,
    open_capture,
    open_recording,
    read_activations,
    require_space,
    tensor_name,
    verify_capture,
)

KEY = capture_key(DEFINING)


@contextmanager
def small_disk(folder: Path, size: str, n_files: int = 1000) -> Iterator[Path]:
    """A file system of its own, of this size and for so many files, itself one of them."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={n_files}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounts are refused here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken") / "capture"
    write_all(folder)
    return files(folder)


# Who writes

WRITER = """
import sys
sys.path.insert(0, {tests!r})
import test_store_faults as faults
from activation_analysis.store import CaptureWriter

write_shard = CaptureWriter.write_shard

def noted(writer, i, tensors):
    with open({note!r}, "a") as file:
        file.write(f"{{i}}\\n")
    write_shard(writer, i, tensors)
    if {holds} and i == 0:
        print("holding", flush=True)
        sys.stdin.readline()

CaptureWriter.write_shard = noted
faults.print = lambda text: print(text, flush=True)
faults.write_all({folder!r}, wait={wait})
"""


def writer(folder: Path, note: Path, *, wait: bool = True, holds: bool = False) -> subprocess.Popen:
    values = {"folder": str(folder), "note": str(note), "wait": wait, "holds": holds}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.format(tests=str(ROOT / "tests"), **values)],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_eight_processes_one_writes_four_wait_and_three_name_the_writer(tmp_path, unbroken):
    folder, note = tmp_path / "capture", tmp_path / "note"
    holder = writer(folder, note, holds=True)
    assert holder.stdout.readline() == "holding\n"
    named = f"pid {holder.pid} on host {socket.gethostname()}"
    waiting = [writer(folder, note) for _ in range(4)]
    for child in waiting:
        assert child.stdout.readline() == f"waiting for {named}, which is writing this capture\n"
    impatient = [writer(folder, note, wait=False) for _ in range(3)]
    for child in impatient:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 1
        assert f"{folder} is being written by {named}; wait for it, or stop it first" in err
    out, err = holder.communicate("go on\n", timeout=60)
    assert (holder.returncode, out, err) == (0, "", "")
    for child in waiting:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out, err) == (0, "complete\n", "")
    assert [int(line) for line in note.read_text().split()] == list(range(N_SHARDS))
    assert files(folder) == unbroken
    assert (folder / ".lock").read_bytes() == b""  # nobody is named any more


def test_a_shard_is_not_written_twice_nor_after_sealing(tmp_path):
    with open_capture(tmp_path / "capture", DEFINING, plan=PLAN) as one:
        one.write_shard(3, shard(3))
        with pytest.raises(StoreError, match=r"shard 3 of .* is finished; it is not written twice"):
            one.write_shard(3, shard(3))
        with pytest.raises(StoreError, match=r"11 of 12 shards .* not finished \(first: 0\)"):
            one.seal(content())
    write_all(tmp_path / "capture")
    with (
        open_capture(tmp_path / "capture", DEFINING, plan=PLAN) as one,
        pytest.raises(StoreError, match="is sealed; nothing is added to it"),
    ):
        one.write_shard(3, shard(3))


# Full disks


@pytest.mark.parametrize("n_kilobytes", [0, 8, 20, 44, 76])
def test_a_full_disk_is_told_of_at_every_try_and_loses_nothing(tmp_path, unbroken, n_kilobytes):
    """0: not even the lock can be signed. Each disk is met full twice before it grows."""
    with small_disk(tmp_path / "disk", "80k") as disk:
        (disk / "filler").write_bytes(bytes((80 - n_kilobytes) * 1024))
        for _ in range(2):
            finished = journaled(disk / "capture")
            with pytest.raises(StoreError) as refusal:
                write_all(disk / "capture")
            said = str(refusal.value)
            assert f"the disk of {disk / 'capture'} is full (No space left on device)" in said
            n_bytes = sum(values.nbytes for values in shard(0).values())
            next_ = (f": {n_bytes:,} bytes were to be", ": the capture's small files were to be")
            assert any(f"{one} written next and " in said for one in next_)
            assert finished <= journaled(disk / "capture")
        finished, note = journaled(disk / "capture"), tmp_path / "note"
        note.touch()  # nothing but the sealing may be left
        grow(disk, "4m")
        write_all(disk / "capture", note=str(note))
        assert sorted({int(line) for line in note.read_text().split()} | finished) == list(
            range(N_SHARDS)
        )
        assert not finished & {int(line) for line in note.read_text().split()}
        assert files(disk / "capture") == unbroken


@pytest.mark.parametrize("n_files", [1, 2, 3, 4, 9])
def test_a_disk_for_no_more_files_is_called_full(n_files, tmp_path, unbroken):
    """Of 1 not even the folder fits, of 2 not the lock, 3 the plan, 4 a shard, 9 a later one."""
    with small_disk(tmp_path / "disk", "4m", n_files) as disk:
        with pytest.raises(StoreError, match=r"the disk of .* is full \(No space left on device\)"):
            write_all(disk / "capture")
        grow(disk, "4m,nr_inodes=1000")
        write_all(disk / "capture")
        assert files(disk / "capture") == unbroken


def test_what_would_not_fit_is_refused_beforehand(tmp_path):
    with small_disk(tmp_path / "disk", "1100k") as disk:
        free = shutil.disk_usage(disk).free
        require_space(disk / "not" / "there" / "yet", int(free / 1.1))
        too_much = int(free / 1.1) + 2
        with pytest.raises(StoreError) as refusal:
            require_space(disk, too_much)
        assert f"({math.ceil(1.1 * too_much):,} bytes) are needed in {disk}" in str(refusal.value)
        assert f"({free:,} bytes) are free; free some space" in str(refusal.value)
        assert list(disk.iterdir()) == []


# Which capture

TWELVE: dict[str, tuple[object, object]] = {
    "weights": ("a" * 64, "a" * 63 + "b"),
    "revision": ("main", ""),
    "config": ("b" * 64, "b" * 63 + "c"),
    "tokenizer": ("c" * 64, "TokenizerFast"),
    "texts": ("d" * 64, "d" * 63 + "e"),
    "token_ids": ("e" * 64, "e" * 63 + "f"),
    "places": ({"last": "f"}, {"mean": "f"}),
    "sites": (["mlp", "residual"], ["residual", "mlp"]),
    "layers": ([0, 1], [0, 1, 2]),
    "dtype": ("float32", "bfloat16"),
    "attention": ("sdpa", "eager"),
    "layout": ("packed", "padded"),
}


def test_no_other_capture_opens_in_the_same_folder(tmp_path):
    """Neither a finished nor a begun one, whichever of the twelve inputs changed."""
    first = {name: value for name, (value, _) in TWELVE.items()}
    begun, done = tmp_path / "begun", tmp_path / "done"
    with open_capture(begun, first, plan=PLAN) as one:
        one.write_shard(0, shard(0))
    with open_capture(done, first, plan=PLAN) as one:
        for i in range(N_SHARDS):
            one.write_shard(i, shard(i))
        one.seal(content())
    keys = {capture_key(first)}
    before = files(begun), files(done)
    for name, (_, other) in TWELVE.items():
        changed = {**first, name: other}
        keys.add(capture_key(changed))
        for folder in (begun, done):
            with (
                pytest.raises(StoreError, match="holds another capture"),
                open_capture(folder, changed, plan=PLAN),
            ):
                pass
        with (
            pytest.raises(StoreError, match="holds another capture"),
            join_capture(begun, changed, rank=1),
        ):
            pass
    assert len(keys) == 13
    assert (files(begun), files(done)) == before
    with open_capture(done, dict(reversed(first.items())), plan=PLAN) as one:
        assert one.complete


# Where a capture may lie

NO_KEYS = [
    "", ".", "..", "/", "../x", "x/../y", "/etc/passwd", "~", "~root", "-x", "x\\y", "..\\x",
    "C:\\x", "$HOME", "`id`", "*", "?", "é", "\u202e", "%2e%2e", "file://x", "|x", None, 7,
    b"a" * 64, Path("x"), ["a" * 64], KEY[:-1], KEY + "0", KEY.upper(), KEY + "\n", "\n" + KEY,
    KEY + "\x00", KEY + "/", "/" + KEY, "../" + KEY, KEY[:62] + "..", KEY[:61] + "/..",
    "../" + KEY[3:], "/" + KEY[1:], "./" + KEY[2:], "~" + KEY[1:], KEY[:32] + "/" + KEY[33:],
    " " + KEY[1:], KEY[:-1] + " ", KEY[:-1] + "g", KEY[:-1] + "\n", KEY[:-1] + "\x00", "x" * 64,
    "." * 64, "/" * 64, "-" * 64, "é" * 64, "１" * 64, "0x" + KEY[2:], KEY[:-1] + "\u202e",
    "..\\" + KEY[3:], "C:" + KEY[2:], "%2e%2e%2f" + KEY[9:], "$(id)" + KEY[5:], "a" * 4096,
]  # fmt: skip


def test_keys_that_could_leave_the_store_are_refused(tmp_path):
    assert len(NO_KEYS) >= 60
    root = tmp_path / "a" / "captures"
    for key in NO_KEYS:
        with pytest.raises(StoreError, match="is no capture's key"):
            capture_folder(key, root)
    assert capture_folder(KEY, root).parent == root
    assert list(tmp_path.iterdir()) == []


NO_POSITIONS = ["../../x", "/etc/passwd", "x/y", "", "x\x00", "x\n", "a" * 101]


@pytest.mark.parametrize("name", [
    *(f"{position}/mlp/layer_000" for position in NO_POSITIONS),
    *("last/../layer_000", "last/secret/layer_000", "last/mlp/../x", "last/mlp/layer_0", "last/mlp",
      "last/mlp/layer_000/..", "/last/mlp/layer_000", "last/mlp/layer_-01"),
])  # fmt: skip
def test_a_tensor_whose_name_is_no_layer_is_not_written(name, tmp_path):
    with open_capture(tmp_path / "capture", DEFINING, plan=PLAN) as one:
        with pytest.raises(StoreError):
            one.write_shard(0, {name: shard(0)[tensor_name("last", "mlp", 0)]})
        assert not one.finished
    assert {f.name for f in (tmp_path / "capture").iterdir()} == {".lock", "plan.json"}
    assert [f.name for f in tmp_path.iterdir()] == ["capture"]


def test_a_link_in_place_of_a_capture_is_refused(tmp_path):
    root, elsewhere = tmp_path / "captures", tmp_path / "elsewhere"
    write_all(elsewhere)
    before = files(elsewhere)
    root.mkdir()
    link = root / KEY[:32]
    for target in (elsewhere, tmp_path / "nowhere"):
        link.symlink_to(target)
        for attempt in (
            lambda: capture_folder(KEY, root),
            lambda: open_capture(link, DEFINING, plan=PLAN).__enter__(),
            lambda: join_capture(link, DEFINING, rank=1).__enter__(),
        ):
            with pytest.raises(StoreError, match="is a symbolic link; captures stay in"):
                attempt()
        link.unlink()
    assert files(elsewhere) == before
    assert not (tmp_path / "nowhere").exists()


def test_a_linked_shard_is_refused_and_never_written_through(tmp_path, unbroken):
    folder, outside = tmp_path / "capture", tmp_path / "outside"
    name = "shard-00002.safetensors"
    write_all(folder)
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)  # the right bytes, but out of reach of the store
    for read in (verify_capture, open_recording, read_activations):
        with pytest.raises(StoreError, match=r"shard-00002\.safetensors: leaves the folder"):
            read(folder)

    begun = tmp_path / "begun"
    with open_capture(begun, DEFINING, plan=PLAN) as one:
        one.write_shard(2, shard(2))
    (begun / name).unlink()
    (begun / name).symlink_to(outside)
    with pytest.raises(StoreError, match=rf"holds symbolic links \({name}\), which a capture has"):
        write_all(begun)
    (begun / name).unlink()
    write_all(begun)
    assert files(begun) == unbroken
    assert outside.read_bytes() == unbroken[name]


def test_a_shard_that_becomes_a_link_meanwhile_is_no_longer_finished(tmp_path):
    with open_capture(tmp_path / "capture", DEFINING, plan=PLAN) as one:
        one.write_shard(2, shard(2))
        file = tmp_path / "capture" / "shard-00002.safetensors"
        file.rename(tmp_path / "outside")
        file.symlink_to(tmp_path / "outside")
        assert not one.finished
        one.write_shard(2, shard(2))
        assert one.finished == {2}
        assert not file.is_symlink()


@pytest.mark.parametrize("name", [".lock", "plan.json"])
@pytest.mark.parametrize(
    "attempt",
    [
        lambda folder: open_capture(folder, DEFINING, plan=PLAN),
        lambda folder: join_capture(folder, DEFINING, rank=1),
    ],
)
def test_a_linked_lock_or_plan_is_refused(name, attempt, tmp_path):
    folder, outside = tmp_path / "capture", tmp_path / "outside"
    with open_capture(folder, DEFINING, plan=PLAN) as one:
        one.write_shard(0, shard(0))
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(StoreError, match=rf"holds symbolic links \({name}\), which a"):
        attempt(folder).__enter__()
    assert outside.read_bytes() == before


# What reading touches

N_ROWS, WIDE, N_LAYERS = 1000, 16384, 5  # 328 MB: a row of a layer is 16 pages


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("large") / "capture"
    values = np.arange(N_ROWS * WIDE, dtype=np.float32).reshape(N_ROWS, WIDE)
    names = [tensor_name("last", "mlp", k) for k in range(N_LAYERS)]
    with open_capture(folder, DEFINING, plan={"shards": [list(range(N_ROWS))]}) as one:
        one.write_shard(0, dict.fromkeys(names, values))
        one.seal(
            CaptureContent(
                prompts=[str(i) for i in range(N_ROWS)],
                n_tokens=[1] * N_ROWS,
                row_of_prompt=range(N_ROWS),
                positions=("last",),
                sites=("mlp",),
                model="noise",
                n_layers=N_LAYERS,
            )
        )
    yield folder
    (folder / "shard-00000.safetensors").unlink()


def forget(file: Path) -> None:
    """Drop a file's pages from memory."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident(file: Path) -> np.ndarray:
    """Whether each page of a file is in memory, as mincore(2) says, (n_pages,)."""
    n_bytes = file.stat().st_size
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, mmap.MAP_PRIVATE) as pages:
        flags = np.zeros(-(-n_bytes // mmap.PAGESIZE), np.uint8)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(start), ctypes.c_size_t(n_bytes), flags.ctypes.data_as(ctypes.c_void_p)
        )
        assert not failed, os.strerror(ctypes.get_errno())
    return flags & 1 == 1


def test_reading_a_layer_or_a_block_of_units_touches_their_pages_only(large):
    """By the pages of the file in memory afterwards, all of it having been dropped before."""
    file = large / "shard-00000.safetensors"
    start = file.stat().st_size - N_LAYERS * N_ROWS * WIDE * 4  # of the first layer
    forget(file)
    if resident(file).mean() > 0.01:
        pytest.skip("this file system keeps the pages of a file that was dropped")

    matrix = open_recording(large).values["mlp"][3]
    n_opening = resident(file).sum()
    assert n_opening < 64  # read-ahead of the header

    forget(file)
    block = matrix[:, 2048:2064]
    np.testing.assert_array_equal(block[7], np.arange(2048, 2064) + 7 * WIDE)
    first = (start + 3 * N_ROWS * WIDE * 4) // mmap.PAGESIZE
    last = (start + 4 * N_ROWS * WIDE * 4 - 1) // mmap.PAGESIZE
    touched = np.flatnonzero(resident(file))
    assert len(touched) <= 2 * N_ROWS  # of the 16 pages of each row
    assert touched.min() >= first
    assert touched.max() <= last

    forget(file)
    assert np.asarray(matrix).shape == (N_ROWS, WIDE)
    touched = np.flatnonzero(resident(file))
    assert len(touched) >= last - first
    ahead = 2048  # pages that a kernel may read beyond the end of what was asked for
    assert touched.min() >= first - ahead
    assert touched.max() <= last + ahead
