"""What a run would take, said before it starts: tokens, time, memory and disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from activation_analysis.pipeline import Ready

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Measured with all sites of the embedded model on two idle cores.
START_SECONDS = 13.0  # imports, opening the store, provenance, uploading
SITE_SECONDS = 1.3  # a heat map, a table and a share of the other figures, of one contrast
FORWARD_TOKENS = 768  # of a forward pass on a CPU, where nothing else is asked
PASS_OVERHEAD = 1.25  # padding, attention, norms and hooks, over the bare matrix products
SECONDS_PER_MILLION_VALUES = 0.07  # statistics of one contrast; a value is one unit's, one prompt's
WEIGHT_BYTES_PER_SECOND = 1e9  # reading safetensors
LIBRARY_BYTES = 700e6  # torch, transformers, mlflow and matplotlib themselves
TABLE_BYTES_PER_UNIT = 70  # parquet columns of one unit
SITE_FIGURE_BYTES = 400e3
RUN_BYTES = 900e3  # other figures, provenance, prompts


@dataclass(frozen=True)
class Plan:
    """An estimate; time is for this machine as busy as it is, told by one matrix product.

    The first use of a GGUF file, which converts it, and downloads come on top. A GPU is faster.
    """

    model: str
    n_prompts: int
    n_tokens: int
    longest: int
    n_layers: int
    n_units: int
    n_parameters: int
    seconds: float
    memory_bytes: float
    disk_bytes: float


def plan(ready: Ready) -> Plan:
    """Estimate a run of an experiment that `pipeline.prepare` has looked at."""
    from activation_analysis.models.sizes import model_size, products_per_second, site_width

    experiment, config, tokens = ready.experiment, ready.config, ready.tokens
    size = model_size(config)
    sites, n_contrasts = experiment.recording.sites, len(experiment.contrasts)
    n_layers = len(experiment.recording.layers) or size.n_blocks
    n_units = n_layers * sum(site_width(site, config) for site in sites)
    n_prompts, n_tokens = len(tokens), int(tokens.n_tokens.sum())
    capture_bytes = 4 * n_prompts * n_units
    weight_bytes = size.n_parameters * BYTES.get(experiment.model.dtype, 4)
    batch = max(experiment.recording.batch_tokens or FORWARD_TOKENS, int(tokens.n_tokens.max()))
    return Plan(
        model=experiment.model.id,
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        longest=int(tokens.n_tokens.max()),
        n_layers=size.n_blocks,
        n_units=n_units,
        n_parameters=size.n_parameters,
        seconds=START_SECONDS
        + weight_bytes / WEIGHT_BYTES_PER_SECOND
        + PASS_OVERHEAD * 2 * size.n_in_blocks * n_tokens / products_per_second()
        + n_contrasts * SITE_SECONDS * len(sites)
        + n_contrasts * SECONDS_PER_MILLION_VALUES * n_prompts * n_units / 1e6,
        # Weights, one batch of wide states, the matrix and what its tests hold of it.
        memory_bytes=LIBRARY_BYTES
        + weight_bytes
        + batch * 8 * site_width("neuron", config) * 4
        + 3 * capture_bytes,
        disk_bytes=capture_bytes
        + n_contrasts * (TABLE_BYTES_PER_UNIT * n_units + SITE_FIGURE_BYTES * len(sites))
        + n_contrasts * RUN_BYTES,
    )
