"""Hooks that listen at sites and keep only what speaks for each prompt.

A forward pass reads one sheet of tokens, whatever its layout; flattened, every prompt is a
stretch of it. What a prompt keeps is a reduction (sum, largest value, or every one) over some of
the places of its stretch, made inside the hook: only the pooled rows outlive the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from activation_analysis.models.sites import Tap
from activation_analysis.models.tracing import first_tensor, received

Address = tuple[str, int]  # site, layer
Heard = dict[tuple[str, str, int], torch.Tensor]  # by position, site, layer; float32 on the CPU


@dataclass(frozen=True)
class Picks:
    """The places of a flattened sheet that speak for its prompts, and how they are reduced.

    ``places[i]`` is (n_i,) int64, ascending, perhaps empty; ``reduction`` is one of `REDUCE`.
    """

    reduction: str
    places: Sequence[torch.Tensor]

    @property
    def n_rows(self) -> int:
        """Rows that the reduction leaves."""
        if self.reduction == "every":
            return sum(len(p) for p in self.places)
        return len(self.places)

    def spans(self) -> list[slice | np.ndarray]:
        """The places of each prompt, as a slice where they are consecutive."""
        return [_stretch(p) for p in self.places]


class _Placed:
    """`Picks` made ready for the device of one layer."""

    def __init__(self, picks: Picks, device: torch.device) -> None:
        self.reduce = REDUCE[picks.reduction]
        self.lengths = torch.tensor([len(p) for p in picks.places], device=device)
        self.flat = torch.cat(list(picks.places)).to(device)
        self.single = bool((self.lengths == 1).all())
        # On a GPU one kernel for all prompts; elsewhere one pass over each prompt's own stretch,
        # whose result does not depend on what else is in the batch.
        self.spans = None if device.type == "cuda" else picks.spans()

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self.reduce(states, self)


def _sums(states: torch.Tensor, at: _Placed) -> torch.Tensor:
    """Sum over each prompt's places, (n_prompts, width) float32."""
    if at.single:
        return states.index_select(0, at.flat).float()
    if at.spans is None:
        chosen = states.index_select(0, at.flat).float()
        return torch.segment_reduce(chosen, "sum", lengths=at.lengths, axis=0)
    rows = states.float().cpu().numpy()  # numpy's sums over a few rows are the faster ones
    return torch.from_numpy(np.stack([rows[span].sum(0) for span in at.spans]))


def _largest(states: torch.Tensor, at: _Placed) -> torch.Tensor:
    """Largest value over each prompt's places, (n_prompts, width) float32; -inf where none."""
    if at.spans is None:
        chosen = states.index_select(0, at.flat).float()
        return torch.segment_reduce(chosen, "max", lengths=at.lengths, axis=0)
    rows = states.float().cpu().numpy()
    return torch.from_numpy(np.stack([rows[span].max(0, initial=-np.inf) for span in at.spans]))


def _every(states: torch.Tensor, at: _Placed) -> torch.Tensor:
    """Every place as it is, prompt after prompt, (n_places, width) float32."""
    return states.index_select(0, at.flat).float()


REDUCE: dict[str, Callable[[torch.Tensor, _Placed], torch.Tensor]] = {
    "sum": _sums,
    "max": _largest,
    "every": _every,
}


class EnoughHeard(Exception):
    """Raised inside a forward pass once every tap has been heard: the rest is not needed."""


class _Ear(threading.local):
    """What one thread hears; several threads may read sheets through the same hooks."""

    def __init__(self) -> None:
        self.picks: Mapping[str, Picks] | None = None
        self.n_places = 0
        self.placed: dict[torch.device, dict[str, _Placed]] = {}
        self.heard: dict[tuple[str, str, int], torch.Tensor] = {}
        self.addresses: set[Address] = set()
        self.room: Heard = {}


class Recorder:
    """What the hooks heard in one forward pass, thread by thread.

    Pooled rows stay on a GPU until `take`, so that it is not made to wait for a copy at every
    hook. On a CPU they go into one block of memory that is there before the pass begins: many
    small arrays that outlive the sheet's large ones would each keep a large one's place from
    being used again, which costs as much as the model.
    """

    def __init__(
        self, addresses: Iterable[Address], widths: Mapping[Address, int] | None = None
    ) -> None:
        self.addresses = frozenset(addresses)
        self.widths = {a: w for a, w in (widths or {}).items() if a in self.addresses}
        self._ear = _Ear()

    def expect(self, picks: Mapping[str, Picks], n_places: int) -> None:
        """Say, by position, which of ``n_places`` tokens speak in the pass that follows."""
        ear = self._ear
        ear.picks, ear.n_places = picks, n_places
        ear.placed, ear.heard, ear.addresses = {}, {}, set()
        ear.room = self._room(picks)

    def _room(self, picks: Mapping[str, Picks]) -> Heard:
        """A place for everything that will be heard; none where widths are not known yet."""
        if len(self.widths) < len(self.addresses):
            return {}
        n_rows = {position: p.n_rows for position, p in picks.items()}
        total = sum(self.widths.values()) * sum(n_rows.values())
        block, start, room = torch.empty(total), 0, {}
        for position, n in n_rows.items():
            for (site, layer), width in self.widths.items():
                room[position, site, layer] = block[start : start + n * width].view(n, width)
                start += n * width
        return room

    def listen(self, address: Address, states: torch.Tensor | None) -> None:
        ear = self._ear
        if ear.picks is None:
            return  # somebody else's forward pass
        if states is None:
            raise RuntimeError(f"no tensor passed at site {address[0]!r}, layer {address[1]}")
        # OPT flattens rows and places before its MLP; heads may come as (..., n_heads, head_dim).
        states = states.detach().reshape(ear.n_places, -1)
        # Every reduction copies: a view would keep the sheet alive, and some blocks write in place.
        for position, placed in self._placed_on(states.device).items():
            pooled, place = placed(states), ear.room.get((position, *address))
            if place is not None and pooled.device.type == "cpu":
                pooled = place.copy_(pooled)
            ear.heard[position, *address] = pooled
        ear.addresses.add(address)
        if len(ear.addresses) == len(self.addresses):
            raise EnoughHeard

    def take(self) -> Heard:
        """What was heard since `expect`, float32 on the CPU; forgotten here.

        Raises
        ------
        RuntimeError
            If a module that was tapped did not run.
        """
        ear = self._ear
        heard, silent = ear.heard, self.addresses - ear.addresses
        self.forget()
        if silent:
            raise RuntimeError(f"nothing ran at {sorted(silent)}: the model skipped a module")
        return {key: states.to("cpu", torch.float32) for key, states in heard.items()}

    def forget(self) -> None:
        """Drop what this thread has heard, after a pass that failed."""
        ear = self._ear
        ear.picks, ear.placed, ear.heard, ear.addresses, ear.room = None, {}, {}, set(), {}

    def _placed_on(self, device: torch.device) -> dict[str, _Placed]:
        ear = self._ear
        if device not in ear.placed:
            ear.placed[device] = {name: _Placed(p, device) for name, p in ear.picks.items()}
        return ear.placed[device]


@contextmanager
def recording(
    taps: Mapping[Address, Tap], widths: Mapping[Address, int] | None = None
) -> Iterator[Recorder]:
    """Listen at ``taps`` until the block ends; no hook is left behind.

    ``widths`` are the units of each tap, where they are known.

    Call ``recorder.expect(picks, n_places)`` before each forward pass, end it at `EnoughHeard`,
    and call ``recorder.take()`` after it.
    """
    recorder = Recorder(taps, widths)
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


def _stretch(places: torch.Tensor) -> slice | np.ndarray:
    n = len(places)
    if n and int(places[-1] - places[0]) == n - 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return places.numpy()


def _attach(tap: Tap, address: Address, recorder: Recorder) -> RemovableHandle:
    if tap.reads_input:

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            recorder.listen(address, received(args, kwargs))

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: tuple, output: object) -> None:
        recorder.listen(address, first_tensor(output))

    return tap.module.register_forward_hook(after)
