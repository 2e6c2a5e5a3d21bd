"""What must hold between the recorded sites of a block, on any input.

    down_proj(neuron) = mlp                     (through the norm that follows, if one does)
    heads through the projection = attention    (likewise)
    the block's wiring: sequential, parallel, scaled or post-norm, as `wiring.py` defines them

The model's own modules are called, never their weights read, so that what Accelerate has
offloaded comes to its device by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from activation_analysis.models.differences import relative_difference
from activation_analysis.models.sites import BlockSites, ModelSites, Tap
from activation_analysis.models.wiring import ROUNDINGS

INPUT = "input"  # stands beside the sites in an address: the stream that enters a block
PROJECTIONS = {
    "neuron": ("down_proj(neuron) = mlp", "mlp"),
    "head": ("heads through the projection = attention", "attention"),
}

States = Mapping[str, torch.Tensor]  # site, or "input" -> (n_tokens, width) float32, one block


@dataclass(frozen=True)
class Deviation:
    """How far one identity is from holding in one block."""

    name: str
    site: str
    layer: int
    difference: float


def identity_taps(found: ModelSites) -> dict[tuple[str, int], Tap]:
    """Where to listen in order to check every identity: each block's sites and its input."""
    return {
        (site, layer): tap
        for layer, block in enumerate(found.blocks)
        for site, tap in {INPUT: block.input, **block.taps}.items()
    }


def deviations(
    found: ModelSites,
    recorded: Sequence[Mapping[tuple[str, int], torch.Tensor]],
    dtype: torch.dtype,
) -> list[Deviation]:
    """Every identity of every block, on the tokens of all prompts together.

    Parameters
    ----------
    found : the model's sites
    recorded : per prompt, what `identity_taps` heard: (site, layer) -> (n_tokens, width)
    dtype : in which the model computes; sums may be off by its rounding

    A block whose sites were recorded in part is checked for what they allow; one whose wiring is
    not known has neither ``attention`` nor ``mlp``, so that nothing is claimed of them.
    """
    checked = []
    for layer, block in enumerate(found.blocks):
        states = {
            site: torch.cat([prompt[site, layer] for prompt in recorded]).float()
            for site in (INPUT, *block.taps)
            if all((site, layer) in prompt for prompt in recorded)
        }
        for site in PROJECTIONS:
            if {site, PROJECTIONS[site][1]} <= states.keys() and site in block.leads_to:
                checked.append(_projection(block, states, site, layer, dtype))
        if block.wiring and {INPUT, "attention", "mlp", "residual"} <= states.keys():
            checked.append(_wiring(block, states, layer, dtype))
    return checked


def _projection(
    block: BlockSites, states: States, site: str, layer: int, dtype: torch.dtype
) -> Deviation:
    name, target = PROJECTIONS[site]
    found = states[site]
    for module in block.leads_to[site]:
        found = through(module, found, dtype)
    return Deviation(name, site, layer, relative_difference(found, states[target]))


def _wiring(block: BlockSites, states: States, layer: int, dtype: torch.dtype) -> Deviation:
    """The sum against what it adds, not against the stream, which may be a thousand times larger.

    Each element is allowed the rounding of its own terms. A sum inside a norm is judged by what
    the norm puts out.
    """
    wiring, found = block.wiring, states["residual"]
    stream, attention, mlp = states[INPUT], states["attention"], states["mlp"]
    if wiring.norms:
        first, second = wiring.norms
        between = through(first, stream + attention, dtype)
        expected = through(second, between + mlp, dtype)
        return Deviation(wiring.name, "residual", layer, relative_difference(found, expected))
    added = wiring.scale * (attention + mlp)
    expected = stream + added
    size = stream.abs() + wiring.scale * (attention.abs() + mlp.abs()) + found.abs()
    allowed = ROUNDINGS * torch.finfo(dtype).eps * size
    explained = torch.where((found - expected).abs() <= allowed, expected, found)
    difference = relative_difference(explained, expected, scale=added)
    return Deviation(wiring.name, "residual", layer, difference)


def through(module: nn.Module, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a module makes of ``states``, (n_tokens, width), float32 on the CPU.

    It is called on its own device and in its own precision; a hook of Accelerate moves the input
    of an offloaded one.
    """
    parameter = next(module.parameters(), None)
    if parameter is not None:
        if parameter.device.type != "meta":
            states = states.to(parameter.device)
        # Weights packed into integers compute in the model's precision.
        states = states.to(parameter.dtype if parameter.is_floating_point() else dtype)
    with torch.inference_mode():
        return module(states).to("cpu", torch.float32)
