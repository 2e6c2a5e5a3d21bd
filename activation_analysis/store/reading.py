"""A sealed capture as a recording whose layers are read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from activation_analysis.activations import Activations, RaggedActivations
from activation_analysis.errors import StoreError
from activation_analysis.store.content import ALL, SealedCapture, open_sealed
from activation_analysis.store.manifests import check_manifest
from activation_analysis.store.shards import StoredTensor, address_of, mapped, shard_name

VERIFY = ("read", "all")


@dataclass(frozen=True)
class RowPlaces:
    """Where the rows of a matrix lie: in which shard, and in which row of its tensors."""

    shard: np.ndarray  # (n_rows,)
    row: np.ndarray  # (n_rows,)

    def of(self, rows: np.ndarray) -> RowPlaces:
        return RowPlaces(self.shard[rows], self.row[rows])


@dataclass(frozen=True)
class StoredPart:
    """One shard's rows of a layer, verified the first time that they are read whole."""

    file: Path
    name: str
    tensor: StoredTensor
    digest: str
    verified: set[str] = field(repr=False)  # names of the shard's tensors that were

    def read(self, *, sparsely: bool) -> np.ndarray:
        """The part as a view of its file, (n_rows, width)."""
        if not sparsely:
            self.verify()
        return mapped(self.file, self.tensor, sparsely=sparsely)

    def verify(self) -> None:
        if self.name in self.verified:
            return
        values = mapped(self.file, self.tensor)
        seen = values.reshape(-1).view(np.uint8).data if values.size else b""
        if hashlib.sha256(seen).hexdigest() != self.digest:
            raise StoreError(
                f"{self.file} is damaged: the bytes of {self.name} changed since they were "
                f"written (SHA-256 differs); record the capture again"
            )
        self.verified.add(self.name)


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """One layer of a stored recording, (n_rows, width), read when it is indexed.

    ``matrix[rows]``, ``matrix[rows, columns]`` and ``np.asarray(matrix)`` answer as an array
    would. Rows in full width are verified: the first time, all bytes of the layer in the shards
    that hold them are hashed. A block of columns (``matrix[:, 100:200]``) reads these columns'
    pages only and is therefore not verified; call ``matrix.verify()`` once before many of them.

    Raises
    ------
    StoreError
        When a file turns out to be gone, truncated or altered; it is named, and the tensor.
    """

    parts: Sequence[StoredPart]  # one per shard
    places: RowPlaces
    dtype: np.dtype
    width: int

    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    @property
    def size(self) -> int:
        return len(self) * self.width

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.places.shard)

    def of_rows(self, rows: np.ndarray) -> StoredMatrix:
        """Some of the rows, in the order given, as a stored matrix: nothing is read."""
        return replace(self, places=self.places.of(rows))

    def verify(self) -> None:
        """Hash every byte of the layer that was not hashed before."""
        for i in np.unique(self.places.shard):
            self.parts[i].verify()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored matrix is read into a new array; copy=False cannot be")
        return self._block(np.arange(len(self)), slice(None)).astype(
            self.dtype if dtype is None else dtype, copy=False
        )

    def __getitem__(self, key) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        if any(
            part is None or part is Ellipsis or isinstance(part, tuple) for part in (rows, columns)
        ):
            return np.asarray(self)[key]
        wanted = np.arange(len(self))[rows]
        chosen = np.arange(self.width)[columns]
        if isinstance(columns, slice):
            return self._block(wanted.ravel(), columns).reshape(*wanted.shape, len(chosen))
        if isinstance(rows, slice):
            wanted = wanted.reshape(-1, *[1] * chosen.ndim)
        wanted, chosen = np.broadcast_arrays(wanted, chosen)
        return self._pairs(wanted.ravel(), chosen.ravel()).reshape(wanted.shape)[()]

    def _block(self, rows: np.ndarray, columns: slice) -> np.ndarray:
        """The rows, each with the same columns, (len(rows), n_columns)."""
        n_columns = len(range(self.width)[columns])
        out = np.empty((len(rows), n_columns), self.dtype)
        for i, here in self._by_shard(rows):
            part = self.parts[i].read(sparsely=n_columns < self.width)
            out[here] = part[self.places.row[rows[here]], columns]
        return out

    def _pairs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """One value per row and column of a pair, (n_pairs,)."""
        out = np.empty(len(rows), self.dtype)
        for i, here in self._by_shard(rows):
            part = self.parts[i].read(sparsely=True)
            out[here] = part[self.places.row[rows[here]], columns[here]]
        return out

    def _by_shard(self, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Shard -> places in ``rows`` that it holds."""
        shards = self.places.shard[rows]
        order = np.argsort(shards, kind="stable")
        held, first = np.unique(shards[order], return_index=True)
        return (
            list(zip(held.tolist(), np.split(order, first[1:]), strict=True)) if len(held) else []
        )


def open_recording(
    folder: str | os.PathLike[str], position: str | None = None, *, verify: str = "read"
) -> Activations | RaggedActivations:
    """A stored recording whose ``values[site][layer]`` are StoredMatrix, in the prompts' order.

    Opening reads the JSON files and the headers of the shards; a missing or truncated file is
    found at once.

    Parameters
    ----------
    folder : a sealed capture, saved recording, or the ``activations`` folder of a tracked run
    position : which of its positions; may be left out if there is one. ``all``: every token.
    verify : "read" hashes a layer when it is first read, "all" everything now

    Raises
    ------
    StoreError
        If the folder is unfinished or damaged, or has no such position.
    """
    if verify not in VERIFY:
        raise StoreError(f"verify={verify!r}; known: {', '.join(VERIFY)}")
    folder = Path(folder)
    if verify == "all":
        check_manifest(folder)
    capture = open_sealed(folder)
    position = _one_position(capture, position)
    said = capture.content
    rows = np.array(said["row_of_prompt"], dtype=np.int64)
    counts = np.array(said["n_kept"] if position == ALL else [1] * _n_rows(capture), np.int64)
    values = _values(capture, position, _places(said["shards"], counts, rows))
    shared = {
        "prompts": tuple(said["prompts"]),
        "n_tokens": np.array(said["n_tokens"], dtype=np.int64),
        "model": said["model"],
        "n_layers": said["n_layers"],
        "values": values,
        "details": said["details"],
    }
    if position != ALL:
        return Activations(position=position, **shared)
    offsets = [np.array(o, dtype=np.int64).reshape(-1, 2) for o in said["offsets"]]
    return RaggedActivations(
        tokens=tuple(tuple(said["tokens"][row]) for row in rows),
        offsets=tuple(offsets[row] for row in rows),
        start=np.concatenate([[0], np.cumsum(counts[rows])]).astype(np.int64),
        **shared,
    )


def verify_capture(folder: str | os.PathLike[str]) -> None:
    """Read every byte of a sealed capture.

    Raises
    ------
    StoreError
        That names every file that is missing, truncated or altered.
    """
    check_manifest(Path(folder))
    open_sealed(Path(folder))


def _one_position(capture: SealedCapture, position: str | None) -> str:
    known = capture.content["positions"]
    if position is None and len(known) == 1:
        return known[0]
    if position not in known:
        asked = "name one of its positions" if position is None else f"no position {position!r}"
        raise StoreError(f"{capture.folder}: {asked}; recorded: {', '.join(known)}")
    return position


def _n_rows(capture: SealedCapture) -> int:
    return sum(map(len, capture.content["shards"]))


def _places(shards: Sequence[Sequence[int]], counts: np.ndarray, rows: np.ndarray) -> RowPlaces:
    """Where the lines of ``rows`` lie, if stored row i has ``counts[i]`` lines in its shard."""
    shard, first = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    for i, stored in enumerate(shards):
        here = np.array(stored, dtype=np.int64)
        shard[here] = i
        first[here] = np.cumsum(counts[here]) - counts[here]
    n = counts[rows]
    line_in_row = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    return RowPlaces(np.repeat(shard[rows], n), np.repeat(first[rows], n) + line_in_row)


def _values(
    capture: SealedCapture, position: str, places: RowPlaces
) -> dict[str, dict[int, StoredMatrix]]:
    verified: list[set[str]] = [set() for _ in capture.headers]
    values: dict[str, dict[int, StoredMatrix]] = {site: {} for site in capture.content["sites"]}
    first = capture.headers[0] if capture.headers else {}
    for name in sorted(first):
        stored_at, site, layer = address_of(name)
        if stored_at != position:
            continue
        parts = [
            StoredPart(capture.folder / shard_name(i), name, header[name], digests[name], seen)
            for i, (header, digests, seen) in enumerate(
                zip(capture.headers, capture.digests, verified, strict=True)
            )
        ]
        values[site][layer] = StoredMatrix(parts, places, first[name].dtype, first[name].shape[1])
    return {site: dict(sorted(layers.items())) for site, layers in values.items()}
