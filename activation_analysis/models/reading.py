"""Forward passes of one model: sheets of tokens in, one pooled row per prompt and tap out.

On a CPU several threads read a sheet each, with one thread inside the products: they do not wait
for each other at every operation, and a prompt's numbers do not depend on how many there are.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from activation_analysis.errors import ModelError
from activation_analysis.models.architectures import first_position
from activation_analysis.models.batching import Pass, Plan, pad_right
from activation_analysis.models.kernels import Replaced, faster_kernels
from activation_analysis.models.memory import is_out_of_memory
from activation_analysis.models.packing import PackingError, SeparateAttention
from activation_analysis.models.prefixes import after_prefix, empty_cache
from activation_analysis.models.recording import EnoughHeard, Heard, Picks, Recorder
from activation_analysis.models.rows import Rows
from activation_analysis.models.threads import working_threads
from activation_analysis.models.tracing import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = torch.nn.functional.scaled_dot_product_attention
SUMMED = {"mean": "sum", "max": "max", "every": "every"}  # how a reduction is made in parts


@dataclass
class _ReadPrefix:
    """What stays of a prefix: its keys and values, and its part of every pooled row."""

    length: int
    cache: object
    part_of: dict[str, dict[bytes, int]]  # position -> places inside the prefix -> part
    parts: Heard
    n_places: dict[str, list[int]]  # position -> part -> places in it


@dataclass(frozen=True)
class _Sheet:
    """The tokens of one forward pass as a model takes them."""

    inputs: dict[str, torch.Tensor]
    starts: np.ndarray  # (n_rows,) where each row begins in the flattened sheet
    apart: SeparateAttention | None = None


class Reader:
    """Runs a plan's passes through a model whose taps a recorder listens to.

    Parameters
    ----------
    causal : whether no token reads what follows it; other models get a mask
    faster : whether products may be carried out by `faster_kernels`
    steady : whether no bit may depend on the number of threads (see `working_threads`)
    said : what is called with a sentence that the user should see

    ``seconds`` is the time spent in the model, per worker; ``n_halved`` counts the passes that
    did not fit into memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recorder: Recorder,
        *,
        causal: bool,
        faster: bool = True,
        steady: bool = False,
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.recorder, self.causal, self.said = model, recorder, causal, said
        self.known = inspect.signature(model.base_model.forward).parameters
        self.device = input_device(model)
        self.seconds, self.n_halved = 0.0, 0
        self.steady = steady
        self.n_products = 0  # attention products done prompt by prompt in the last pass
        self._limit: int | None = None  # tokens, once a pass did not fit
        self._kernels = dict(faster_kernels(self.device.type)) if faster else {}
        self._first_position = first_position(model.config)
        self._lock = threading.Lock()
        self._prefixes: dict[int, _ReadPrefix] = {}

    def read(self, rows: Rows, plan: Plan, passes: Iterable[Pass]) -> Iterator[tuple[Pass, Heard]]:
        """Read passes of the plan; yields each with what it heard, in the order given.

        Heard tensors are (n_rows of the pass, width), or (n_tokens kept, width) where every token
        is. Few passes are held at a time, however many there are.
        """
        passes = list(passes)
        self._prefixes = {}
        with working_threads(self.model, len(passes), steady=self.steady) as n_workers:
            if n_workers == 1:
                for one in passes:
                    yield one, self._timed(rows, plan, one, 1)
                return
            yield from self._read_side_by_side(rows, plan, passes, n_workers)

    def _read_side_by_side(
        self, rows: Rows, plan: Plan, passes: list[Pass], n_workers: int
    ) -> Iterator[tuple[Pass, Heard]]:
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(n_workers, "reading", torch.set_num_threads, (threads,))
        waiting: deque[tuple[Pass, Future]] = deque()
        upcoming = iter(passes)
        try:
            while True:
                while len(waiting) <= n_workers and (one := next(upcoming, None)) is not None:
                    waiting.append((one, pool.submit(self._timed, rows, plan, one, n_workers)))
                if not waiting:
                    return
                one, answer = waiting.popleft()
                yield one, answer.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, rows: Rows, plan: Plan, one: Pass, n_workers: int) -> Heard:
        began = time.perf_counter()
        with torch.inference_mode():
            heard = self._fitting(rows, plan, one)
        with self._lock:
            self.seconds += (time.perf_counter() - began) / n_workers
        return heard

    def _fitting(self, rows: Rows, plan: Plan, one: Pass) -> Heard:
        """One pass, in as many parts as memory asks for."""
        n_tokens = self._n_tokens(rows, plan, one)
        if self._limit is not None and n_tokens > self._limit and len(one.rows) > 1:
            return self._in_halves(rows, plan, one)
        try:
            return self._one_pass(rows, plan, one)
        except (MemoryError, RuntimeError) as error:
            self.recorder.forget()
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(one.rows) == 1:
                raise ModelError(
                    f"out of memory at a single prompt of {n_tokens} tokens ({error}); use a "
                    f"smaller dtype, fewer sites, or --max-memory to place a part elsewhere"
                ) from error
        with self._lock:
            self.n_halved += 1
            limit = max(n_tokens // 2, 1)
            if self._limit is None or limit < self._limit:
                self._limit = limit
                self.said(
                    f"out of memory at a batch of {n_tokens} tokens: going on with {self._limit}"
                )
        return self._in_halves(rows, plan, one)

    def _in_halves(self, rows: Rows, plan: Plan, one: Pass) -> Heard:
        middle = (len(one.rows) + 1) // 2
        halves = [Pass(one.rows[:middle], one.prefix), Pass(one.rows[middle:], one.prefix)]
        first, second = (self._fitting(rows, plan, half) for half in halves)
        return {key: torch.cat([heard, second[key]]) for key, heard in first.items()}

    def _n_tokens(self, rows: Rows, plan: Plan, one: Pass) -> int:
        before = plan.prefixes[one.prefix].length if one.prefix >= 0 else 0
        lengths = [len(rows.ids[i]) - before for i in one.rows]
        return sum(lengths) if plan.layout == "packed" else max(lengths) * len(lengths)

    def _one_pass(self, rows: Rows, plan: Plan, one: Pass) -> Heard:
        prefix = self._prefix(rows, plan, one.prefix) if one.prefix >= 0 else None
        before = prefix.length if prefix else 0
        own = [rows.ids[i][before:] for i in one.rows]
        if plan.layout == "packed":
            try:
                heard = self._heard_on(self._packed_sheet(own, before), rows, one, prefix)
                return self._finished(rows, one, heard, prefix)
            except PackingError:
                if not prefix:
                    raise
                # A window shorter than prefix and prompt. Every pass finds out by itself, so that
                # its numbers do not depend on which other passes this process reads.
                self.recorder.forget()
        heard = self._heard_on(self._padded_sheet(own, before), rows, one, prefix)
        return self._finished(rows, one, heard, prefix)

    def _heard_on(self, sheet: _Sheet, rows: Rows, one: Pass, prefix: _ReadPrefix | None) -> Heard:
        """What the taps hear when a sheet of the pass's tokens is read."""
        before = prefix.length if prefix else 0
        inputs = dict(sheet.inputs)
        if prefix:
            n_rows = inputs["input_ids"].shape[0]
            inputs["past_key_values"] = after_prefix(prefix.cache, n_rows)
        picks = {}
        for position, places in rows.places.items():
            own_places = [places[i][places[i] >= before] - before for i in one.rows]
            flat = [
                torch.from_numpy(p + start)
                for p, start in zip(own_places, sheet.starts, strict=True)
            ]
            picks[position] = Picks(SUMMED[rows.reductions[position]], flat)
        return self._hear(inputs, picks, inputs["input_ids"].numel(), sheet.apart)

    def _packed_sheet(self, own: list[list[int]], before: int) -> _Sheet:
        lengths = [len(row) for row in own]
        first = self._first_position + before
        inputs = {
            "input_ids": torch.tensor([[token for row in own for token in row]]),
            "position_ids": torch.cat([torch.arange(first, first + n) for n in lengths])[None],
        }
        starts = np.cumsum([0, *lengths[:-1]])
        return _Sheet(inputs, starts, SeparateAttention(lengths, before))

    def _padded_sheet(self, own: list[list[int]], before: int) -> _Sheet:
        padded, real = pad_right(own)
        ids = torch.from_numpy(padded)
        inputs: dict[str, torch.Tensor] = {"input_ids": ids}
        if not self.causal:
            inputs["attention_mask"] = torch.from_numpy(real).long()
        if before and "position_ids" in self.known:
            first = self._first_position + before
            inputs["position_ids"] = torch.arange(first, first + ids.shape[1]).expand(len(own), -1)
        return _Sheet(inputs, np.arange(len(own)) * ids.shape[1])

    def _hear(
        self,
        inputs: Mapping[str, object],
        picks: Mapping[str, Picks],
        n_places: int,
        apart: SeparateAttention | None = None,
    ) -> Heard:
        """One forward pass through the blocks that are recorded: no head, no further block."""
        sent = {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }
        if "use_cache" in self.known:
            sent.setdefault("use_cache", False)
        self.recorder.expect(picks, n_places)
        try:
            with Replaced(self._kernels | ({_ATTENTION: apart} if apart else {})):
                self.model.base_model(**sent)
        except EnoughHeard:
            pass
        self.n_products = apart.n_products if apart else 0
        return self.recorder.take()

    def _prefix(self, rows: Rows, plan: Plan, number: int) -> _ReadPrefix:
        with self._lock:
            if number not in self._prefixes:
                while len(self._prefixes) > 1:  # the one before may still be in use
                    self._prefixes.pop(min(self._prefixes))
                self._prefixes[number] = self._read_prefix(rows, plan, number)
            return self._prefixes[number]

    def _read_prefix(self, rows: Rows, plan: Plan, number: int) -> _ReadPrefix:
        prefix = plan.prefixes[number]
        ids = torch.tensor([rows.ids[prefix.rows[0]][: prefix.length]])
        part_of: dict[str, dict[bytes, int]] = {}
        picks, n_places = {}, {}
        for position, places in rows.places.items():
            parts: dict[bytes, np.ndarray] = {}
            for i in prefix.rows:
                inside = places[i][places[i] < prefix.length]
                parts[inside.tobytes()] = inside
            part_of[position] = {key: j for j, key in enumerate(parts)}
            n_places[position] = [len(p) for p in parts.values()]
            picks[position] = Picks(
                SUMMED[rows.reductions[position]], [torch.from_numpy(p) for p in parts.values()]
            )
        cache = empty_cache()
        inputs = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        parts_heard = self._hear(inputs, picks, ids.shape[1])
        return _ReadPrefix(prefix.length, cache, part_of, parts_heard, n_places)

    def _finished(self, rows: Rows, one: Pass, heard: Heard, prefix: _ReadPrefix | None) -> Heard:
        """Parts before and after the prefix's end put together; sums made means."""
        for (position, site, layer), own in heard.items():
            places, reduction = rows.places[position], rows.reductions[position]
            if prefix:
                inside = [places[i][places[i] < prefix.length].tobytes() for i in one.rows]
                chosen = [prefix.part_of[position][key] for key in inside]
                parts = prefix.parts[position, site, layer]
                own = _joined(
                    own,
                    parts,
                    chosen,
                    n_own=[int((places[i] >= prefix.length).sum()) for i in one.rows],
                    n_parts=prefix.n_places[position],
                    reduction=reduction,
                )
            if reduction == "mean":
                counts = torch.tensor([len(places[i]) for i in one.rows])
                if bool((counts != 1).any()):
                    own = own / counts[:, None]
            heard[position, site, layer] = own
        return heard


def _joined(
    own: torch.Tensor,
    parts: torch.Tensor,
    chosen: list[int],
    *,
    n_own: list[int],
    n_parts: list[int],
    reduction: str,
) -> torch.Tensor:
    if reduction == "max":
        return torch.maximum(parts[chosen], own)
    if reduction == "mean":
        return parts[chosen] + own
    before, after = parts.split(n_parts), own.split(n_own)
    return torch.cat([t for j, rest in zip(chosen, after, strict=True) for t in (before[j], rest)])
