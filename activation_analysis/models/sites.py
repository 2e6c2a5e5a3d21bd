"""Where in a model each site is: found by structure, proved by arithmetic.

One short forward pass is traced. In every block, the attention child is the one whose class says
so; the last linear layer that runs inside it is the output projection, whose input is the heads.
The last linear layer outside it is the down-projection, whose input is the neurons. What is
*added to the stream* is then the candidate (sublayer, its post-norm, or its projection) for which

    residual_in + attention + mlp = residual_out

holds on the traced numbers, to their rounding. So parallel blocks, post-norms and sublayers that
add the residual themselves need no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import nn

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError
from activation_analysis.models.architectures import ARCHITECTURES, Architecture
from activation_analysis.models.tracing import Call, Trace, is_causal, same, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDINGS = 4  # units of rounding that a sum of three terms may be off, per element
STRAYS = 0.01  # share of elements that may be further off (overflowed ones, say)


@dataclass(frozen=True)
class Tap:
    """A place to listen: a module, and whether its input or its output is the site."""

    module: nn.Module
    reads_input: bool = False


@dataclass(frozen=True)
class BlockSites:
    """The taps of one block; a site that the block does not have is absent."""

    taps: dict[str, Tap]
    additive: bool  # residual_in + attention + mlp = residual_out was seen to hold
    missing: dict[str, str] = field(default_factory=dict)  # site -> why it is absent


@dataclass(frozen=True)
class ModelSites:
    """The taps of every block, and whether no token reads what follows it."""

    blocks: list[BlockSites]
    causal: bool


def find_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the model: its ``ModuleList`` of ``num_hidden_layers`` entries."""
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not stacks:
        raise ModelError(
            f"no stack of {n_layers} blocks found in a {model.config.model_type!r} model; "
            f"models with one list of transformer blocks can be recorded"
        )
    return list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters())))


def find_sites(model: PreTrainedModel) -> ModelSites:
    """The taps of every block, proved on one short forward pass.

    Parameters
    ----------
    model : base model or model with a head, dropout off; nothing is changed and no hook stays

    Raises
    ------
    ModelError
        If a block has no attention (a state-space model, say).
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"an encoder-decoder ({model.config.model_type}) cannot be recorded; "
            f"decoders and encoders with one stack of blocks can"
        )
    traces = trace(model, find_blocks(model))
    family = model.config.get_text_config().model_type
    blocks = [_sites_of(calls, family, layer) for layer, calls in enumerate(traces)]
    return ModelSites(blocks, causal=is_causal(traces))


def _sites_of(calls: Trace, family: str, layer: int) -> BlockSites:
    if family in ARCHITECTURES:
        return _sites_of_row(calls, ARCHITECTURES[family])
    return _sites_by_structure(calls, f"{family!r}, block {layer}")


def _sites_of_row(calls: Trace, row: Architecture) -> BlockSites:
    taps = {
        "residual": Tap(calls[""].module),
        "attention": Tap(calls[row.attention].module),
        "mlp": Tap(calls[row.mlp].module),
        "neuron": Tap(calls[row.neuron].module, reads_input=True),
        "head": Tap(calls[row.head].module, reads_input=True),
    }
    strays = _strays(calls[""], calls[row.attention], calls[row.mlp])
    return BlockSites(taps, additive=strays <= STRAYS)


def _sites_by_structure(calls: Trace, place: str) -> BlockSites:
    hidden = calls[""].output.shape[-1]
    children = sorted(
        ((name, call) for name, call in calls.items() if name and "." not in name),
        key=lambda item: item[1].order,
    )
    attention = next((n for n, c in children if _is_attention(c.module)), None)
    if attention is None:
        parts = ", ".join(type(call.module).__name__ for _, call in children)
        raise ModelError(
            f"no attention found in model family {place} (its parts: {parts}); state-space and "
            f"recurrent blocks cannot be recorded, and other blocks need a row in "
            f"models/architectures.py (known: {', '.join(sorted(ARCHITECTURES))})"
        )
    linears = sorted((c.order, n) for n, c in calls.items() if _is_projection(c, hidden))
    inside = [n for _, n in linears if n.startswith(attention + ".")]
    outside = [n for _, n in linears if not n.startswith(attention + ".")]
    out = inside[-1] if inside else None
    down = outside[-1] if outside else None
    mlp = down.split(".")[0] if down else _last_sublayer(children, attention, hidden)

    pairs = product(_candidates(children, attention, out), _candidates(children, mlp, down))
    strays, a, m = min(
        ((_strays(calls[""], calls[a], calls[m]), a, m) for a, m in pairs),
        key=lambda scored: scored[0],
    )
    if strays > STRAYS:
        a, m = _unproved(calls, attention, out), _unproved(calls, mlp, down)
    taps = {
        "residual": Tap(calls[""].module),
        "attention": Tap(calls[a].module),
        "mlp": Tap(calls[m].module),
    }
    missing = {}
    if out and _produces(calls[out], calls[attention], calls[a]):
        taps["head"] = Tap(calls[out].module, reads_input=True)
    else:
        missing["head"] = "no output projection yields the attention's output"
    if down and _produces(calls[down], calls[mlp], calls[m]):
        taps["neuron"] = Tap(calls[down].module, reads_input=True)
    else:
        missing["neuron"] = "no down-projection yields the MLP's output (a mixture of experts?)"
    return BlockSites(taps, additive=strays <= STRAYS, missing=missing)


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and "norm" not in name


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_projection(call: Call, hidden: int) -> bool:
    is_linear = isinstance(call.module, nn.Linear) or type(call.module).__name__ == "Conv1D"
    return is_linear and call.output is not None and call.output.shape[-1] == hidden


def _last_sublayer(children: list[tuple[str, Call]], attention: str, hidden: int) -> str:
    """The block's other sublayer, where no linear layer of it was seen to run."""
    return [
        name
        for name, call in children
        if name != attention
        and not _is_norm(call.module)
        and call.output is not None
        and call.output.shape[-1] == hidden
    ][-1]


def _candidates(
    children: list[tuple[str, Call]], sublayer: str, projection: str | None
) -> list[str]:
    """What may be added to the stream: the sublayer, a norm right after it, its projection."""
    names = [name for name, _ in children]
    after = names.index(sublayer) + 1
    candidates = [sublayer]
    if after < len(children) and _is_norm(children[after][1].module):
        candidates.append(names[after])
    if projection and projection != sublayer:
        candidates.append(projection)
    return candidates


def _unproved(calls: Trace, sublayer: str, projection: str | None) -> str:
    """What is added where no identity shows it (a norm or a scale around the sum).

    A sublayer that holds a norm has added the stream already, so it is its projection; another
    is taken whole, since its last projection may be one expert's.
    """
    norms = (n for n, c in calls.items() if n.startswith(sublayer + ".") and _is_norm(c.module))
    return projection if projection and any(norms) else sublayer


def _strays(block: Call, attention: Call, mlp: Call) -> float:
    """The share of elements in which residual + attention + mlp is not the next residual.

    Judged element by element, at the rounding of its own terms: a few massive coordinates of the
    stream would otherwise drown the sublayers' outputs, in half precision above all.
    """
    if block.input is None or attention.output is None or mlp.output is None:
        return 1.0
    terms = [t.cpu().double() for t in (block.input, attention.output, mlp.output)]
    if any(t.numel() != block.output.numel() for t in terms):
        return 1.0
    after = block.output.cpu().double()
    terms = [t.reshape(after.shape) for t in terms]
    size = sum(t.abs() for t in (*terms, after))
    rounding = torch.finfo(block.output.dtype).eps
    close = (sum(terms) - after).abs() <= ROUNDINGS * rounding * size
    return 1.0 - float(close.double().mean())


def _produces(projection: Call, *outputs: Call) -> bool:
    """Whether the projection's output is one of ``outputs``."""
    return any(call is projection or same(projection.output, call.output) for call in outputs)


def require_sites(found: list[BlockSites], sites: Sequence[str], layers: Sequence[int]) -> None:
    """Raise a ModelError that names every asked site a block does not have."""
    problems = {
        f"{site}: {found[layer].missing.get(site, 'not found')}"
        for layer in layers
        for site in sites
        if site not in found[layer].taps
    }
    if problems:
        there = [s for s in SITES if all(s in found[layer].taps for layer in layers)]
        raise ModelError(
            f"this model lacks sites that were asked for ({'; '.join(sorted(problems))}); "
            f"it has: {', '.join(there)}"
        )
