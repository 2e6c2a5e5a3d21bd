"""Where in a model each site is: found by structure, proved by arithmetic.

One short forward pass is traced. In every block, the attention child is the one whose class says
so; the last linear layer that runs inside it is the output projection, whose input is the heads.
The last linear layer outside it is the down-projection, whose input is the neurons. What is
*added to the stream* is then the candidate (sublayer, its post-norm, or its projection) for which

    residual_in + attention + mlp = residual_out

holds on the traced numbers. So parallel blocks, post-norms and sublayers that add the residual
themselves need no table.
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the sublayers' norm
HALF_TOLERANCE = 5e-2


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


@dataclass
class _Call:
    """One traced module call: its place in the order, first input and first output."""

    order: int
    module: nn.Module
    input: torch.Tensor | None
    output: torch.Tensor | None


def first_tensor(value: object) -> torch.Tensor | None:
    """The tensor in what a module returned or received, which may be a tuple or the tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], torch.Tensor):
        return value[0]
    return None


def received(args: tuple, kwargs: dict) -> torch.Tensor | None:
    """The hidden states that a module was called with, by position or by name."""
    return first_tensor(args) if args else first_tensor(kwargs.get("hidden_states"))


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


def find_sites(model: PreTrainedModel, input_ids: Sequence[int]) -> list[BlockSites]:
    """The taps of every block, proved on one short text.

    Parameters
    ----------
    model : base model or model with a head; nothing is changed and no hook stays
    input_ids : a few token ids for the traced forward pass

    Raises
    ------
    ModelError
        If a block has no attention (a state-space model, say).
    """
    blocks = find_blocks(model)
    traces: list[dict[str, _Call]] = [{} for _ in blocks]
    handles = [
        module.register_forward_hook(_tracer(traces[i], name), with_kwargs=True)
        for i, block in enumerate(blocks)
        for name, module in block.named_modules()
    ]
    try:
        with torch.inference_mode():
            ids = torch.tensor([list(input_ids)], device=input_device(model))
            model.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    family = model.config.get_text_config().model_type
    hidden = traces[0][""].output.shape[-1]
    return [_sites_of(trace, family, hidden) for trace in traces]


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: the embedding's device, which an offloaded module names in its hook."""
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return torch.device(device) if device is not None else embedding.weight.device


def _tracer(trace: dict[str, _Call], name: str):
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        trace[name] = _Call(
            len(trace), module, _copy(received(args, kwargs)), _copy(first_tensor(output))
        )

    return hook


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    # Some blocks add to a sublayer's output in place (Falcon's parallel branch).
    return None if tensor is None else tensor.detach().clone()


def _sites_of(trace: dict[str, _Call], family: str, hidden: int) -> BlockSites:
    if family in ARCHITECTURES:
        return _sites_of_row(trace, ARCHITECTURES[family])
    return _sites_by_structure(trace, family, hidden)


def _sites_of_row(trace: dict[str, _Call], row: Architecture) -> BlockSites:
    taps = {
        "residual": Tap(trace[""].module),
        "attention": Tap(trace[row.attention].module),
        "mlp": Tap(trace[row.mlp].module),
        "neuron": Tap(trace[row.neuron].module, reads_input=True),
        "head": Tap(trace[row.head].module, reads_input=True),
    }
    additive = _adds_up(trace[""], trace[row.attention], trace[row.mlp])
    return BlockSites(taps, additive)


def _sites_by_structure(trace: dict[str, _Call], family: str, hidden: int) -> BlockSites:
    children = sorted(
        ((name, call) for name, call in trace.items() if name and "." not in name),
        key=lambda item: item[1].order,
    )
    attention = next((n for n, c in children if _is_attention(c.module)), None)
    if attention is None:
        raise ModelError(
            f"no attention found in the blocks of model family {family!r}, so its sites cannot be "
            f"told apart; add a row to models/architectures.py "
            f"(known: {', '.join(sorted(ARCHITECTURES))}), or use another model"
        )
    linears = sorted((c.order, n) for n, c in trace.items() if _is_projection(c, hidden))
    inside = [n for _, n in linears if n.startswith(attention + ".")]
    outside = [n for _, n in linears if not n.startswith(attention + ".")]
    down = outside[-1] if outside else None
    mlp = down.split(".")[0] if down else _last_sublayer(children, attention, hidden)

    attention_candidates = _candidates(children, attention, inside[-1] if inside else None)
    mlp_candidates = _candidates(children, mlp, down)
    chosen = next(
        (
            (a, m)
            for a, m in product(attention_candidates, mlp_candidates)
            if _adds_up(trace[""], trace[a], trace[m])
        ),
        None,
    )
    # Without an identity (a norm around the sum), the projection is what enters the stream.
    a, m = chosen or (attention_candidates[-1], mlp_candidates[-1])
    taps = {
        "residual": Tap(trace[""].module),
        "attention": Tap(trace[a].module),
        "mlp": Tap(trace[m].module),
    }
    missing = {}
    if inside:
        taps["head"] = Tap(trace[inside[-1]].module, reads_input=True)
    else:
        missing["head"] = "attention has no output projection that is a linear layer"
    if down and _produces(trace[down], trace[mlp], trace.get(m)):
        taps["neuron"] = Tap(trace[down].module, reads_input=True)
    else:
        missing["neuron"] = "no down-projection yields the MLP's output (a mixture of experts?)"
    return BlockSites(taps, additive=chosen is not None, missing=missing)


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and "norm" not in name


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_projection(call: _Call, hidden: int) -> bool:
    is_linear = isinstance(call.module, nn.Linear) or type(call.module).__name__ == "Conv1D"
    return is_linear and call.output is not None and call.output.shape[-1] == hidden


def _last_sublayer(children: list[tuple[str, _Call]], attention: str, hidden: int) -> str:
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
    children: list[tuple[str, _Call]], sublayer: str, projection: str | None
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


def _adds_up(block: _Call, attention: _Call, mlp: _Call) -> bool:
    if block.input is None or attention.output is None or mlp.output is None:
        return False
    device = block.output.device
    update = sum(c.output.to(device).double().reshape(block.input.shape) for c in (attention, mlp))
    error = block.output.double() - block.input.to(device).double() - update
    return bool(error.norm() <= _tolerance(block.output) * update.norm())


def _produces(down: _Call, *outputs: _Call | None) -> bool:
    """Whether the down-projection's output is one of ``outputs``, or is only normed to one."""
    for call in outputs:
        if call is None or call.output is None:
            continue
        if call is down or (_is_norm(call.module) and _same(down.output, call.input)):
            return True
        if _same(down.output, call.output):
            return True
    return False


def _same(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
    if x is None or y is None or x.numel() != y.numel():
        return False
    x, y = x.double().flatten(), y.to(x.device).double().flatten()
    return bool((x - y).norm() <= _tolerance(x) * y.norm())


def _tolerance(tensor: torch.Tensor) -> float:
    return TOLERANCE.get(tensor.dtype, HALF_TOLERANCE)


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
