"""Captures on disk: equal when read back, damage named, nothing outside of the store."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from activation_analysis.activations import Activations
from activation_analysis.errors import StoreError
from activation_analysis.store import (
    DataStore,
    check_manifest,
    content,
    experiments,
    manifests,
    read_activations,
    write_activations,
    write_json,
    write_manifest,
)

TRAVERSALS = [
    "", ".", "..", "/", "../x", "x/../y", "x/y", "/etc/passwd", "~", "~root", "-x", ".hidden",
    "x\\y", "..\\x", "C:\\x", "x\x00y", "x\n", "\nx", "x y", "x;y", "$HOME", "`id`", "x*", "x?",
    "é", "ｘ", "x\u202ey", "%2e%2e", "a" * 101, " x", "x/", "./x", "file://x", "x:y", "|x", "x&y",
]  # fmt: skip


def recording(seed: int = 0, **changes) -> Activations:
    rng = np.random.default_rng(seed)
    prompts = ("The sea is", "二つ", "line\u2028break", '"quoted", $x_{$', "NA")
    values = {
        site: {k: rng.normal(size=(5, width)).astype(np.float32) for k in (11, 0, 103)}
        for site, width in (("residual", 4), ("neuron", 9))
    }
    return Activations(
        **{
            "prompts": prompts,
            "n_tokens": rng.integers(1, 50, 5),
            "position": "mean",
            "model": "org/tiny",
            "n_layers": 200,
            "values": values,
            "details": {"dtype": "float32", "revision": "abc"},
            **changes,
        }
    )


@pytest.fixture
def data() -> dict[str, Activations]:
    return {"positive": recording(1), "../negative / neutral": recording(2)}


def test_what_is_saved_comes_back_equal(data, tmp_path):
    folder = DataStore.save_experiment(data, "emotion_analysis", root=tmp_path)
    assert folder == tmp_path / "emotion_analysis"
    loaded = DataStore.load_experiment("emotion_analysis", root=tmp_path)
    assert loaded == data
    assert list(loaded) == list(data)
    assert loaded["positive"].matrix("neuron").dtype == np.float32
    assert loaded["positive"].prompts == data["positive"].prompts


@pytest.mark.parametrize(
    "values",
    [
        {"mlp": {0: np.full((5, 2), np.nan, np.float32)}},
        {"mlp": {0: np.array([[np.inf, -np.inf, -0.0, 1e-45, 3e38]] * 5, np.float32)}},
        {"mlp": {0: np.ones((5, 3), np.float32)[:, ::-1]}},  # not contiguous
        {"mlp": {0: np.ones((3, 5), np.float32).T}},  # Fortran order
        {"mlp": {0: np.ones((5, 0), np.float32)}},
        {},
    ],
)
def test_unusual_values_come_back_equal(values, tmp_path):
    write_activations(tmp_path / "one", recording(values=values))
    assert read_activations(tmp_path / "one") == recording(values=values)


def test_a_recording_without_prompts_comes_back(tmp_path):
    DataStore.save_experiment({"none": recording().rows([])}, "empty", root=tmp_path)
    assert len(DataStore.load_experiment("empty", root=tmp_path)["none"]) == 0
    DataStore.save_experiment({}, "nothing", root=tmp_path)
    assert DataStore.load_experiment("nothing", root=tmp_path) == {}


def test_a_capture_goes_through_the_store(tiny_gpt2, tmp_path):
    from activation_analysis.models.capture import ActivationCapture

    model, tokenizer = tiny_gpt2
    capture = ActivationCapture(model, tokenizer=tokenizer, progress=False)
    data = {"a": capture.capture_batch(["The sea", "two"]), "b": capture.capture_batch(["NA"])}
    DataStore.save_experiment(data, "tiny", root=tmp_path)
    assert DataStore.load_experiment("tiny", root=tmp_path) == data


def test_the_default_place_is_the_workspace(data, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "runs_folder", lambda: tmp_path / "mlruns")
    folder = DataStore.save_experiment(data, "emotion")
    assert folder == tmp_path / "mlruns" / "store" / "emotion"
    assert DataStore.load_experiment("emotion") == data


# Damage


def files_below(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != ".lock")


def damage(file: Path, rng: np.random.Generator, kind: str) -> None:
    content = bytearray(file.read_bytes())
    place = int(rng.integers(len(content)))
    if kind == "truncated":
        content = content[:place]
    else:
        content[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_is_found_and_named(kind, seed, tmp_path):
    DataStore.save_experiment({"a": recording(1), "b": recording(2)}, "x", root=tmp_path)
    rng = np.random.default_rng(seed)
    files = files_below(tmp_path / "x")
    damaged = files[seed % len(files)]
    damage(damaged, rng, kind)
    with pytest.raises(StoreError) as refusal:
        DataStore.load_experiment("x", root=tmp_path)
    assert damaged.name in str(refusal.value)
    assert damaged.parent.name in str(refusal.value)


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
@pytest.mark.parametrize("seed", range(40))
def test_damage_in_one_recording_is_found_and_named(kind, seed, tmp_path):
    write_activations(tmp_path / "one", recording())
    rng = np.random.default_rng(seed)
    files = files_below(tmp_path / "one")
    damaged = files[seed % len(files)]
    damage(damaged, rng, kind)
    with pytest.raises(StoreError, match=damaged.name):
        read_activations(tmp_path / "one")


def test_every_damaged_file_is_listed(tmp_path):
    write_activations(tmp_path / "one", recording())
    (tmp_path / "one" / "capture.json").unlink()
    with (tmp_path / "one" / "shard-00000.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(StoreError) as refusal:
        read_activations(tmp_path / "one")
    lines = str(refusal.value).splitlines()
    assert lines[1] == "capture.json: missing"
    assert lines[2].startswith("shard-00000.safetensors: ")
    assert lines[2].endswith("(truncated?)")


def test_a_recording_without_its_manifest_is_unfinished(tmp_path):
    write_activations(tmp_path / "one", recording())
    (tmp_path / "one" / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds no manifest\.json: the capture is missing or un"):
        read_activations(tmp_path / "one")
    with pytest.raises(StoreError, match="missing or unfinished"):
        read_activations(tmp_path / "two")


def test_a_condition_that_was_removed_is_named(data, tmp_path):
    folder = DataStore.save_experiment(data, "x", root=tmp_path)
    gone = next(child for child in sorted(folder.iterdir()) if child.is_dir())
    shutil.rmtree(gone)
    with pytest.raises(StoreError, match=f"{gone.name}.* is missing"):
        DataStore.load_experiment("x", root=tmp_path)


def test_conditions_that_were_swapped_are_found(data, tmp_path):
    folder = DataStore.save_experiment(data, "x", root=tmp_path)
    first, second = sorted(child for child in folder.iterdir() if child.is_dir())
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    with pytest.raises(StoreError, match=r"manifest\.json is missing or its bytes changed"):
        DataStore.load_experiment("x", root=tmp_path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "FORMAT", 99)
    write_activations(tmp_path / "one", recording())
    monkeypatch.undo()
    with pytest.raises(StoreError, match="written in format 99, this version reads 2"):
        read_activations(tmp_path / "one")


# Names and links


@pytest.mark.parametrize("name", [*TRAVERSALS, None, 7, Path("x")])
def test_names_that_could_leave_the_store_are_refused(name, data, tmp_path):
    root = tmp_path / "a" / "store"
    with pytest.raises(StoreError, match="cannot name a saved experiment"):
        DataStore.save_experiment(data, name, root=root)
    with pytest.raises(StoreError, match="cannot name a saved experiment"):
        DataStore.load_experiment(name, root=root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "condition", ["../../x", "/etc/passwd", "", "a\x00b", "é\u202e", "x" * 999]
)
def test_a_condition_is_text_and_never_a_path(condition, tmp_path):
    root = tmp_path / "a" / "store"
    folder = DataStore.save_experiment({condition: recording()}, "x", root=root)
    assert list(DataStore.load_experiment("x", root=root)) == [condition]
    assert [f for f in files_below(tmp_path) if not f.is_relative_to(folder)] == []


def test_a_link_out_of_the_store_is_refused(data, tmp_path):
    DataStore.save_experiment(data, "real", root=tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x").symlink_to(tmp_path / "elsewhere" / "real")
    for attempt in (
        lambda: DataStore.load_experiment("x", root=tmp_path / "store"),
        lambda: DataStore.save_experiment(data, "x", root=tmp_path / "store"),
    ):
        with pytest.raises(StoreError, match="is a symbolic link"):
            attempt()


def test_a_linked_file_or_folder_inside_is_refused(data, tmp_path):
    outside = tmp_path / "outside"
    write_activations(outside, recording())
    folder = DataStore.save_experiment(data, "x", root=tmp_path)
    inner = next(child for child in sorted(folder.iterdir()) if child.is_dir())
    file = inner / "shard-00000.safetensors"
    file.rename(outside / "moved.safetensors")
    file.symlink_to(outside / "moved.safetensors")
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: leaves the folder"):
        DataStore.load_experiment("x", root=tmp_path)
    shutil.copytree(inner, tmp_path / "copy", symlinks=False)
    shutil.rmtree(inner)
    inner.symlink_to(tmp_path / "copy")
    with pytest.raises(StoreError, match="names a folder outside of"):
        DataStore.load_experiment("x", root=tmp_path)


@pytest.mark.parametrize("place", ["../outside", "/outside", "..", "x/../../outside"])
def test_an_index_that_points_elsewhere_is_refused(place, tmp_path):
    write_activations(tmp_path / "outside", recording())
    folder = tmp_path / "store" / "x"
    folder.mkdir(parents=True)
    manifest = manifests.sha256(tmp_path / "outside" / "manifest.json")
    entry = {"condition": "a", "folder": place, "manifest": manifest}
    manifests.write_checked(folder / "conditions.json", {"format": 1, "conditions": [entry]})
    with pytest.raises(StoreError, match="names a folder outside of"):
        DataStore.load_experiment("x", root=tmp_path / "store")


@pytest.mark.parametrize("site", ["../secret", "/secret", "secret"])
def test_a_site_that_points_elsewhere_is_refused(site, tmp_path):
    folder = tmp_path / "one"
    write_activations(folder, recording())
    safetensors.numpy.save_file({"layer_000": np.ones((5, 2))}, tmp_path / "secret.safetensors")
    capture = json.loads((folder / "capture.json").read_text())
    write_json(folder / "capture.json", {**capture, "sites": [site]})
    listed = {k: v for k, v in manifests.read_manifest(folder).items() if k != "checksum"}
    listed["files"]["capture.json"] = manifests.stated_of(folder / "capture.json")
    manifests.write_checked(folder / "manifest.json", listed)
    with pytest.raises(StoreError, match=r"names the site .* which was not stored"):
        read_activations(folder)


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "one").mkdir()
    manifests.write_checked(
        tmp_path / "one" / "manifest.json", {"files": {"../secret": {"bytes": 6, "sha256": ""}}}
    )
    with pytest.raises(StoreError, match=r"\.\./secret: leaves the folder"):
        check_manifest(tmp_path / "one")


# Replacing


def test_an_experiment_is_replaced_whole(data, tmp_path):
    DataStore.save_experiment(data, "x", root=tmp_path)
    before = len(files_below(tmp_path))
    newer = {"other": recording(7)}
    DataStore.save_experiment(newer, "x", root=tmp_path)
    assert DataStore.load_experiment("x", root=tmp_path) == newer
    assert len(files_below(tmp_path)) < before  # the old one is gone


@pytest.mark.parametrize("n_writes", range(13))
def test_a_save_that_fails_leaves_the_old_experiment(n_writes, data, tmp_path, monkeypatch):
    """The disk fills up at each of the files in turn, and at each of their names."""
    DataStore.save_experiment(data, "x", root=tmp_path)
    before = files_below(tmp_path)
    left = iter(range(n_writes))
    real_fsync = os.fsync

    def full(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    newer = {"a": recording(7), "b": recording(8)}
    with pytest.raises(StoreError, match="No space left on device; it takes 0 MB, and what was"):
        DataStore.save_experiment(newer, "x", root=tmp_path)
    assert DataStore.load_experiment("x", root=tmp_path) == data
    assert files_below(tmp_path) == before


def test_a_save_that_fails_at_its_last_step_is_the_new_experiment_whole(
    data, tmp_path, monkeypatch
):
    """conditions.json is in place, but the folder's names cannot be made durable."""
    DataStore.save_experiment(data, "x", root=tmp_path)
    real_fsync, left = os.fsync, iter(range(13))

    def failing(descriptor):
        if next(left, None) is None:
            raise OSError(errno.EIO, "Input/output error")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    newer = {"a": recording(7), "b": recording(8)}
    with pytest.raises(StoreError, match="Input/output error"):
        DataStore.save_experiment(newer, "x", root=tmp_path)
    assert DataStore.load_experiment("x", root=tmp_path) == newer


class Killed(BaseException):
    """Nothing in the store catches this, as nothing catches kill -9."""


@pytest.mark.parametrize("n_writes", range(15))
def test_a_process_killed_in_a_save_leaves_the_old_or_the_new(n_writes, data, tmp_path):
    DataStore.save_experiment(data, "x", root=tmp_path)
    newer = {"a": recording(7), "b": recording(8)}
    left = iter(range(n_writes))

    def dying(real):
        def step(*args):
            if next(left, None) is None:
                raise Killed
            return real(*args)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for room, step in ((os, "fsync"), (experiments, "_remove")):
            patch.setattr(room, step, dying(getattr(room, step)))
        with pytest.raises(Killed):
            DataStore.save_experiment(newer, "x", root=tmp_path)
    assert DataStore.load_experiment("x", root=tmp_path) == (newer if n_writes >= 13 else data)
    DataStore.save_experiment(newer, "x", root=tmp_path)  # and what it left behind is cleared
    assert DataStore.load_experiment("x", root=tmp_path) == newer
    assert len([child for child in (tmp_path / "x").iterdir() if child.is_dir()]) == len(newer)


def test_readers_see_one_experiment_while_writers_replace_it(tmp_path):
    choices = [{"a": recording(n), "b": recording(n)} for n in range(3)]
    DataStore.save_experiment(choices[0], "x", root=tmp_path)

    def save_often(data):
        for _ in range(10):
            DataStore.save_experiment(data, "x", root=tmp_path)

    def load_often():
        return all(DataStore.load_experiment("x", root=tmp_path) in choices for _ in range(10))

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(save_often, data) for data in choices]
        readers = [pool.submit(load_often) for _ in range(3)]
        assert all(reader.result() for reader in readers)
        assert [writer.result() for writer in writers] == [None] * 3


# Refusals


def test_an_unknown_name_lists_the_known(data, tmp_path):
    with pytest.raises(StoreError, match=r"no saved experiment 'x' in .*; known: none yet"):
        DataStore.load_experiment("x", root=tmp_path)
    for name in ("emotion", "arithmetic"):
        DataStore.save_experiment(data, name, root=tmp_path)
    with pytest.raises(StoreError, match=r"no saved experiment 'x' .*; known: arithmetic, emotion"):
        DataStore.load_experiment("x", root=tmp_path)


@pytest.mark.parametrize("value", [np.ones((3, 2)), {"mlp": 1}, None, "text"])
def test_what_is_no_recording_is_refused(value, tmp_path):
    with pytest.raises(StoreError, match=r"condition 'a' is a .*; save what ActivationCapture"):
        DataStore.save_experiment({"a": value}, "x", root=tmp_path)
    assert files_below(tmp_path) == []


def test_a_condition_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(StoreError, match="condition 7 is a int, not text"):
        DataStore.save_experiment({7: recording()}, "x", root=tmp_path)


# Manifests of other folders (a tracked run's)


def test_a_manifest_covers_every_file_below_and_keeps_extras(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "units.txt").write_text("x")
    file = write_manifest(tmp_path, {"run_id": "r1"})
    assert file == tmp_path / "manifest.json"
    assert json.loads(file.read_text())["run_id"] == "r1"
    assert set(check_manifest(tmp_path)) == {"tables/units.txt"}
    (tmp_path / "tables" / "units.txt").write_text("y")
    with pytest.raises(StoreError, match=r"tables/units\.txt: its bytes changed"):
        check_manifest(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": "二"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": "二"}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": "二"}
