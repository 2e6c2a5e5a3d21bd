"""What the configurations of some model families mean, which structure does not show.

Where a model's sites are needs no table: `sites.py` finds them by tracing one short forward pass
and proves what it found.
"""

from __future__ import annotations

from typing import Any

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
