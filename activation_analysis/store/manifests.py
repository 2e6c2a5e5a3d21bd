"""Files that are there whole or not at all, and that say so: durable writes, checksums, manifests.

A manifest is a JSON file that lists the size and SHA-256 of every other file and is written last.
Manifests and other indexes carry a checksum of themselves, so that one altered byte is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from activation_analysis.errors import StoreError

MANIFEST = "manifest.json"
CHECKSUM = "checksum"  # of the JSON file that holds it, without this entry
PARTIAL = ".partial"  # ends the names of files that are being written


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name once it is complete and on the disk, and not before."""
    partial = file.with_name(file.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as stream:  # "x" follows no link that lies there
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as their contents."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system (some network ones) without such a thing
            raise
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def dumped(content: Any, depth: int = 0) -> str:
    """JSON with an entry of the two outer levels on each line, and the rest of it compact."""
    if depth == 2 or not isinstance(content, dict) or not content:
        return json.dumps(content, ensure_ascii=False, allow_nan=True, separators=(", ", ": "))
    indent = " " * (depth + 1)
    lines = [
        f"{indent}{json.dumps(key, ensure_ascii=False)}: {dumped(value, depth + 1)}"
        for key, value in content.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + indent[1:] + "}"


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON through a temporary file, so that a reader never sees half of it."""
    written = _encoded(content)
    with whole_file(file) as stream:
        stream.write(written)


def write_checked(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON with a checksum of itself."""
    write_json(file, {**content, CHECKSUM: hashlib.sha256(_encoded(content)).hexdigest()})


def read_checked(file: Path) -> dict[str, Any]:
    """What `write_checked` wrote, or a StoreError if one byte of it is another."""
    found = file.read_bytes()
    try:
        content = json.loads(found)
        stated = content.pop(CHECKSUM)
        whole = _encoded({**content, CHECKSUM: hashlib.sha256(_encoded(content)).hexdigest()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file} is damaged ({error}); record the capture again") from error
    if found != whole:
        raise StoreError(
            f"{file} is damaged (its checksum is {stated}, but its bytes say another); "
            f"record the capture again"
        )
    return content


def _encoded(content: Mapping[str, object]) -> bytes:
    # Half a surrogate pair, which a token may be, goes through as Python's json reads it back.
    return dumped(dict(content)).encode("utf-8", "surrogatepass")


def stated_of(file: Path) -> dict[str, object]:
    """A file's entry in a manifest."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def write_manifest(folder: Path, extra: Mapping[str, object] | None = None) -> Path:
    """List every file below ``folder`` with its size and SHA-256; the last file written."""
    files = {
        file.relative_to(folder).as_posix(): stated_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    write_checked(folder / MANIFEST, {**(extra or {}), "files": files})
    return folder / MANIFEST


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest says, by itself; the files that it lists are not looked at.

    Raises
    ------
    StoreError
        If it is missing, damaged, or lists a file outside of the folder.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise StoreError(f"{folder} holds no {MANIFEST}: the capture is missing or unfinished")
    content = read_checked(file)
    if not isinstance(content.get("files"), dict):
        raise StoreError(f"{file} lists no files; record the capture again")
    return content


def check_manifest(folder: Path) -> Mapping[str, Any]:
    """What the manifest lists, by file name, once every file was read and is as it says.

    Raises
    ------
    StoreError
        If the manifest is missing or damaged, or a file is not as it says; each is named.
    """
    files = read_manifest(folder)["files"]
    problems = []
    for name, stated in files.items():
        problem = problem_with(folder, name, stated)
        if not problem and sha256(folder / name) != stated["sha256"]:
            problem = "its bytes changed since it was written (SHA-256 differs)"
        problems += [f"{name}: {problem}"] * bool(problem)
    refuse_damaged(folder, problems)
    return files


def problem_with(folder: Path, name: str, stated: Mapping[str, Any]) -> str:
    """What is wrong with a file's place and size; "" where nothing is. Its bytes are not read."""
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        return "leaves the folder"
    if not file.is_file():
        return "missing"
    size = file.stat().st_size
    if size != stated["bytes"]:
        return f"{size} bytes, expected {stated['bytes']} (truncated?)"
    return ""


def refuse_damaged(folder: Path, problems: list[str]) -> None:
    """A StoreError that lists every problem, if there is one."""
    if problems:
        raise StoreError(f"damaged capture in {folder}:\n" + "\n".join(problems))
