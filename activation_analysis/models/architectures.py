"""Rows for model families whose sites structure alone cannot find.

Most families need none: `sites.py` finds attention, MLP and their projections by tracing one
short forward pass and proves what it found. A row names modules relative to the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Where one family keeps its sublayers, as module paths inside a block."""

    attention: str  # module whose output is added to the stream
    mlp: str  # module whose output is added to the stream
    head: str  # output projection of attention; its input is the heads
    neuron: str  # down-projection of the MLP; its input is the neurons


ARCHITECTURES: dict[str, Architecture] = {
    # Post-norm encoders: the sublayers' outputs meet the stream inside a LayerNorm.
    "bert": Architecture(
        attention="attention.output.dense",
        mlp="output.dense",
        head="attention.output.dense",
        neuron="output.dense",
    ),
    "roberta": Architecture(
        attention="attention.output.dense",
        mlp="output.dense",
        head="attention.output.dense",
        neuron="output.dense",
    ),
}

# Families that number positions from their pad id on: so many of max_position_embeddings are lost.
POSITIONS_FOLLOW_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)


def first_position(config: Any) -> int:
    """The position id of a prompt's first token."""
    text = config.get_text_config()
    if text.model_type in POSITIONS_FOLLOW_PADDING:
        return (text.pad_token_id or 0) + 1
    return 0
