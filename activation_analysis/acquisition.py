"""From prompts that are ready to activations: kept in the store, or streamed past and forgotten.

Every process of a distributed run comes here; the main one goes on to the analysis.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis.activations import KEY, Activations, RaggedActivations
from activation_analysis.analyses.streamed import StreamedMoments, StreamedRecording
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment
from activation_analysis.store import capture_key, captures_folder, open_recording

if TYPE_CHECKING:
    from activation_analysis.models.checks import Proof
    from activation_analysis.models.distributed import Processes
    from activation_analysis.models.loaded_model import LoadedModel
    from activation_analysis.models.request import Prepared, Request
    from activation_analysis.models.tokenizing import Tokens
    from activation_analysis.pipeline import Ready


@dataclass(frozen=True)
class Acquired:
    """The activations of an experiment, and how they came about."""

    activations: Activations | StreamedRecording
    folder: Path | None = None  # of the capture in the store
    proof: Proof | None = None  # None where nothing had to be read
    forward: float = 0.0  # seconds inside the model
    seconds: float = 0.0  # of the capture, forward passes and all around them
    notes: tuple[str, ...] = field(default=())  # what the user was told on the way


def acquire(
    experiment: Experiment,
    ready: Ready,
    *,
    stream: StreamedMoments | None = None,
    processes: Processes | None = None,
    progress: bool = True,
) -> Acquired | None:
    """Record what is not in the store yet; None in all processes but the main one.

    Parameters
    ----------
    ready : what `pipeline.prepare` returned
    stream : where batches go if nothing is to be kept, as `pipeline.stream` made it
    processes : those of a distributed run
    """
    from activation_analysis.models.distributed import ALONE

    processes = processes or ALONE
    capture = load_capture(experiment, ready, progress=progress and processes.is_main)
    loaded = time.perf_counter()
    request = requested(experiment)
    way = _stored if stream is None else _streamed
    acquired = way(experiment, capture, ready.tokens, request, processes, stream)
    if acquired is None:
        return None
    activations, folder = acquired
    return Acquired(
        activations=activations,
        folder=folder,
        proof=capture.proof,
        forward=capture.last_time.forward,
        seconds=time.perf_counter() - loaded,
        notes=tuple(capture.notes),
    )


def load_capture(experiment: Experiment, ready: Ready, *, progress: bool) -> LoadedModel:
    """The experiment's model, on this process's device."""
    from activation_analysis.models.distributed import own_device
    from activation_analysis.models.loaded_model import LoadedModel

    options = experiment.model
    return LoadedModel(
        ready.source,
        device=own_device(options.device),
        dtype=options.dtype,
        tokenizer=ready.tokenizer,
        max_memory=options.memory_limits,
        offload_folder=options.offload_folder or None,
        progress=progress,
    )


def requested(experiment: Experiment) -> Request:
    """What the experiment asks of its model."""
    from activation_analysis.models.request import Request

    options = experiment.recording
    return Request(
        sites=options.sites,
        layers=options.layers,
        positions=(options.position,),
        skip_first=options.skip_first,
        batch_tokens=options.batch_tokens,
        layout=options.layout,
    )


def stored_recording(folder: Path) -> Activations:
    """A stored capture as analyses take it: one row per prompt, read when it is needed.

    Where every token was kept, a prompt's row is the mean of its tokens.
    """
    recording = open_recording(folder)
    return recording.pooled("mean") if isinstance(recording, RaggedActivations) else recording


Answer = tuple[Activations | StreamedRecording, Path | None]


def _stored(
    experiment: Experiment,
    capture: LoadedModel,
    tokens: Tokens,
    request: Request,
    processes: Processes,
    _: None,
) -> Answer | None:
    from activation_analysis.models.stored_capture import store_capture

    done = store_capture(capture, tokens, request, root=captures_folder(), processes=processes)
    if not processes.is_main:
        return None
    if done.was_there:
        capture.said(f"this capture was made before, and is used again: {done.folder}")
    elif done.n_kept:
        capture.said(
            f"{done.n_kept} of {done.n_shards} parts of this capture were finished before and kept"
        )
    return stored_recording(done.folder), done.folder


def _streamed(
    experiment: Experiment,
    capture: LoadedModel,
    tokens: Tokens,
    request: Request,
    processes: Processes,
    stream: StreamedMoments,
) -> Answer | None:
    from activation_analysis.models.stored_capture import defining_values

    if "all" in request.positions:
        raise ExperimentError(
            "[recording] position 'all' keeps every token, and a stream keeps nothing; use "
            'position = "mean", or leave out stream'
        )
    key = capture_key(defining_values(capture, tokens, request))
    prepared = capture.prepare(tokens, request)
    _add_own(capture, prepared, stream, processes)
    if processes.size > 1:
        stream = _exchanged(stream, captures_folder() / f"stream-{key[:32]}", processes)
    if not processes.is_main:
        return None
    recording = StreamedRecording(
        prompts=tokens.texts,
        n_tokens=tokens.n_tokens,
        position=request.positions[0],
        model=capture.source.name,
        n_layers=capture.n_layers,
        widths=stream.widths(request.sites),
        details=capture.details(prepared) | {KEY: key},
        moments=stream,
    )
    return recording, None


def _add_own(
    capture: LoadedModel, prepared: Prepared, stream: StreamedMoments, processes: Processes
) -> None:
    """This process's share of the passes, each forgotten once its moments are taken."""
    rows, position = prepared.rows, prepared.request.positions[0]
    passes = processes.own(list(prepared.plan.passes))
    for one, heard in capture.read(prepared, passes):
        # A prompt that stands there several times was read once.
        parts = [rows.prompts_of(row) for row in one.rows]
        source = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        values = {
            (site, layer): states.numpy()[source]
            for (at, site, layer), states in heard.items()
            if at == position
        }
        stream.add(np.concatenate(parts), values)


def _exchanged(stream: StreamedMoments, folder: Path, processes: Processes) -> StreamedMoments:
    """The streams of all processes as one, in the main one; files carry them there."""
    from safetensors.numpy import load_file, save_file

    if processes.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    processes.meet()
    if not processes.is_main:
        save_file(stream.to_arrays(), folder / f"rank-{processes.rank}.safetensors")
    processes.meet()
    if processes.is_main:
        for rank in range(1, processes.size):
            other = load_file(folder / f"rank-{rank}.safetensors")
            stream = stream.merge(StreamedMoments.from_arrays(other))
        shutil.rmtree(folder)
    return stream
