"""What each process of an unfinished capture has written: one JSON line per shard, appended.

A line is there only after its shard is. A line that a killed process left half-written is skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from activation_analysis.store.manifests import sync_folder, whole_file

JOURNAL_NAME = re.compile(r"journal-\d+\.jsonl")


def journal_file(folder: Path, rank: int) -> Path:
    return folder / f"journal-{rank}.jsonl"


def journals(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if JOURNAL_NAME.fullmatch(f.name))


def append(file: Path, entry: Mapping[str, Any]) -> None:
    """Add one durable line; a file system that refuses leaves the journal as it was."""
    is_new = not file.exists()
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    journal = os.open(file, flags, 0o644)
    try:
        before = os.fstat(journal).st_size
        is_torn = before > 0 and os.pread(journal, 1, before - 1) != b"\n"
        line = b"\n" * is_torn + _line(entry)
        try:
            while line:
                line = line[os.write(journal, line) :]
            os.fsync(journal)
        except OSError:
            os.ftruncate(journal, before)
            raise
    finally:
        os.close(journal)
    if is_new:
        sync_folder(file.parent)


def rewrite(file: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Replace a journal by one that holds these entries."""
    with whole_file(file) as stream:
        stream.writelines(map(_line, entries))


def read_from(file: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The entries from ``offset`` on, and where the last whole line ends."""
    if file.is_symlink():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        lines = stream.read().split(b"\n")
    end = offset + sum(len(line) + 1 for line in lines[:-1])
    return [entry for line in lines[:-1] if (entry := _entry(line)) is not None], end


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """One shard's entry; None for a line that is not one."""
    try:
        entry = json.loads(line)
        is_entry = type(entry["shard"]) is int and type(entry["bytes"]) is int
        return entry if is_entry and {"sha256", "header", "tensors"} <= set(entry) else None
    except (ValueError, KeyError, TypeError):
        return None
