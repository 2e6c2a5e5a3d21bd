"""Which rows make up which shard: agreed on when a capture begins, and kept until it is sealed.

The plan's file is also what the joined processes of a distributed run hold a shared lock on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from activation_analysis.errors import StoreError
from activation_analysis.store.identity import refuse_other
from activation_analysis.store.manifests import read_checked, write_checked

PLAN = "plan.json"

Plan = Mapping[str, Any]


def write_plan(folder: Path, plan: Plan, key: str, defining: Mapping[str, object]) -> Plan:
    """Store a new capture's plan, and return it as every later process will read it."""
    stored = {"key": key, "defining": dict(defining), "plan": checked_plan(plan)}
    write_checked(folder / PLAN, stored)
    return read_checked(folder / PLAN)["plan"]


def read_plan(folder: Path, key: str, said: Callable[[str], None]) -> Plan | None:
    """The plan that an earlier process left, once none of its run is left; None without one."""
    file = folder / PLAN
    if not file.exists():
        return None
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said("waiting for the other processes of an earlier run of this capture to end")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
    try:
        stored = read_checked(file)
    except StoreError:
        said(f"{file} is damaged; the capture begins anew")
        return None
    refuse_other(folder, stored["key"], key)
    return checked_plan(stored["plan"])


@contextmanager
def joined_plan(folder: Path, key: str) -> Iterator[Plan]:
    """The plan that rank 0 stored, held while this process works on it.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If it is another capture's, or damaged.
    """
    descriptor = os.open(folder / PLAN, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        stored = read_checked(folder / PLAN)
        refuse_other(folder, stored["key"], key)
        yield stored["plan"]
    finally:
        os.close(descriptor)


def checked_plan(plan: Plan) -> Plan:
    """The plan, if its shards hold every row from 0 on once; a StoreError otherwise."""
    shards = plan.get("shards") if isinstance(plan, Mapping) else None
    rows = [row for shard in shards or [] for row in shard]
    if shards is None or sorted(rows) != list(range(len(rows))):
        raise StoreError(
            "a capture's plan is {'shards': [[row, ...], ...], ...} with every row from 0 on in "
            f"one shard; received {len(rows)} rows, {len(set(rows))} of them different"
        )
    return {**plan, "shards": [[int(row) for row in shard] for shard in shards]}
