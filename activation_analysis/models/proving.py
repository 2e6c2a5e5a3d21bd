"""Proof at load: this model, in batches, gives the numbers that it gives one prompt at a time.

The arithmetic of the checks is in `proof.py`; here the prompts are read, in every way that a
capture might read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from activation_analysis.models.batching import Pass, Plan
from activation_analysis.models.prefixes import Prefix
from activation_analysis.models.reading import Reader
from activation_analysis.models.recording import Address, evaluating, recording
from activation_analysis.models.rows import Rows
from activation_analysis.models.sites import ModelSites, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = list[list[int]]
Reading = Callable[..., list[dict[Address, torch.Tensor]]]


def _alone(ids: Ids) -> Plan:
    return Plan("padded", 1, (), tuple(Pass(np.array([i])) for i in range(len(ids))))


def _together(layout: str) -> Callable[[Ids], Plan]:
    return lambda ids: Plan(layout, 1, (), (Pass(np.arange(len(ids))),))


def _behind_a_prefix(layout: str) -> Callable[[Ids], Plan]:
    def plan(ids: Ids) -> Plan:
        rows = np.arange(len(ids))
        length = next(
            n for n in range(min(map(len, ids))) if n + 1 == min(map(len, ids)) or not _same(ids, n)
        )
        return Plan(layout, 1, (Prefix(rows, length),), (Pass(rows, 0),))

    return plan


def _same(ids: Ids, n: int) -> bool:
    return len({row[n] for row in ids}) == 1


WAYS: dict[str, Callable[[Ids], Plan]] = {
    "alone": _alone,
    "padded": _together("padded"),
    "packed": _together("packed"),
    "prefix, padded": _behind_a_prefix("padded"),
    "prefix, packed": _behind_a_prefix("packed"),
}


def every_token(model: PreTrainedModel, sites: ModelSites) -> Reading:
    """A function that reads a few prompts one way and keeps some tokens of each.

    ``reading(ids, way, taps, kept)`` returns a dict for every prompt: address -> (n_kept, width).
    """

    def reading(
        ids: Ids, way: str, taps: Mapping[Address, Tap], kept: Sequence[np.ndarray] | None = None
    ) -> list[dict[Address, torch.Tensor]]:
        kept = [_some_places(len(row)) for row in ids] if kept is None else list(kept)
        rows = Rows(ids, {"all": kept}, {"all": "every"}, np.arange(len(ids)))
        plan = WAYS[way](ids)
        answer: list[dict[Address, torch.Tensor]] = [{} for _ in ids]
        with evaluating(model), recording(taps) as recorder:
            reader = Reader(model, recorder, causal=sites.causal, faster=way != "alone")
            for one, heard in reader.read(rows, plan, plan.passes):
                for (_, *address), states in heard.items():
                    parts = states.split([len(kept[i]) for i in one.rows])
                    for i, part in zip(one.rows, parts, strict=True):
                        answer[i][tuple(address)] = part
        return answer

    return reading


def _some_places(n: int) -> np.ndarray:
    """First, last and two between: every site at every place would be the whole model's states."""
    return np.unique(np.array([0, n // 3, (2 * n) // 3, n - 1]))
