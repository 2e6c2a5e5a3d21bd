"""Several processes that share one capture: started by `accelerate launch`, one per device.

Each reads its own shards of one plan into one folder. They meet twice: when the plan is there,
and when the last shard is. Which process reads a shard changes no bit of it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

from activation_analysis.errors import PeerError

PATIENCE = timedelta(days=14)  # that one process may take longer than another
STARTED_ALONE = (
    "accelerate started one process: on a machine without GPUs it needs "
    "`accelerate launch --multi_gpu --num_processes N ...` for more; going on with one"
)
MISSING_PEER = (
    "another process of this run ended: {}\nwhat is finished is kept; start the same command "
    "again, with any number of processes, to go on from there"
)


@dataclass(frozen=True)
class Processes:
    """The place of this process among those of one run."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that analyses, draws, tracks and speaks."""
        return self.rank == 0

    def own(self, parts: list[int]) -> list[int]:
        """The parts that fall to this process: every one to exactly one, large ones spread."""
        return parts[self.rank :: self.size]

    def meet(self) -> None:
        """Wait until every process has come here.

        Raises
        ------
        PeerError
            If one of them is gone.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        try:
            arrival = dist.barrier(async_op=True)
            while not arrival.is_completed():
                time.sleep(0.02)  # in Python, so that a signal is heard
            arrival.wait()
        except RuntimeError as error:
            raise PeerError(MISSING_PEER.format(_last_words(error))) from error


ALONE = Processes()


def _last_words(error: BaseException) -> str:
    """What a communication library says, without the place in its own source."""
    return str(error).splitlines()[0].rsplit("] ", 1)[-1]


def n_launched() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Processes:
    """Meet the other processes that a launcher started; alone where there is none.

    Raises
    ------
    PeerError
        If the others cannot be reached.
    """
    if n_launched() < 2:
        if started_alone():
            print(STARTED_ALONE, file=sys.stderr)
        return ALONE
    import torch
    from accelerate import PartialState

    try:
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise PeerError(MISSING_PEER.format(error)) from error
    return Processes(state.process_index, state.num_processes)


def own_device(asked: str) -> str:
    """The device of this process: each has a whole model, on a GPU of its own where there is one.

    A device that was asked for by number stands.
    """
    if n_launched() < 2 or asked not in ("auto", "cuda"):
        return asked
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def started_alone() -> bool:
    """Whether `accelerate launch` was asked for several processes and started one.

    Accelerate 1.15 does so on a machine without GPUs, unless it is told ``--multi_gpu``: the
    address is set, and no number of processes.
    """
    launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()
    return launched and "WORLD_SIZE" not in os.environ
