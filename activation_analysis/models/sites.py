"""Where in a model each site is: found by structure, proved by arithmetic.

One short forward pass is traced. In every block, the attention child is the one whose class says
so; the last linear layer that runs inside it is the output projection, whose input is the heads.
The last linear layer outside it is the down-projection, whose input is the neurons. What is
*added to the stream* is then the candidate (sublayer, its post-norm, or its projection) for which

    residual_in + attention + mlp = residual_out

holds on the traced numbers, to their rounding. So parallel blocks, post-norms and sublayers that
add the residual themselves need no table. The same pass shows whether the model is causal: two
texts that differ in their last token alone must look alike before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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

TRACE_TOKENS = 6
ROUNDINGS = 4  # units of rounding that a sum of three terms may be off, per element
STRAYS = 0.01  # share of elements that may be further off (overflowed ones, say)
SAME = 1e-5  # relative difference under which two tensors are one, beside their own rounding


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
    blocks = find_blocks(model)
    traces: list[dict[str, _Call]] = [{} for _ in blocks]
    with ExitStack() as hooks:
        for block, trace in zip(blocks, traces, strict=True):
            for name, module in block.named_modules():
                tracer = _tracer(trace, name)
                hooks.callback(module.register_forward_hook(tracer, with_kwargs=True).remove)
        with torch.inference_mode():
            ids = _trace_ids(model)
            read(model, ids)
    family = model.config.get_text_config().model_type
    for i, trace in enumerate(traces):
        _refuse_layout(trace.get(""), f"{family!r}, block {i}", ids.shape)
    found = [_sites_of(trace, family, i) for i, trace in enumerate(traces)]
    return ModelSites(found, causal=_is_causal(traces[-1][""].output))


def read(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """One forward pass through the blocks alone: no language-model head, no cache.

    ``ids`` and the attention ``mask``, if there is one, are (n_rows, n_places).
    """
    device = input_device(model)
    inputs: dict[str, object] = {"input_ids": ids.to(device)}
    if mask is not None:
        inputs["attention_mask"] = mask.to(device, torch.long)
    if "use_cache" in inspect.signature(model.base_model.forward).parameters:
        inputs["use_cache"] = False
    model.base_model(**inputs)


def _refuse_layout(block: _Call | None, place: str, expected: torch.Size) -> None:
    """Raise unless the block ran and carries (rows, tokens, width)."""
    states = None if block is None else block.output
    shape = None if states is None else tuple(states.shape)
    if shape is None or len(shape) != 3 or shape[:2] != expected:
        raise ModelError(
            f"model family {place} yields {shape or 'no tensor'} for {tuple(expected)} tokens; "
            f"blocks that carry (rows, tokens, width) can be recorded"
        )


def _trace_ids(model: PreTrainedModel) -> torch.Tensor:
    """Two rows of ids from all over the vocabulary that differ in their last token alone."""
    step = max(model.get_input_embeddings().num_embeddings // (TRACE_TOKENS + 2), 1)
    ids = step * torch.arange(1, TRACE_TOKENS + 2)
    return torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])])


def _is_causal(states: torch.Tensor) -> bool:
    first, second = states[:, :-1].double()
    return bool((first - second).norm() <= SAME * first.norm())


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: the embedding's device, which an offloaded module names in its hook."""
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return embedding.weight.device
    return torch.device(embedding._hf_hook.execution_device)


def _tracer(trace: dict[str, _Call], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        trace[name] = _Call(
            len(trace), module, _copy(received(args, kwargs)), _copy(first_tensor(output))
        )

    return hook


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    # Some blocks add to a sublayer's output in place (Falcon's parallel branch).
    return None if tensor is None else tensor.detach().clone()


def _sites_of(trace: dict[str, _Call], family: str, layer: int) -> BlockSites:
    if family in ARCHITECTURES:
        return _sites_of_row(trace, ARCHITECTURES[family])
    return _sites_by_structure(trace, f"{family!r}, block {layer}")


def _sites_of_row(trace: dict[str, _Call], row: Architecture) -> BlockSites:
    taps = {
        "residual": Tap(trace[""].module),
        "attention": Tap(trace[row.attention].module),
        "mlp": Tap(trace[row.mlp].module),
        "neuron": Tap(trace[row.neuron].module, reads_input=True),
        "head": Tap(trace[row.head].module, reads_input=True),
    }
    strays = _strays(trace[""], trace[row.attention], trace[row.mlp])
    return BlockSites(taps, additive=strays <= STRAYS)


def _sites_by_structure(trace: dict[str, _Call], place: str) -> BlockSites:
    hidden = trace[""].output.shape[-1]
    children = sorted(
        ((name, call) for name, call in trace.items() if name and "." not in name),
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
    linears = sorted((c.order, n) for n, c in trace.items() if _is_projection(c, hidden))
    inside = [n for _, n in linears if n.startswith(attention + ".")]
    outside = [n for _, n in linears if not n.startswith(attention + ".")]
    out = inside[-1] if inside else None
    down = outside[-1] if outside else None
    mlp = down.split(".")[0] if down else _last_sublayer(children, attention, hidden)

    pairs = product(_candidates(children, attention, out), _candidates(children, mlp, down))
    strays, a, m = min(
        ((_strays(trace[""], trace[a], trace[m]), a, m) for a, m in pairs),
        key=lambda scored: scored[0],
    )
    if strays > STRAYS:
        # No identity (a norm or a scale around the sum): the projections enter the stream.
        a, m = out or attention, down or mlp
    taps = {
        "residual": Tap(trace[""].module),
        "attention": Tap(trace[a].module),
        "mlp": Tap(trace[m].module),
    }
    missing = {}
    if out and _produces(trace[out], trace[attention], trace[a]):
        taps["head"] = Tap(trace[out].module, reads_input=True)
    else:
        missing["head"] = "no output projection yields the attention's output"
    if down and _produces(trace[down], trace[mlp], trace[m]):
        taps["neuron"] = Tap(trace[down].module, reads_input=True)
    else:
        missing["neuron"] = "no down-projection yields the MLP's output (a mixture of experts?)"
    return BlockSites(taps, additive=strays <= STRAYS, missing=missing)


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


def _strays(block: _Call, attention: _Call, mlp: _Call) -> float:
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


def _produces(projection: _Call, *outputs: _Call) -> bool:
    """Whether the projection's output is one of ``outputs``, or is only normed to one."""
    return any(
        call is projection
        or _same(projection.output, call.output)
        or (_is_norm(call.module) and _same(projection.output, call.input))
        for call in outputs
    )


def _same(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
    if x is None or y is None or x.numel() != y.numel():
        return False
    x, y = x.cpu().double().flatten(), y.cpu().double().flatten()
    return bool((x - y).norm() <= SAME * y.norm())


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
