"""A recording in memory as a folder of its own, and back; copies of such folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from activation_analysis.activations import Activations, RaggedActivations
from activation_analysis.errors import StoreError
from activation_analysis.store.content import CaptureContent, open_sealed, seal_folder
from activation_analysis.store.manifests import (
    MANIFEST,
    read_manifest,
    refuse_damaged,
    sha256,
    sync_folder,
    whole_file,
)
from activation_analysis.store.reading import open_recording
from activation_analysis.store.shards import SHARD_NAME, shard_name, tensor_name, write_shard

SHARD_BYTES = 1 << 28  # aimed at by `write_activations`; one row may take more
CHUNK = 1 << 24


def write_activations(folder: Path, activations: Activations | RaggedActivations) -> None:
    """Write one recording into a new folder, a sealed capture of its own.

    A stored recording is read shard by shard and written again: the new folder stands alone.

    Raises
    ------
    StoreError
        If a position, site or dtype cannot be stored.
    OSError
        As the file system says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    start = _starts(activations)
    shards = list(_row_groups(activations, start))
    entries = []
    for i, rows in enumerate(shards):
        lines = slice(int(start[rows.start]), int(start[rows.stop]))
        tensors = {
            tensor_name(activations.position, site, layer): np.asarray(values[lines])
            for site, layers in activations.values.items()
            for layer, values in layers.items()
        }
        entries.append(write_shard(folder / shard_name(i), tensors))
    seal_folder(folder, _content(activations), shards, entries)


def _clear(folder: Path) -> None:
    """Make a sealed folder an unfinished one before its shards are replaced."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for file in folder.iterdir():
        if SHARD_NAME.fullmatch(file.name):
            file.unlink()


def _starts(activations: Activations | RaggedActivations) -> np.ndarray:
    """The line at which each prompt begins, and the end, (n_prompts + 1,)."""
    if isinstance(activations, RaggedActivations):
        return activations.start
    return np.arange(len(activations) + 1)


def _row_groups(activations: Activations | RaggedActivations, start: np.ndarray) -> Iterator[range]:
    """Prompts that share a shard; one empty group where there are none."""
    layers = [values for site in activations.values.values() for values in site.values()]
    bytes_per_line = max(sum(v.shape[1] * v.dtype.itemsize for v in layers), 1)
    first = 0
    while True:
        most = start[first] + SHARD_BYTES // bytes_per_line
        end = max(int(np.searchsorted(start, most, side="right")) - 1, first + 1)
        end = min(end, len(activations))
        yield range(first, end)
        first = end
        if first >= len(activations):
            return


def _content(activations: Activations | RaggedActivations) -> CaptureContent:
    content = CaptureContent(
        prompts=activations.prompts,
        n_tokens=activations.n_tokens,
        row_of_prompt=range(len(activations)),
        positions=(activations.position,),
        sites=activations.sites,
        model=activations.model,
        n_layers=activations.n_layers,
        details=dict(activations.details),
    )
    if not isinstance(activations, RaggedActivations):
        return content
    return replace(content, tokens=activations.tokens, offsets=activations.offsets)


def read_activations(folder: Path, position: str | None = None) -> Activations | RaggedActivations:
    """Read one recording into memory, every file checked against the manifest.

    Raises
    ------
    StoreError
        If the folder is unfinished or a file is missing, truncated or altered; each is named.
    """
    stored = open_recording(folder, position, verify="all")
    values = {s: {k: np.asarray(v) for k, v in ls.items()} for s, ls in stored.values.items()}
    return replace(stored, values=values)


def copy_capture(source: Path, target: Path) -> Path:
    """Copy a sealed capture into a new folder, verified on the way, and return that.

    Raises
    ------
    StoreError
        If ``target`` is there, or a file of ``source`` is missing, truncated or altered.
    OSError
        As the file system says; nothing of the copy is left then.
    """
    source, target = Path(source), Path(target)
    if target.is_symlink() or (target.exists() and any(target.iterdir())):
        raise StoreError(f"{target} is there already; copy the capture into a new folder")
    open_sealed(source)
    listed = read_manifest(source)["files"]
    target.mkdir(parents=True, exist_ok=True)
    copied: list[Path] = []
    problems = []
    try:
        for name in [*listed, MANIFEST]:
            copied.append(target / name)
            digest = _copied(source / name, target / name)
            if name != MANIFEST and digest != listed[name]["sha256"]:
                problems.append(f"{name}: its bytes changed since it was written (SHA-256 differs)")
            if name == [*listed][-1]:
                refuse_damaged(source, problems)
    except BaseException:
        for file in copied:
            file.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return target


def _copied(source: Path, target: Path) -> str:
    """The SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as read, whole_file(target) as written:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest()


def digest(folder: str | os.PathLike[str]) -> str:
    """The SHA-256 of a sealed capture's manifest, which covers every byte of the capture."""
    read_manifest(Path(folder))
    return sha256(Path(folder) / MANIFEST)
