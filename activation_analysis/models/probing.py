"""A few prompts read one way or another: alone, padded, packed, behind a shared beginning.

For `proof.py`, which compares what comes back, and for single texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from activation_analysis.models.batching import Pass, Plan
from activation_analysis.models.identities import identity_taps
from activation_analysis.models.prefixes import Prefix
from activation_analysis.models.proof import Proof, kept_places, prove
from activation_analysis.models.reading import Reader
from activation_analysis.models.recording import Address, evaluating, recording
from activation_analysis.models.rows import Rows
from activation_analysis.models.sites import ModelSites, Tap
from activation_analysis.models.tracing import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = list[list[int]]


def _alone(ids: Ids, layout: str) -> Plan:
    return Plan("padded", 1, (), tuple(Pass(np.array([i])) for i in range(len(ids))))


def _padded(ids: Ids, layout: str) -> Plan:
    return Plan("padded", 1, (), (Pass(np.arange(len(ids))),))


def _packed(ids: Ids, layout: str) -> Plan:
    return Plan("packed", 1, (), (Pass(np.arange(len(ids))),))


def _behind_prefixes(ids: Ids, layout: str) -> Plan:
    """Every prompt behind its own first half, in the layout of the capture."""
    rows = [np.array([i]) for i in range(len(ids)) if len(ids[i]) > 1]
    prefixes = tuple(Prefix(row, len(ids[row[0]]) // 2) for row in rows)
    short = [Pass(np.array([i])) for i in range(len(ids)) if len(ids[i]) == 1]
    return Plan(layout, 1, prefixes, (*(Pass(row, k) for k, row in enumerate(rows)), *short))


WAYS: dict[str, Callable[[Ids, str], Plan]] = {
    "alone": _alone,
    "padded": _padded,
    "packed": _packed,
    "prefix": _behind_prefixes,
}


@dataclass(frozen=True)
class Proven:
    """What is known of a model once it was proved."""

    proof: Proof
    preferred: str  # layout
    holds: frozenset[str]  # layouts, and "prefix", which is proved in the preferred one
    widths: Mapping[Address, int]  # units of every site and layer


def proved(
    model: PreTrainedModel, found: ModelSites, ids: Ids, *, with_prefix: bool = False
) -> Proven:
    """Prove a model on a few of the prompts ``ids``, in every layout that it may be read in.

    Packing is taken to hold only where every attention product was seen and done prompt by
    prompt: a model that does without, by a mask over the whole row, would be slower packed.
    """
    probing = Probing(model, causal=found.causal)
    seen = {"packed": False}
    # One token, to learn how much room the others need.
    first = probing([ids[0][:1]], "alone", identity_taps(found))[0]
    probing.widths = {address: states.shape[1] for address, states in first.items()}

    def record(ids: Ids, way: str, taps: Mapping[Address, Tap]) -> list[dict]:
        answer = probing(ids, way, taps)
        if way == "packed":
            seen[way] = probing.n_products >= len(found.blocks)
            # Packing saves the padding; on a GPU it loses the fused causal kernels.
            if seen[way] and input_device(model).type == "cpu":
                probing.layout = "packed"
        return answer

    takes_places = "position_ids" in inspect.signature(model.base_model.forward).parameters
    layouts = ["padded", *(["packed"] * takes_places), *(["prefix"] * with_prefix)]
    proof = prove(found, record, ids, model.dtype, layouts=layouts)
    holds = {layout for layout in layouts if proof.holds(layout) and seen.get(layout, True)}
    preferred = probing.layout if probing.layout in holds else "padded"
    if preferred != probing.layout:
        holds.discard("prefix")
    return Proven(proof, preferred, frozenset(holds), probing.widths)


class Probing:
    """Reads a few prompts in any way, and keeps some tokens of each.

    ``n_products`` is how many attention products were done prompt by prompt in the last pass.
    """

    def __init__(self, model: PreTrainedModel, *, causal: bool, layout: str = "padded") -> None:
        self.model, self.causal, self.layout = model, causal, layout
        self.n_products = 0
        self.widths: dict[Address, int] = {}

    def __call__(
        self,
        ids: Ids,
        way: str,
        taps: Mapping[Address, Tap],
        kept: Sequence[np.ndarray] | None = None,
    ) -> list[dict[Address, torch.Tensor]]:
        """The kept places of every prompt: address -> (n_kept, width), a dict per prompt."""
        kept = [kept_places(len(row)) for row in ids] if kept is None else list(kept)
        rows = Rows(ids, {"all": kept}, {"all": "every"}, np.arange(len(ids)))
        plan = WAYS[way](ids, self.layout)
        answer: list[dict[Address, torch.Tensor]] = [{} for _ in ids]
        with evaluating(self.model), recording(taps, self.widths) as recorder:
            reader = Reader(self.model, recorder, causal=self.causal, faster=way != "alone")
            for one, heard in reader.read(rows, plan, plan.passes):
                for (_, *address), states in heard.items():
                    parts = states.split([len(kept[i]) for i in one.rows])
                    for i, part in zip(one.rows, parts, strict=True):
                        answer[i][tuple(address)] = part
        self.n_products = reader.n_products
        return answer
