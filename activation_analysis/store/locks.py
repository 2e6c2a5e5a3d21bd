"""Who may write: locks of the operating system, which a killed process cannot leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from activation_analysis.errors import StoreError
from activation_analysis.store.space import full_disk_named

LOCK = ".lock"
SECONDS_TO_SIGN = 1.0  # that a holder is given to write its name, before it is called "another"


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """One writer or any number of readers at a time."""
    # A file of its own, not the folder: network file systems lock only what is open for writing.
    file = folder / LOCK
    if shared and not file.exists():
        yield  # a copy that left the hidden file behind; nobody writes there
        return
    with file.open("rb" if shared else "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextmanager
def only_writer(folder: Path, *, said: Callable[[str], None], wait: bool) -> Iterator[None]:
    """Hold a folder's lock, signed with pid, host and start time; emptied when it is given up.

    Raises
    ------
    StoreError
        If another process holds it and ``wait`` is False (the holder is named), or the disk is
        full.
    """
    with full_disk_named(folder):
        lock = _taken(folder, said=said, wait=wait)
    try:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": started}
        with full_disk_named(folder):
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.ftruncate(lock, 0)
        os.close(lock)


def _taken(folder: Path, *, said: Callable[[str], None], wait: bool) -> int:
    """The descriptor of the locked file."""
    file, has_said = folder / LOCK, False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            if not _try_to_lock(lock):
                holder = _holder(lock)
                if holder is None:  # it was let go in the meantime
                    os.close(lock)
                    continue
                if not wait:
                    raise StoreError(
                        f"{folder} is being written by {holder}; wait for it, or stop it first"
                    )
                if not has_said:
                    said(f"waiting for {holder}, which is writing this capture")
                    has_said = True
                fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            os.close(lock)
            raise
        if _is_still_there(file, lock):
            return lock
        os.close(lock)  # the folder was deleted while this process waited


def _try_to_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> str | None:
    """Who holds the lock; None if nobody does any more."""
    deadline = time.monotonic() + SECONDS_TO_SIGN
    while time.monotonic() < deadline:
        try:
            holder = json.loads(os.pread(lock, 4096, 0))
            return f"pid {int(holder['pid'])} on host {holder['host']}"
        except (ValueError, KeyError, TypeError):  # it has not signed yet, or has just let go
            if _try_to_lock(lock):
                return None
            time.sleep(0.02)
    return "another process"


def _is_still_there(file: Path, lock: int) -> bool:
    try:
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(lock))
    except FileNotFoundError:
        return False
