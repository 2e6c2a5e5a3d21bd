"""How many sheets a model may read side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def working_threads(model: PreTrainedModel, n_passes: int, *, steady: bool) -> Iterator[int]:
    """How many sheets to read side by side; torch's threads are shared out until the end.

    ``steady`` leaves one thread inside each product even where threads are left over: several
    sum in another order, and the last bit would depend on how many there are.
    """
    n_threads = torch.get_num_threads()
    side_by_side = _reads_side_by_side(model)
    n_workers = max(min(n_threads, n_passes), 1) if side_by_side else 1
    if side_by_side:
        torch.set_num_threads(1 if steady else max(n_threads // n_workers, 1))
    try:
        yield n_workers
    finally:
        torch.set_num_threads(n_threads)


def _reads_side_by_side(model: PreTrainedModel) -> bool:
    """Whether several threads may run this model at once: all of it in memory, no state."""
    placed = getattr(model, "hf_device_map", None) or {"": model.device}
    in_memory = all(str(device) == "cpu" for device in placed.values())
    return in_memory and lone_above(model.config) is None


def lone_above(config: object) -> int | None:
    """The length from which rotary embeddings follow the longest row of a batch; None if never.

    Dynamic and long-context scaling look at the sheet, not at the prompt: a short prompt beside a
    long one would get the long one's frequencies.
    """
    text = config.get_text_config()
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [scaling, *(v for v in scaling.values() if isinstance(v, dict))]
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope"):
            return int(
                kind.get("original_max_position_embeddings")
                or getattr(text, "original_max_position_embeddings", None)
                or text.max_position_embeddings
            )
    return None
