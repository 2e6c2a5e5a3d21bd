"""A capture while it is written: shard by shard, resumable, by one process or many.

    <folder>/.lock                   who writes; held by rank 0
    <folder>/plan.json               which rows make up which shard; joined processes hold it
    <folder>/journal-<rank>.jsonl    the shards that are finished
    <folder>/shard-00000.safetensors ...
    <folder>/capture.json            what was recorded
    <folder>/manifest.json           hashes of shards and capture.json, last; a folder that has it
                                     is sealed, and plan and journals are gone

What a sealed folder holds depends on the capture only: not on how often it was killed, on how many
processes wrote it, or on when.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from activation_analysis.errors import StoreError
from activation_analysis.store import journals
from activation_analysis.store.content import CaptureContent, read_content, seal_folder
from activation_analysis.store.identity import capture_key, refuse_link, refuse_other
from activation_analysis.store.locks import only_writer
from activation_analysis.store.manifests import MANIFEST, PARTIAL
from activation_analysis.store.plans import PLAN, Plan, joined_plan, read_plan, write_plan
from activation_analysis.store.shards import (
    SHARD_NAME,
    address_of,
    read_entry,
    shard_name,
    write_shard,
)
from activation_analysis.store.space import full_disk_named

Said = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@contextmanager
def open_capture(
    folder: str | os.PathLike[str],
    defining: Mapping[str, object],
    *,
    plan: Plan | Callable[[], Plan],
    said: Said = _silent,
    wait: bool = True,
) -> Iterator[CaptureWriter]:
    """Begin a capture, or go on with it, as its only writer (rank 0 of a distributed run).

    Parameters
    ----------
    folder : where it lies, ``capture_folder(capture_key(defining))``
    defining : everything that defines the values (see `capture_key`)
    plan : ``{"shards": [[row, ...], ...], ...}`` or a function that returns it
        The rows of each shard; each row from 0 on once. The plan of an earlier, killed process
        takes its place, so that its shards can be kept. Further entries come back as they are.
    said : is told what a user should know, a line at a time
    wait : wait for another process that writes this capture, rather than refuse

    Returns
    -------
    a context manager that yields the CaptureWriter; ``complete`` if nothing is left to do

    Raises
    ------
    StoreError
        If the folder holds another capture, is damaged, or is being written (``wait=False``);
        if the disk is full.
    """
    folder, key = Path(folder), capture_key(defining)
    refuse_link(folder)
    if _is_sealed(folder) and not _scaffold(folder):
        yield _complete(folder, key)
        return
    with only_writer(folder, said=said, wait=wait):
        if _is_sealed(folder):
            writer = _complete(folder, key)
            _remove(_scaffold(folder))  # its writer was killed just before it would have
            yield writer
            return
        with full_disk_named(folder):
            _remove(file for file in _scaffold(folder) if file.name.endswith(PARTIAL))
            agreed = read_plan(folder, key, said)
            if agreed is None:
                _remove([*journals.journals(folder), *_shards(folder)])  # of another plan
                agreed = write_plan(folder, plan() if callable(plan) else plan, key, defining)
            writer = CaptureWriter(folder, key, defining, agreed, rank=0)
            writer.keep_undamaged(said)
        yield writer


@contextmanager
def join_capture(
    folder: str | os.PathLike[str], defining: Mapping[str, object], *, rank: int
) -> Iterator[CaptureWriter]:
    """Write shards of a capture that rank 0 of the same distributed run holds open.

    Each process writes shards of its own (which ones is the caller's to divide) and has a journal
    of its own. While one is left of a run whose rank 0 was killed, no other run goes on.

    Raises
    ------
    StoreError
        If rank 0 has not opened this capture.
    """
    folder, key = Path(folder), capture_key(defining)
    refuse_link(folder)
    if type(rank) is not int or rank < 1:
        raise StoreError(f"rank {rank!r} cannot join a capture; ranks 1, 2, ... do, 0 opens it")
    if not (folder / PLAN).exists():
        if not _is_sealed(folder):
            raise StoreError(
                f"no capture is open in {folder}; rank 0 opens it before other ranks join"
            )
        yield _complete(folder, key)
        return
    with joined_plan(folder, key) as plan:
        yield CaptureWriter(folder, key, defining, plan, rank=rank)


class CaptureWriter:
    """One process's hand in a capture; `open_capture` and `join_capture` make it.

    Attributes
    ----------
    folder : Path
    plan : as it was stored when the capture began; of a complete one, its shards only
    complete : True once the capture is sealed
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        defining: Mapping[str, object],
        plan: Plan,
        *,
        rank: int,
        complete: bool = False,
    ) -> None:
        self.folder, self.plan, self.complete = folder, plan, complete
        self._key, self._defining, self._rank = key, defining, rank
        self._entries: dict[int, dict[str, Any]] = {}
        self._read: dict[Path, int] = {}  # how far each journal was read

    @property
    def n_shards(self) -> int:
        return len(self.plan["shards"])

    @property
    def finished(self) -> frozenset[int]:
        """The shards that any process has written, as of now."""
        if self.complete:
            return frozenset(range(self.n_shards))
        for file in journals.journals(self.folder):
            entries, self._read[file] = journals.read_from(file, self._read.get(file, 0))
            self._entries |= {e["shard"]: e for e in entries if e["shard"] in range(self.n_shards)}
        return frozenset(i for i, entry in self._entries.items() if self._is_there(i, entry))

    def write_shard(self, i: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Write one shard, durably, and note it as finished.

        Parameters
        ----------
        i : which of ``plan["shards"]``
        tensors : ``tensor_name(position, site, layer)`` -> (n_rows, width) float32
            One row per row of the shard, in the plan's order; at the position ``all`` one per
            token, the rows' tokens one after another.

        Raises
        ------
        StoreError
            If the shard is not of the plan or was written before, a tensor does not fit it, or
            the disk is full; the shards before it are kept.
        """
        self._refuse_misfit(i, tensors)
        file = self.folder / shard_name(i)
        with full_disk_named(self.folder, sum(t.nbytes for t in tensors.values())):
            entry = {"shard": i, **write_shard(file, tensors)}
            journals.append(journals.journal_file(self.folder, self._rank), entry)
        self._entries[i] = entry

    def seal(self, content: CaptureContent) -> None:
        """Write capture.json and, last, the manifest; then plan and journals go.

        Raises
        ------
        StoreError
            If a shard is unfinished, or ``content`` does not describe what was written.
        """
        if self.complete or self._rank != 0:
            raise StoreError(
                f"only the process that opened an unsealed capture seals it, once "
                f"({self.folder}, rank {self._rank})"
            )
        missing = sorted(set(range(self.n_shards)) - self.finished)
        if missing:
            raise StoreError(
                f"{len(missing)} of {self.n_shards} shards of {self.folder} are not "
                f"finished (first: {missing[0]}); write them before sealing"
            )
        entries = [
            {k: v for k, v in self._entries[i].items() if k != "shard"}
            for i in range(self.n_shards)
        ]
        with full_disk_named(self.folder):
            seal_folder(
                self.folder,
                content,
                self.plan["shards"],
                entries,
                key=self._key,
                defining=self._defining,
            )
        _remove(_scaffold(self.folder))
        self.complete = True

    def keep_undamaged(self, said: Said) -> None:
        """Read what an earlier process finished, once; what is damaged will be written again."""
        kept = []
        self.finished  # noqa: B018  reads the journals
        for i, entry in sorted(self._entries.items()):
            file = self.folder / shard_name(i)
            try:
                is_whole = {"shard": i, **read_entry(file)} == entry
            except (StoreError, OSError):
                is_whole = False
            if is_whole and not file.is_symlink():
                kept.append(entry)
            else:
                said(f"{file} is missing or damaged since it was finished; it is recorded again")
        old = journals.journals(self.folder)
        first = journals.journal_file(self.folder, 0)
        if old:
            journals.rewrite(first, kept)
            _remove([file for file in old if file != first])
        self._entries, self._read = {entry["shard"]: entry for entry in kept}, {}

    def _is_there(self, i: int, entry: Mapping[str, Any]) -> bool:
        file = self.folder / shard_name(i)
        return not file.is_symlink() and file.is_file() and file.stat().st_size == entry["bytes"]

    def _refuse_misfit(self, i: int, tensors: Mapping[str, np.ndarray]) -> None:
        if self.complete:
            raise StoreError(f"{self.folder} is sealed; nothing is added to it")
        if i not in range(self.n_shards):
            raise StoreError(f"no shard {i!r} in a plan of {self.n_shards}")
        if i in self._entries and self._is_there(i, self._entries[i]):
            raise StoreError(f"shard {i} of {self.folder} is finished; it is not written twice")
        n_rows = len(self.plan["shards"][i])
        for name, values in tensors.items():
            if address_of(name)[0] != "all" and len(values) != n_rows:
                raise StoreError(
                    f"{name} has {len(values)} rows; shard {i} holds {n_rows} rows of the plan"
                )


def _is_sealed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _scaffold(folder: Path) -> list[Path]:
    """What lies in the folder only until it is sealed, the plan last."""
    partials = sorted(f for f in folder.iterdir() if f.name.endswith(PARTIAL))
    plan = [folder / PLAN] if (folder / PLAN).exists() else []
    return [*partials, *journals.journals(folder), *plan]


def _shards(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if SHARD_NAME.fullmatch(file.name)]


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _complete(folder: Path, key: str) -> CaptureWriter:
    content = read_content(folder)
    refuse_other(folder, content["key"], key)
    shards = {"shards": content["shards"]}
    return CaptureWriter(folder, key, content["defining"], shards, rank=0, complete=True)
