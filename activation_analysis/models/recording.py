"""Hooks that listen at sites and keep only what speaks for each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from activation_analysis.models.sites import Tap
from activation_analysis.models.tracing import first_tensor, received

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

    def on(self, device: torch.device) -> TokenRows:
        """The same rows on the device of one layer."""
        return TokenRows(self.counted.to(device), self.first.to(device), self.last.to(device))

    @classmethod
    def of(cls, counted: torch.Tensor) -> TokenRows:
        places = torch.arange(counted.shape[1])
        first = torch.where(counted, places, counted.shape[1]).amin(dim=1)
        last = torch.where(counted, places, -1).amax(dim=1)
        return cls(counted, first, last)


def pool_last(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The last token of each prompt that is not special, (n_rows, width)."""
    return states[torch.arange(len(states), device=states.device), rows.last]


def pool_first(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The first token of each prompt that is not special, (n_rows, width)."""
    return states[torch.arange(len(states), device=states.device), rows.first]


def pool_mean(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The mean over each prompt's tokens, special ones left out, (n_rows, width)."""
    # Weights of zero would not do: zero times an overflowed pad or special token is NaN.
    kept = states.float().masked_fill(~rows.counted.unsqueeze(-1), 0.0)
    return kept.sum(dim=1) / rows.counted.sum(dim=1, keepdim=True)


def pool_max(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """The largest value over each prompt's tokens, special ones left out, (n_rows, width)."""
    return states.masked_fill(~rows.counted.unsqueeze(-1), float("-inf")).amax(dim=1)


def every_token(states: torch.Tensor, rows: TokenRows) -> torch.Tensor:
    """Every token as it is, (n_rows, n_places, width)."""
    return states.clone()


POOLS: dict[str, Pool] = {
    "last": pool_last,
    "first": pool_first,
    "mean": pool_mean,
    "max": pool_max,
}


class Recorder:
    """What the hooks heard in one forward pass.

    Pooled rows stay on their layer's device until `take`, so that a GPU is not made to wait for
    a copy at every hook.
    """

    def __init__(self, pool: Pool, addresses: Iterable[Address]) -> None:
        self.pool = pool
        self.addresses = frozenset(addresses)
        self._rows: dict[torch.device, TokenRows] = {}
        self._heard: dict[Address, torch.Tensor] = {}

    def expect(self, rows: TokenRows) -> None:
        """Say which tokens speak in the forward pass that follows."""
        self._rows = {rows.counted.device: rows}
        self._heard = {}

    def listen(self, address: Address, states: torch.Tensor | None) -> None:
        if states is None:
            raise RuntimeError(f"no tensor passed at site {address[0]!r}, layer {address[1]}")
        rows = self._rows_on(states.device)
        # OPT flattens rows and places before its MLP; heads may come as (..., n_heads, head_dim).
        states = states.detach().reshape(*rows.counted.shape, -1)
        # Every pool copies: a view would keep the batch alive, and some blocks write in place.
        self._heard[address] = self.pool(states, rows)

    def take(self) -> dict[Address, torch.Tensor]:
        """What was heard since `expect`, float32 on the CPU; forgotten here.

        Raises
        ------
        RuntimeError
            If a module that was tapped did not run.
        """
        heard, self._heard = self._heard, {}
        silent = self.addresses - heard.keys()
        if silent:
            raise RuntimeError(f"nothing ran at {sorted(silent)}: the model skipped a module")
        return {address: states.to("cpu", torch.float32) for address, states in heard.items()}

    def _rows_on(self, device: torch.device) -> TokenRows:
        if device not in self._rows:
            self._rows[device] = next(iter(self._rows.values())).on(device)
        return self._rows[device]


@contextmanager
def recording(taps: Mapping[Address, Tap], pool: Pool) -> Iterator[Recorder]:
    """Listen at ``taps`` until the block ends; no hook is left behind.

    Call ``recorder.expect(rows)`` before each forward pass and ``recorder.take()`` after it.
    """
    recorder = Recorder(pool, taps)
    with ExitStack() as hooks:
        for address, tap in taps.items():
            hooks.callback(_attach(tap, address, recorder).remove)
        yield recorder


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off until the block ends; then every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _attach(tap: Tap, address: Address, recorder: Recorder) -> RemovableHandle:
    if tap.reads_input:

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            recorder.listen(address, received(args, kwargs))

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: tuple, output: object) -> None:
        recorder.listen(address, first_tensor(output))

    return tap.module.register_forward_hook(after)
