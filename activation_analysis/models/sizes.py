"""How large a model is, read from its configuration: no weight is loaded or made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from activation_analysis.models.sites import find_blocks

# By family; a family that names none has four times the hidden size.
INNER_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim")


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model without its head, and of its blocks."""

    n_parameters: int
    n_in_blocks: int
    n_blocks: int


def model_size(config: Any) -> ModelSize:
    """Count the parameters of the model that a configuration describes."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    blocks = find_blocks(model)
    return ModelSize(
        n_parameters=sum(p.numel() for p in model.parameters()),
        n_in_blocks=sum(p.numel() for block in blocks for p in block.parameters()),
        n_blocks=len(blocks),
    )


def site_width(site: str, config: Any) -> int:
    """Units of one layer at a site, as the configuration tells."""
    text = config.get_text_config()
    if site == "neuron":
        named = (getattr(text, name, None) for name in INNER_WIDTHS)
        return next((width for width in named if width), 4 * text.hidden_size)
    if site == "head":
        heads = text.num_attention_heads
        return heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    return text.hidden_size


def products_per_second(size: int = 1024) -> float:
    """Floating-point operations per second of a float32 product here, best of three."""
    x = torch.ones(size, size)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
