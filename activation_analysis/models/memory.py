"""How much a device can still hold, and how many tokens one forward pass may have there."""

from __future__ import annotations

import os

import torch

CPU_TOKENS = {"packed": 512, "padded": 256}  # fastest on two cores, within 100 MB
GPU_TOKENS = 16384
FEWEST = 64
SHARE = 0.25  # of free memory that one pass may take
STATES = 16  # tensors of a block's widest width that are alive at once, about


def batch_budget(
    device: torch.device, layout: str, *, widest: int, itemsize: int, n_workers: int = 1
) -> int:
    """Tokens of one forward pass: what is fastest, or what free memory allows.

    Parameters
    ----------
    widest : units of a block's widest site
    itemsize : bytes of one value
    n_workers : passes that run at the same time
    """
    fastest = CPU_TOKENS[layout] if device.type == "cpu" else GPU_TOKENS
    room = SHARE * free_memory(device) / (STATES * widest * itemsize * n_workers)
    return int(max(min(fastest, room), FEWEST))


def free_memory(device: torch.device) -> float:
    """Bytes that a device can still give; infinite where it cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(free + unused)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            told = dict(line.split(":", 1) for line in lines)
        return 1024.0 * int(told["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return any(words in str(error).lower() for words in said)
