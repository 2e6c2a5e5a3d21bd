"""Room on the disk: asked for before a capture, and missed in the middle of one."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from activation_analysis.errors import StoreError

MARGIN = 1.1  # free bytes asked for, over the bytes that will be written
FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(folder: Path) -> int:
    """What may be written below ``folder``, which need not exist yet."""
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    return shutil.disk_usage(there).free


def require_space(folder: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse to begin what would not fit.

    Raises
    ------
    StoreError
        If less than 1.1 times ``n_bytes`` are free where ``folder`` is or will be.
    """
    needed, free = math.ceil(n_bytes * MARGIN), free_bytes(Path(folder))
    if free < needed:
        raise StoreError(
            f"{_megabytes(needed)} are needed in {folder} and {_megabytes(free)} are free; "
            f"free some space, record fewer sites, layers or positions, or use another disk"
        )


@contextmanager
def full_disk_named(folder: Path, n_bytes: int = 0) -> Iterator[None]:
    """Turn a full disk (or quota) into a StoreError with the bytes that were to be written.

    0 bytes: lock, plan, journal or indexes, whose size is not known beforehand.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        next_ = f"{n_bytes:,} bytes were" if n_bytes else "the capture's small files were"
        raise StoreError(
            f"the disk of {folder} is full ({os.strerror(error.errno)}): {next_} "
            f"to be written next and {free_bytes(folder):,} are free; what is finished is kept: "
            f"free some space and run the same again, and the capture goes on from there"
        ) from error


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB ({n_bytes:,} bytes)"
