"""One shard: some rows of every recorded layer, as one safetensors file.

    <position>/<site>/layer_000   (n_rows, width) float32, little-endian, C order

The file's bytes depend on its tensors only: names sorted, no metadata, no dates. Its entry in the
manifest holds the SHA-256 of the file, of its header and of every tensor, so that a layer can be
read and verified without touching the rest. Every byte lies in the header or in one tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from activation_analysis.activations import SITES
from activation_analysis.errors import StoreError
from activation_analysis.store.manifests import whole_file

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}
TENSOR_NAME = re.compile(rf"([^/\x00-\x1f]{{1,100}})/({'|'.join(SITES)})/layer_(\d{{3,6}})")
SHARD_NAME = re.compile(r"shard-\d{5,9}\.safetensors")
LENGTH = 8  # bytes that say how long the header is
ALIGNMENT = 64  # of the first tensor in the file
LONGEST_HEADER = 100_000_000
CHUNK = 1 << 24  # bytes read at once


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in its file."""

    dtype: np.dtype
    shape: tuple[int, int]
    start: int  # offset in the file
    n_bytes: int


def shard_name(i: int) -> str:
    return f"shard-{i:05d}.safetensors"


def tensor_name(position: str, site: str, layer: int) -> str:
    """The name of one layer's rows, ``last/mlp/layer_003``.

    Raises
    ------
    StoreError
        If the position or site cannot be part of a name.
    """
    name = f"{position}/{site}/layer_{layer:03d}"
    if not TENSOR_NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name stored activations; a position is up to 100 characters "
            f"without '/', a site is one of {', '.join(SITES)}, a layer counts from 0"
        )
    return name


def address_of(name: str) -> tuple[str, str, int]:
    """The position, site and layer that a tensor's name says; a StoreError if it says none."""
    found = TENSOR_NAME.fullmatch(name)
    if not found or tensor_name(found[1], found[2], int(found[3])) != name:
        raise StoreError(f"{name!r} is no stored layer; expected <position>/<site>/layer_000")
    return found[1], found[2], int(found[3])


def write_shard(file: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write one shard, durably and whole, and return its entry for the manifest.

    Parameters
    ----------
    file : where it will appear, once it is complete
    tensors : name -> (n_rows, width) float32 (float64 and float16 are kept as they are)

    Raises
    ------
    StoreError
        If a name, dtype or shape cannot be stored.
    OSError
        As the file system says; the unfinished file is then gone.
    """
    header = _header(tensors)
    whole, digests = hashlib.sha256(header), {}
    with whole_file(file) as stream:
        stream.write(header)
        for name in sorted(tensors):
            part = _bytes_of(tensors[name])
            stream.write(part)
            whole.update(part)
            digests[name] = hashlib.sha256(part).hexdigest()
        n_bytes = stream.tell()
    return {
        "bytes": n_bytes,
        "sha256": whole.hexdigest(),
        "header": hashlib.sha256(header).hexdigest(),
        "tensors": digests,
    }


def _header(tensors: Mapping[str, np.ndarray]) -> bytes:
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    listed, end = {}, 0
    for name in sorted(tensors):
        address_of(name)
        dtype, shape = tensors[name].dtype, tensors[name].shape
        code = codes.get(dtype.newbyteorder("<"))
        if code is None or len(shape) != 2:
            raise StoreError(
                f"{name} is {dtype} of shape {shape}; stored activations are float32, float64 "
                f"or float16, one row per prompt or token"
            )
        start, end = end, end + math.prod(shape) * dtype.itemsize
        listed[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH + len(text)) % ALIGNMENT)
    return len(text).to_bytes(LENGTH, "little") + text


def _bytes_of(values: np.ndarray) -> memoryview | bytes:
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return values.reshape(-1).view(np.uint8).data if values.size else b""


def read_header(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """Where every tensor of a shard lies, by name, and the header's SHA-256.

    Raises
    ------
    StoreError
        If the header is not that of a shard, or its tensors do not fill the file exactly.
    """
    with file.open("rb") as stream:
        header = _read_header_bytes(file, stream)
    try:
        listed = json.loads(header[LENGTH:])
        tensors = {name: _placed(stated, len(header)) for name, stated in listed.items()}
        for name in tensors:
            address_of(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file} is damaged: its header cannot be read ({error})") from error
    end = len(header)
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.n_bytes)):
        if tensor.start != end:
            raise StoreError(f"{file} is damaged: its tensors overlap or leave gaps")
        end += tensor.n_bytes
    if end != file.stat().st_size:
        size = file.stat().st_size
        raise StoreError(f"{file} is damaged: its tensors end at byte {end}, the file at {size}")
    return tensors, hashlib.sha256(header).hexdigest()


def _read_header_bytes(file: Path, stream: BinaryIO) -> bytes:
    length = stream.read(LENGTH)
    n = int.from_bytes(length, "little")
    if len(length) < LENGTH or not 2 <= n <= min(LONGEST_HEADER, file.stat().st_size - LENGTH):
        raise StoreError(f"{file} is damaged: it does not begin as a safetensors file (truncated?)")
    return length + stream.read(n)


def _placed(stated: Mapping[str, Any], n_header: int) -> StoredTensor:
    if set(stated) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("an entry that is not dtype, shape and data_offsets")
    start, end = stated["data_offsets"]
    shape, dtype = tuple(stated["shape"]), DTYPES.get(stated["dtype"])
    if dtype is None:
        raise ValueError(f"dtype {stated['dtype']!r}, not one of {', '.join(DTYPES)}")
    if len(shape) != 2 or not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise ValueError("a shape that is not two counts, or offsets that are no counts")
    if end - start != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError("a shape that does not fill its bytes")
    return StoredTensor(np.dtype(dtype), shape, n_header + start, end - start)


def read_entry(file: Path) -> dict[str, Any]:
    """The manifest's entry of a shard that lies there, from reading all of it once."""
    tensors, header_digest = read_header(file)
    with file.open("rb") as stream:
        whole = hashlib.sha256(_read_header_bytes(file, stream))
        digests = {}
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[0])):
            part = hashlib.sha256()
            for chunk in _chunks(stream, tensor.n_bytes):
                whole.update(chunk)
                part.update(chunk)
            digests[name] = part.hexdigest()
        n_bytes = stream.tell()
    return {
        "bytes": n_bytes,
        "sha256": whole.hexdigest(),
        "header": header_digest,
        "tensors": dict(sorted(digests.items())),
    }


def _chunks(stream: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes > 0 and (chunk := stream.read(min(CHUNK, n_bytes))):
        n_bytes -= len(chunk)
        yield chunk


def mapped(file: Path, tensor: StoredTensor, *, sparsely: bool = False) -> np.ndarray:
    """A stored tensor as a read-only view of its file; pages are read when they are touched.

    Parameters
    ----------
    sparsely : no page beside the touched ones is read ahead

    Raises
    ------
    StoreError
        If the file is gone or too short.
    """
    before = tensor.start % mmap.ALLOCATIONGRANULARITY
    if not tensor.n_bytes:
        return np.empty(tensor.shape, tensor.dtype)
    try:
        with file.open("rb") as stream:
            pages = mmap.mmap(
                stream.fileno(),
                before + tensor.n_bytes,
                offset=tensor.start - before,
                access=mmap.ACCESS_READ,
            )
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} is missing or was truncated ({error})") from error
    if hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM if sparsely else mmap.MADV_SEQUENTIAL)
    return np.frombuffer(pages, tensor.dtype, count=math.prod(tensor.shape), offset=before).reshape(
        tensor.shape
    )
