"""Which routine carries out a product, where torch has a faster one for this machine.

Replaced while a sheet is read, in the reading thread alone; the model is left as it is. Whatever
is replaced is held, by the proof at load, to what the model computes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Replaced(TorchFunctionMode):
    """While active, calls of some torch functions go elsewhere: ``replacement(func, *args)``."""

    def __init__(self, replacements: Mapping[Callable, Callable]) -> None:
        super().__init__()
        self.replacements = dict(replacements)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        replacement = self.replacements.get(func)
        if replacement is None:
            return func(*args, **(kwargs or {}))
        return replacement(func, *args, **(kwargs or {}))


def linear_of_onednn(
    func: Callable, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``x @ weight.T + bias`` by oneDNN, in float32 throughout."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or not x.numel():
        return func(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@cache
def faster_kernels(device_type: str) -> Mapping[Callable, Callable]:
    """Replacements that pay off on this machine's processor.

    torch's linear layer calls MKL, which is 5-10 % slower than oneDNN on processors that are not
    Intel's; the op is torch 2.13's own, and where it is missing nothing is replaced.
    """
    if device_type != "cpu" or not torch.backends.mkl.is_available() or _is_intel():
        return {}
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return {}
    return {F.linear: linear_of_onednn}


def _is_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return any("GenuineIntel" in line for line in lines)
    except OSError:
        return True  # unknown: as torch has it
