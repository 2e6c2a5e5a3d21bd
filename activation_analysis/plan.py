"""What a run would take, said before it starts: tokens, time, memory and disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from activation_analysis.pipeline import Ready

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
WORDS_OVERHEAD = 1.25  # padding, hooks and small products, over the bare matrix products
FIXED_SECONDS = 20.0  # start-up, loading, figures and tracking on a small machine
SECONDS_PER_MILLION_TESTS = 0.3  # unit x prompt products of a t-test, in millions per 10 prompts
TABLE_BYTES_PER_UNIT = 70  # parquet columns of one unit


@dataclass(frozen=True)
class Plan:
    """An estimate; time is for this machine, measured with one matrix product."""

    model: str
    n_prompts: int
    n_tokens: int
    longest: int
    n_layers: int
    n_units: int
    n_parameters: int
    seconds: float
    memory_bytes: int
    disk_bytes: int


def plan(ready: Ready) -> Plan:
    """Estimate a run of an experiment that `pipeline.prepare` has looked at."""
    import torch
    from transformers import AutoModel

    from activation_analysis.models.sites import find_blocks

    experiment, config, tokens = ready.experiment, ready.config, ready.tokens
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    blocks = find_blocks(model)
    n_parameters = sum(p.numel() for p in model.parameters())
    in_blocks = sum(p.numel() for block in blocks for p in block.parameters())

    recorded = experiment.recording.layers or range(len(blocks))
    n_units = len(recorded) * sum(_width(site, config) for site in experiment.recording.sites)
    n_tokens = int(tokens.n_tokens.sum())
    n_prompts = len(tokens)
    capture_bytes = n_prompts * n_units * 4
    dtype = experiment.model.dtype
    weight_bytes = n_parameters * BYTES.get(dtype, 4)
    batch = max(experiment.recording.batch_tokens, int(tokens.n_tokens.max()))
    return Plan(
        model=experiment.model.id,
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        longest=int(tokens.n_tokens.max()),
        n_layers=len(blocks),
        n_units=n_units,
        n_parameters=n_parameters,
        seconds=FIXED_SECONDS
        + WORDS_OVERHEAD * 2 * in_blocks * n_tokens / products_per_second()
        + SECONDS_PER_MILLION_TESTS * n_prompts * n_units / 1e7,
        # Weights, one batch of wide states, the matrix with its float64 copy of one block.
        memory_bytes=weight_bytes + batch * 8 * _width("neuron", config) * 4 + 3 * capture_bytes,
        disk_bytes=capture_bytes + TABLE_BYTES_PER_UNIT * n_units * len(experiment.contrasts),
    )


def _width(site: str, config) -> int:
    text = config.get_text_config()
    if site == "neuron":
        return getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    if site == "head":
        heads = text.num_attention_heads
        return heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    return text.hidden_size


def products_per_second(size: int = 1024) -> float:
    """Floating-point operations per second of a float32 product, best of three."""
    import torch

    x = torch.from_numpy(np.ones((size, size), dtype=np.float32))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
