"""A capture into the store: shard by shard, by any number of processes, interrupted or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from activation_analysis.activations import KEY
from activation_analysis.errors import StoreError
from activation_analysis.models.batching import Plan, with_shards
from activation_analysis.models.distributed import ALONE, Processes
from activation_analysis.models.kernels import faster_kernels
from activation_analysis.models.loaded_model import LoadedModel
from activation_analysis.models.recording import Heard
from activation_analysis.models.request import Prepared, Request
from activation_analysis.models.tokenizing import Tokens, kept_tokens
from activation_analysis.models.tracing import input_device
from activation_analysis.provenance import code_version
from activation_analysis.store import (
    CaptureContent,
    capture_folder,
    capture_key,
    join_capture,
    open_capture,
    require_space,
    tensor_name,
)

if TYPE_CHECKING:
    from activation_analysis.store import CaptureWriter

Said = Callable[[str], None]


@dataclass(frozen=True)
class StoredCapture:
    """Where a capture lies, and what it took."""

    folder: Path
    key: str
    n_shards: int
    n_kept: int  # shards that were finished before

    @property
    def was_there(self) -> bool:
        """Whether the whole capture had been made before."""
        return self.n_kept == self.n_shards


def store_capture(
    capture: LoadedModel,
    tokens: Tokens,
    request: Request,
    *,
    root: Path,
    processes: Processes = ALONE,
) -> StoredCapture:
    """Record into the store what is not there yet.

    The bytes are the same for any number of processes and of torch's threads, where all of the
    model is in memory.

    Parameters
    ----------
    tokens, request : what is read, and what is asked
    root : folder of all captures
    processes : the others of a distributed run; the main one holds the folder's lock

    Raises
    ------
    StoreError
        If the disk is too small or full; what is finished stays, and a later call goes on.
    """
    defining = defining_values(capture, tokens, request)
    key = capture_key(defining)
    folder = capture_folder(key, root)

    def plan() -> dict[str, Any]:
        new = capture.prepare(tokens, request)
        return with_shards(new.plan, new.rows.ids, _row_bytes(capture, new)).to_json()

    with _opened(folder, defining, plan, capture.said, processes) as writer:
        if writer.complete:  # in every process alike: the main one opened it before the others
            return StoredCapture(folder, key, writer.n_shards, writer.n_shards)
        planned = Plan.from_json(writer.plan)
        now = capture.prepare(tokens, request, plan=planned)
        finished = set(writer.finished)
        # Nobody writes before everybody has seen what is there.
        processes.meet()
        todo = [i for i in range(len(planned.shards)) if i not in finished]
        if processes.is_main:
            n_bytes = _row_bytes(capture, now)
            require_space(folder, sum(int(n_bytes[planned.shard_rows(i)].sum()) for i in todo))
        own = processes.own(todo)
        for shard, tensors in _shards(capture, now, own):
            writer.write_shard(shard, tensors)
        processes.meet()
        if processes.is_main:
            writer.seal(_described(capture, now, key))
        processes.meet()
    return StoredCapture(folder, key, len(planned.shards), len(finished))


def _opened(
    folder: Path,
    defining: dict[str, Any],
    plan: Callable[[], dict[str, Any]],
    said: Said,
    processes: Processes,
) -> AbstractContextManager[CaptureWriter]:
    """The folder, once the main process has locked it and its plan is there."""
    if processes.is_main:
        return _MainWriter(open_capture(folder, defining, plan=plan, said=said), processes)
    processes.meet()
    return join_capture(folder, defining, rank=processes.rank)


class _MainWriter(AbstractContextManager):
    """The main process's writer: the others are let in once it holds the lock."""

    def __init__(self, writer: AbstractContextManager, processes: Processes) -> None:
        self.writer, self.processes = writer, processes

    def __enter__(self) -> CaptureWriter:
        entered = self.writer.__enter__()
        self.processes.meet()
        return entered

    def __exit__(self, *problem: object) -> bool | None:
        return self.writer.__exit__(*problem)


def _shards(
    capture: LoadedModel, prepared: Prepared, shards: Sequence[int]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The tensors of some shards, one shard at a time; passes go on across their borders."""
    plan, rows = prepared.plan, prepared.rows
    passes = [one for shard in shards for one in plan.shard_passes(shard)]
    heard = capture.read(prepared, passes, steady=True)
    for shard in shards:
        n_values = {p: int(rows.n_kept(p)[plan.shard_rows(shard)].sum()) for p in rows.places}
        tensors: dict[str, np.ndarray] = {}
        filled = dict.fromkeys(rows.places, 0)
        for _ in plan.shard_passes(shard):
            one, values = next(heard)
            _fill(tensors, filled, values, n_values)
            for position in filled:
                filled[position] += int(rows.n_kept(position)[one.rows].sum())
        yield shard, tensors
    for _ in heard:  # ends the reading: hooks are removed
        raise StoreError("more was read than planned")


def _fill(
    tensors: dict[str, np.ndarray], filled: dict[str, int], values: Heard, n_values: dict[str, int]
) -> None:
    for (position, site, layer), states in values.items():
        name = tensor_name(position, site, layer)
        if name not in tensors:
            tensors[name] = np.empty((n_values[position], states.shape[1]), np.float32)
        start = filled[position]
        tensors[name][start : start + len(states)] = states.numpy()


def _row_bytes(capture: LoadedModel, prepared: Prepared) -> np.ndarray:
    """What every row takes on disk, (n_rows,)."""
    width = sum(capture.widths[address] for address in prepared.taps)
    kept = sum(prepared.rows.n_kept(position) for position in prepared.request.positions)
    return 4 * width * kept


def _described(capture: LoadedModel, prepared: Prepared, key: str) -> CaptureContent:
    """What a reader needs beside the shards."""
    tokens, rows, request = prepared.tokens, prepared.rows, prepared.request
    content = CaptureContent(
        prompts=tokens.texts,
        n_tokens=tokens.n_tokens,
        row_of_prompt=rows.row_of_prompt,
        positions=request.positions,
        sites=request.sites,
        model=capture.source.name,
        n_layers=capture.n_layers,
        details=capture.details(prepared) | {KEY: key},
    )
    if "all" not in request.positions:
        return content
    firsts = rows.first_prompts
    kept = kept_tokens(tokens, rows.places["all"], firsts)
    return replace(content, tokens=kept.strings, offsets=kept.offsets)


def defining_values(capture: LoadedModel, tokens: Tokens, request: Request) -> dict[str, Any]:
    """Everything that defines the values of a capture; another of any is another capture.

    A model that was loaded by name is known by the digest of its files: weights that were edited
    in memory since are not seen (give such a model itself), and hooks that were added never are.
    """
    rows = capture.rows(tokens, request)
    config, device = capture.model.config, input_device(capture.model)
    backend = getattr(capture.tokenizer, "backend_tokenizer", None)
    return {
        "code": code_version(),
        "model": capture.source.name,
        "weights": capture.source.sha256 or weights_digest(capture),
        "revision": capture.source.revision,
        "config": _digest(config.to_json_string(use_diff=False)),
        "tokenizer": _digest(backend.to_str()) if backend else type(capture.tokenizer).__name__,
        "texts": _digest(json.dumps(tokens.texts)),
        "token_ids": _digest(json.dumps([rows.ids, rows.row_of_prompt.tolist()])),
        "places": {
            position: _digest(json.dumps([p.tolist() for p in places]))
            for position, places in rows.places.items()
        },
        "dtype": str(capture.model.dtype).removeprefix("torch."),
        "device": device.type,
        "attention": str(getattr(config, "_attn_implementation", "")),
        "kernels": sorted(f.__name__ for f in faster_kernels(device.type)),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "sites": list(request.sites),
        "layers": list(request.layers),
        "layout": request.layout,
        "batch_tokens": request.batch_tokens,
    }


def weights_digest(capture: LoadedModel) -> str:
    """SHA-256 over the parameters and buffers of a model in memory, names included.

    Raises
    ------
    StoreError
        If weights lie on disk, out of reach.
    """
    digest = hashlib.sha256()
    buffers = dict(capture.model.named_buffers())  # some are in no state dictionary
    for name, tensor in sorted((capture.model.state_dict() | buffers).items()):
        if tensor.device.type == "meta":
            raise StoreError(
                f"the weights of {capture.source.name!r} are offloaded and came from no file; "
                f"load it by name to store its captures"
            )
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
