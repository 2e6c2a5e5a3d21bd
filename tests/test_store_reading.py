"""Stored recordings answer as arrays do, verify what they read, and read no more than that."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from activation_analysis.activations import Activations, RaggedActivations
from activation_analysis.errors import StoreError
from activation_analysis.store import (
    CaptureContent,
    DataStore,
    StoredMatrix,
    capture_folder,
    capture_key,
    copy_capture,
    digest,
    join_capture,
    manifests,
    open_capture,
    open_recording,
    read_activations,
    require_space,
    tensor_name,
    verify_capture,
    write_activations,
)

DEFINING = {"weights": "a" * 64}
SHARDS = [[3, 0], [1], [4, 2]]
ROW_OF_PROMPT = [4, 0, 0, 2, 1, 3, 2]  # prompts 1 and 2 are the same text, 3 and 6 too
N_KEPT = [2, 1, 3, 4, 2]  # of the stored rows
WIDTHS = {("mlp", 0): 6, ("mlp", 5): 4, ("residual", 0): 8}


def stored_rows(position: str, site: str, layer: int) -> list[np.ndarray]:
    """Stored row -> its lines, (1, width) or one per kept token."""
    rng = np.random.default_rng([len(position), layer, len(site)])
    counts = N_KEPT if position == "all" else [1] * 5
    return [rng.normal(size=(n, WIDTHS[site, layer])).astype(np.float32) for n in counts]


def tensors(i: int) -> dict[str, np.ndarray]:
    return {
        tensor_name(position, site, layer): np.concatenate(
            [stored_rows(position, site, layer)[row] for row in SHARDS[i]]
        )
        for position in ("last", "all")
        for site, layer in WIDTHS
    }


def content(**changes) -> CaptureContent:
    return CaptureContent(
        **{
            "prompts": [f"text {row}" for row in ROW_OF_PROMPT],
            "n_tokens": [N_KEPT[row] + 1 for row in ROW_OF_PROMPT],
            "row_of_prompt": ROW_OF_PROMPT,
            "positions": ("last", "all"),
            "sites": ("residual", "mlp"),
            "model": "noise",
            "n_layers": 6,
            "tokens": [[f"t{row}.{j}" for j in range(n)] for row, n in enumerate(N_KEPT)],
            "offsets": [[[j, j + 1] for j in range(n)] for n in N_KEPT],
            **changes,
        }
    )


def write(folder: Path) -> Path:
    with open_capture(folder, DEFINING, plan={"shards": SHARDS}) as writer:
        for i in range(len(SHARDS)):
            writer.write_shard(i, tensors(i))
        writer.seal(content())
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "capture")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> StoredMatrix:
    return open_recording(write(tmp_path_factory.mktemp("m") / "c"), "last").values["mlp"][0]


# The same numbers


def test_prompts_come_back_in_their_order_from_every_shard(folder):
    recording = open_recording(folder, "last")
    assert recording.sites == ("residual", "mlp")
    for site, layer in WIDTHS:
        rows = stored_rows("last", site, layer)
        expected = np.concatenate([rows[row] for row in ROW_OF_PROMPT])
        np.testing.assert_array_equal(recording.values[site][layer], expected)
    assert recording == read_activations(folder, "last")


@pytest.mark.parametrize(
    "key",
    [
        0, -1, slice(None), slice(5, 1, -2), [2, 2, 0], np.array([True] * 3 + [False] * 4), [],
        (2, 3), (slice(None), 3), (slice(1, 6), slice(1, 5, 2)), ([1, 2, 3], 2),
        ([1, 2, 3], [0, 5, 5]), ([[1], [2]], [0, 1]), (slice(None), [3, 1]), (-1, slice(None, -2)),
        (np.array([True] * 2 + [False] * 5), [1, 2]), (0, [1, 1]), ..., (..., 1), (None, 2),
        (slice(0), slice(0)), np.array([[0, 1], [2, 3]]), (slice(None), np.array([[0], [1]])),
    ],
    ids=str,
)  # fmt: skip
def test_a_stored_matrix_is_indexed_as_an_array_is(matrix, key):
    expected = np.asarray(matrix)[key]
    found = matrix[key]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", [7, (0, 6), ([0, 9], 1), (slice(None), -7)])
def test_an_index_beyond_a_stored_matrix_is_an_index_error(matrix, key):
    with pytest.raises(IndexError):
        matrix[key]


def test_a_stored_matrix_says_its_size_without_reading(matrix):
    array = np.asarray(matrix)
    for name in ("shape", "dtype", "ndim", "nbytes", "size"):
        assert getattr(matrix, name) == getattr(array, name)
    assert len(matrix) == len(array)
    assert np.asarray(matrix, dtype=float).dtype == float
    with pytest.raises(ValueError, match="copy=False"):
        np.array(matrix, copy=False)


def test_rows_of_a_stored_recording_are_chosen_without_reading(folder):
    chosen = open_recording(folder, "last").rows([6, 0, 0])
    (folder / "shard-00001.safetensors").unlink()  # holds none of them
    assert isinstance(chosen.values["mlp"][0], StoredMatrix)
    rows = stored_rows("last", "mlp", 0)
    expected = np.concatenate([rows[row] for row in (2, 4, 4)])
    np.testing.assert_array_equal(chosen.values["mlp"][0], expected)


def test_a_stored_matrix_of_a_site_is_not_kept_in_memory(folder):
    stored, kept = open_recording(folder, "last"), read_activations(folder, "last")
    np.testing.assert_array_equal(stored.matrix("mlp"), kept.matrix("mlp"))
    assert stored.matrix("mlp") is not stored.matrix("mlp")
    assert kept.matrix("mlp") is kept.matrix("mlp")


def test_shards_are_plain_safetensors(folder):
    loaded = safetensors.numpy.load_file(folder / "shard-00002.safetensors")
    assert set(loaded) == set(tensors(2))
    for name, values in tensors(2).items():
        np.testing.assert_array_equal(loaded[name], values)


# Every token


def test_tokens_of_every_prompt_come_back_in_order(folder):
    ragged = open_recording(folder, "all")
    assert isinstance(ragged, RaggedActivations)
    for i, row in enumerate(ROW_OF_PROMPT):
        assert ragged.tokens[i] == tuple(f"t{row}.{j}" for j in range(N_KEPT[row]))
        assert ragged.offsets[i].shape == (N_KEPT[row], 2)
        for site, layer in WIDTHS:
            expected = stored_rows("all", site, layer)[row]
            np.testing.assert_array_equal(ragged.of(i, site, layer), expected)
            for pool, reduced in (("mean", np.mean), ("max", np.max)):
                found = ragged.pooled(pool).values[site][layer][i]
                np.testing.assert_allclose(found, reduced(expected, axis=0), rtol=1e-6)
    assert ragged == read_activations(folder, "all")
    with pytest.raises(IndexError, match="no prompt 7 in a recording of 7"):
        ragged.of(7, "mlp", 0)
    with pytest.raises(ValueError, match="no pool 'min'; known: mean, max"):
        ragged.pooled("min")


def test_a_stored_recording_is_saved_as_one_that_stands_alone(folder, tmp_path):
    data = {p: open_recording(folder, p) for p in ("last", "all")}
    DataStore.save_experiment(data, "x", root=tmp_path)
    kept = {p: read_activations(folder, p) for p in data}
    shutil.rmtree(folder)
    assert DataStore.load_experiment("x", root=tmp_path) == kept


def test_a_recording_of_many_shards_comes_back_equal(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("activation_analysis.store.recordings.SHARD_BYTES", 150)
    for position in ("last", "all"):
        kept = read_activations(folder, position)
        write_activations(tmp_path / position, kept)
        assert len(list((tmp_path / position).glob("shard-*"))) > 2
        assert read_activations(tmp_path / position) == kept


def test_a_position_must_be_named_where_there_are_several(folder):
    with pytest.raises(StoreError, match="name one of its positions; recorded: last, all"):
        open_recording(folder)
    with pytest.raises(StoreError, match="no position 'mean'; recorded: last, all"):
        open_recording(folder, "mean")
    with pytest.raises(StoreError, match="verify='none'; known: read, all"):
        open_recording(folder, "last", verify="none")


# Damage seen by readers


def read_everything(folder: Path) -> None:
    for position in ("last", "all"):
        for layers in open_recording(folder, position).values.values():
            for layer in layers.values():
                np.asarray(layer)


def test_a_reader_names_every_flip_and_every_truncation(folder):
    files = {f: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != ".lock"}
    rng = np.random.default_rng(0)
    for trial in range(400):
        file = list(files)[trial // 2 % len(files)]
        content = bytearray(files[file])
        place = int(rng.integers(len(content)))
        if trial % 2:
            content[place] ^= 1 << int(rng.integers(8))
        else:
            del content[place:]
        file.write_bytes(content)
        with pytest.raises(StoreError, match=file.name):
            read_everything(folder)
        file.write_bytes(files[file])
    read_everything(folder)


def test_a_block_of_columns_is_verified_when_asked(folder):
    layer = open_recording(folder, "last").values["mlp"][0]
    file = folder / "shard-00000.safetensors"
    spoiled = bytearray(file.read_bytes())
    spoiled[spoiled.find(tensors(0)[tensor_name("last", "mlp", 0)].tobytes())] ^= 1
    file.write_bytes(spoiled)
    layer[:, 2:4]  # not verified: it reads these columns only
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors .* last/mlp/layer_000"):
        layer.verify()


def test_every_missing_and_truncated_shard_is_named_at_once(folder):
    (folder / "shard-00000.safetensors").unlink()
    os.truncate(folder / "shard-00002.safetensors", 100)
    with pytest.raises(StoreError) as refusal:
        open_recording(folder, "last")
    lines = str(refusal.value).splitlines()
    assert lines[1] == "shard-00000.safetensors: missing"
    assert lines[2].startswith("shard-00002.safetensors: 100 bytes, expected")
    with pytest.raises(StoreError, match=r"(?s)shard-00000.*shard-00002"):
        verify_capture(folder)


def test_a_capture_that_lacks_an_entry_is_refused(folder):
    said = json.loads((folder / "capture.json").read_text())
    del said["shards"], said["model"]
    manifests.write_json(folder / "capture.json", said)
    listed = manifests.read_manifest(folder)
    listed["files"]["capture.json"] = manifests.stated_of(folder / "capture.json")
    manifests.write_checked(folder / "manifest.json", listed)
    with pytest.raises(StoreError, match=r"capture\.json does not say model, shards"):
        open_recording(folder, "last")


# How much is read


def resident_bytes(file: Path) -> int:
    """Bytes of a file that the kernel has in memory, by mincore."""
    size = file.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with file.open("rb") as stream:
        place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    try:
        assert libc.mincore(place, size, pages) == 0
    finally:
        libc.munmap(place, size)
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def forget(file: Path) -> None:
    """Drop a file's pages from the kernel's memory."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_layer_and_a_block_of_columns_read_their_own_bytes_only(tmp_path):
    n, width, n_layers = 500, 8192, 6  # 16 MB a layer, rows of eight pages
    file = tmp_path / "c" / "shard-00000.safetensors"
    values = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    names = [tensor_name("last", "mlp", k) for k in range(n_layers)]
    with open_capture(tmp_path / "c", DEFINING, plan={"shards": [list(range(n))]}) as writer:
        writer.write_shard(0, dict.fromkeys(names, values))
        empty = {"tokens": None, "offsets": None, "positions": ("last",), "sites": ("mlp",)}
        rows = {"prompts": list(map(str, range(n))), "n_tokens": [1] * n, "row_of_prompt": range(n)}
        writer.seal(content(**empty, **rows))
    forget(file)
    if resident_bytes(file) > 0:
        pytest.skip("this file system keeps its pages: what is read cannot be counted")
    layers = open_recording(tmp_path / "c").values["mlp"]
    read_ahead = 1 << 20  # of the kernel, around what is asked for
    assert resident_bytes(file) <= read_ahead
    forget(file)
    np.testing.assert_array_equal(layers[3][:, 100:200], values[:, 100:200])
    assert resident_bytes(file) <= 2 * mmap.PAGESIZE * n
    forget(file)
    np.testing.assert_array_equal(layers[3], values)
    assert values.nbytes <= resident_bytes(file) + mmap.PAGESIZE <= values.nbytes + read_ahead


# Writing together


def written(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_three_ranks_write_the_bytes_of_one(folder, tmp_path):
    together = tmp_path / "together"
    with (
        open_capture(together, DEFINING, plan={"shards": SHARDS}) as first,
        join_capture(together, DEFINING, rank=1) as second,
        join_capture(together, DEFINING, rank=2) as third,
    ):
        third.write_shard(0, tensors(0))
        first.write_shard(2, tensors(2))
        assert second.finished == {0, 2}
        with pytest.raises(StoreError, match=r"1 of 3 shards of .* not finished"):
            first.seal(content())
        second.write_shard(1, tensors(1))
        with pytest.raises(StoreError, match="only the process that opened"):
            second.seal(content())
        first.seal(content())
    assert written(together) == written(folder)
    with join_capture(together, DEFINING, rank=1) as late:
        assert late.complete
    assert written(together)[".lock"] == b""


def test_a_capture_begun_by_three_is_gone_on_with_by_one(folder, tmp_path):
    left = tmp_path / "left"
    with (
        open_capture(left, DEFINING, plan={"shards": SHARDS}),
        join_capture(left, DEFINING, rank=2) as third,
    ):
        third.write_shard(1, tensors(1))
    with (left / "journal-2.jsonl").open("ab") as journal:
        journal.write(b'{"shard": 0, "byt')
    (left / "shard-00002.safetensors.partial").write_bytes(b"half")
    with open_capture(left, DEFINING, plan={"shards": [[0, 1, 2, 3, 4]]}) as writer:
        assert writer.plan["shards"] == SHARDS  # the stored plan, not the new one
        assert writer.finished == {1}
        for i in (0, 2):
            writer.write_shard(i, tensors(i))
        writer.seal(content())
    assert written(left) == written(folder)


def test_a_damaged_shard_of_an_earlier_run_is_told_of_and_written_again(folder, tmp_path):
    left, said = tmp_path / "left", []
    with open_capture(left, DEFINING, plan={"shards": SHARDS}) as writer:
        writer.write_shard(0, tensors(0))
        writer.write_shard(1, tensors(1))
        with pytest.raises(StoreError, match=r"shard 0 of .* is finished; it is not written twice"):
            writer.write_shard(0, tensors(0))
    spoiled = bytearray((left / "shard-00001.safetensors").read_bytes())
    spoiled[-1] ^= 1
    (left / "shard-00001.safetensors").write_bytes(spoiled)
    with open_capture(left, DEFINING, plan={"shards": SHARDS}, said=said.append) as writer:
        assert writer.finished == {0}
        for i in (1, 2):
            writer.write_shard(i, tensors(i))
        writer.seal(content())
    assert len(said) == 1
    assert "shard-00001.safetensors is missing or damaged" in said[0]
    assert written(left) == written(folder)


def test_a_writer_killed_between_manifest_and_clearing_is_cleared_up_after(folder):
    before = written(folder)
    for name in ("plan.json", "journal-0.jsonl", "capture.json.partial"):
        (folder / name).write_bytes(b"left")
    with open_capture(folder, DEFINING, plan={"shards": SHARDS}) as writer:
        assert writer.complete
        with pytest.raises(StoreError, match="is sealed; nothing is added"):
            writer.write_shard(0, tensors(0))
    assert written(folder) == before


@pytest.mark.parametrize("shards", [[[0, 0]], [[1]], [[0], [2]], None])
def test_a_plan_that_is_none_is_refused(tmp_path, shards):
    with (
        pytest.raises(StoreError, match="every row from 0 on"),
        open_capture(tmp_path / "c", DEFINING, plan={"shards": shards}),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"row_of_prompt": [9] * 7},
        {"n_tokens": [1]},
        {"tokens": None, "offsets": None},
        {"offsets": [[[0, 1]]] * 5},
        {"sites": ("residual",)},
        {"positions": ("last", "all", "mean")},
    ],
    ids=str,
)
def test_content_that_does_not_fit_the_shards_is_not_sealed(tmp_path, changes):
    with open_capture(tmp_path / "c", DEFINING, plan={"shards": SHARDS}) as writer:
        for i in range(len(SHARDS)):
            writer.write_shard(i, tensors(i))
        with pytest.raises(StoreError, match="cannot be sealed"):
            writer.seal(content(**changes))
    assert not (tmp_path / "c" / "manifest.json").exists()


# Copies, links, names, space


def test_a_copy_is_the_same_and_a_damaged_one_is_not_made(folder, tmp_path):
    copy = copy_capture(folder, tmp_path / "copy")
    assert digest(copy) == digest(folder)
    assert written(copy) == {n: b for n, b in written(folder).items() if n != ".lock"}
    with pytest.raises(StoreError, match="is there already"):
        copy_capture(folder, copy)
    file = folder / "shard-00001.safetensors"
    spoiled = bytearray(file.read_bytes())
    spoiled[-1] ^= 1
    file.write_bytes(spoiled)
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors: its bytes changed"):
        copy_capture(folder, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_links_out_of_the_store_are_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with (
        pytest.raises(StoreError, match="is a symbolic link"),
        open_capture(tmp_path / "link", DEFINING, plan={"shards": SHARDS}),
    ):
        pass
    (tmp_path / capture_key(DEFINING)[:32]).symlink_to(folder)
    with pytest.raises(StoreError, match="is a symbolic link"):
        capture_folder(capture_key(DEFINING), tmp_path)
    file = folder / "shard-00001.safetensors"
    shutil.move(file, tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors: leaves the folder"):
        open_recording(folder, "last")


@pytest.mark.parametrize("name", [".lock", "plan.json", "journal-0.jsonl", "capture.json.partial"])
def test_a_link_in_the_way_of_a_writer_is_not_written_through(tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("as it was")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).symlink_to(outside)
    with pytest.raises(StoreError, match=r"holds symbolic links \(.*\), which a capture has none"):
        write(tmp_path / "c")
    assert outside.read_text() == "as it was"


@pytest.mark.parametrize("key", ["", "../x", "a" * 63, "A" * 64, "a" * 64 + "\n", None, "/" * 64])
def test_what_is_no_key_names_no_folder(key, tmp_path):
    with pytest.raises(StoreError, match="is no capture's key"):
        capture_folder(key, tmp_path)


@pytest.mark.parametrize("address", [("a/b", "mlp", 0), ("", "mlp", 0), ("x", "../y", 0),
                                     ("x", "mlp", -1), ("a\n", "mlp", 0)])  # fmt: skip
def test_what_cannot_be_an_address_names_no_tensor(address):
    with pytest.raises(StoreError, match="cannot name stored activations"):
        tensor_name(*address)


@pytest.mark.parametrize("value", [np.int64(1), float("nan"), {1: 2}, b"x", {"a": {1, 2}}])
def test_what_might_not_say_all_of_itself_defines_no_capture(value):
    with pytest.raises(StoreError, match="defining"):
        capture_key({"x": value})


def test_too_little_space_is_refused_with_what_is_needed(tmp_path):
    require_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(StoreError, match=r"1,100,000,000\.0 MB .* are needed in .* are free"):
        require_space(tmp_path, 10**15)


def test_no_recording_has_a_position_that_is_a_path(tmp_path):
    values = {"mlp": {0: np.ones((1, 2), np.float32)}}
    odd = Activations(("x",), np.array([1]), "../up", "m", 1, values)
    with pytest.raises(StoreError, match="cannot name stored activations"):
        DataStore.save_experiment({"a": odd}, "x", root=tmp_path)
    assert [child for child in (tmp_path / "x").iterdir() if child.is_dir()] == []
