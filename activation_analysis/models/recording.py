"""Hooks that listen at sites and keep only what speaks for each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from activation_analysis.models.sites import Tap, first_tensor, received

Pool = Callable[[torch.Tensor, "TokenRows"], torch.Tensor]
Address = tuple[str, int]  # site, layer


@dataclass(frozen=True)
class TokenRows:
    """Which tokens of a padded batch speak for their prompts.

    ``counted`` is (n_rows, longest) bool, true at tokens that are neither padding nor special;
    ``first`` and ``last`` are the ends of the counted stretch, each (n_rows,).
    """

    counted: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, counted: torch.Tensor) -> TokenRows:
        places = torch.arange(counted.shape[1])
        first = torch.where(counted, places, counted.shape[1]).amin(dim=1)
        last = torch.where(counted, places, -1).amax(dim=1)
        return cls(counted, first, last)


def pool_last(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The last token of each prompt, (n_rows, width)."""
    return states[torch.arange(len(states), device=states.device), rows.last.to(states.device)]


def pool_first(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The first token of each prompt that is not special, (n_rows, width)."""
    return states[torch.arange(len(states), device=states.device), rows.first.to(states.device)]


def pool_mean(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The mean over each prompt's tokens, special ones left out, (n_rows, width)."""
    weights = rows.counted.to(states.device, torch.float32)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.bmm(weights.unsqueeze(1), states.float()).squeeze(1)


def pool_max(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The largest value over each prompt's tokens, special ones left out, (n_rows, width)."""
    outside = ~rows.counted.to(states.device).unsqueeze(-1)
    return states.masked_fill(outside, float("-inf")).amax(dim=1)


POOLS: dict[str, Pool] = {
    "last": pool_last,
    "first": pool_first,
    "mean": pool_mean,
    "max": pool_max,
}


class Recorder:
    """What the hooks heard in one forward pass: ``heard[(site, layer)]``, float32 on the CPU."""

    def __init__(self, pool: Pool | None) -> None:
        self.pool = pool
        self.rows: TokenRows | None = None
        self.heard: dict[Address, torch.Tensor] = {}

    def listen(self, address: Address, states: torch.Tensor | None) -> None:
        if states is None:
            raise RuntimeError(f"no tensor passed at site {address[0]!r}, layer {address[1]}")
        n_rows, n_places = self.rows.counted.shape
        # OPT flattens rows and places before its MLP; heads may come as (..., n_heads, head_dim).
        states = states.detach().reshape(n_rows, n_places, -1)
        kept = states if self.pool is None else self.pool(states, self.rows)
        # A copy, since a view would keep the whole batch alive and some blocks write in place.
        self.heard[address] = kept.to("cpu", torch.float32, copy=True)


@contextmanager
def recording(taps: Mapping[Address, Tap], pool: Pool | None) -> Iterator[Recorder]:
    """Listen at ``taps`` until the block ends; no hook is left behind.

    With ``pool`` None every token is kept. Set ``recorder.rows`` before each forward pass.
    """
    recorder = Recorder(pool)
    handles = [_attach(tap, address, recorder) for address, tap in taps.items()]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _attach(tap: Tap, address: Address, recorder: Recorder):
    if tap.reads_input:

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            recorder.listen(address, received(args, kwargs))

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: tuple, output: object) -> None:
        recorder.listen(address, first_tensor(output))

    return tap.module.register_forward_hook(after)
