"""One short forward pass through a model, every module of every block overheard.

Two texts are read that differ in their last token alone: in a causal model they look alike
before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from activation_analysis.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRACE_TOKENS = 6
SAME = 1e-5  # relative difference under which two tensors are one


@dataclass
class Call:
    """One traced module call: its place in the order, first input and first output."""

    order: int
    module: nn.Module
    input: torch.Tensor | None
    output: torch.Tensor | None
    n_runs: int = 1  # in one forward pass; what is kept is the last


Trace = dict[str, Call]  # by module path inside the block; "" is the block itself


def trace(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> list[Trace]:
    """What every module of every block received and returned; no hook stays.

    Raises
    ------
    ModelError
        If a block does not carry (rows, tokens, width).
    """
    traces: list[Trace] = [{} for _ in blocks]
    ids = _trace_ids(model)
    with ExitStack() as hooks:
        for block, calls in zip(blocks, traces, strict=True):
            for name, module in block.named_modules():
                tracer = _tracer(calls, name)
                hooks.callback(module.register_forward_hook(tracer, with_kwargs=True).remove)
        with torch.inference_mode():
            read(model, ids)
    family = model.config.get_text_config().model_type
    for i, calls in enumerate(traces):
        _refuse_layout(calls.get(""), f"{family!r}, block {i}", ids.shape)
    return traces


def is_causal(traces: Sequence[Trace]) -> bool:
    """Whether no token of the traced texts knew what followed it."""
    first, second = traces[-1][""].output[:, :-1].double()
    return bool((first - second).norm() <= SAME * first.norm())


def same(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
    """Whether two traced tensors hold the same numbers, whatever their shape."""
    if x is None or y is None or x.numel() != y.numel():
        return False
    x, y = x.cpu().double().flatten(), y.cpu().double().flatten()
    finite = y.isfinite()
    if not torch.equal(finite, x.isfinite()):
        return False
    return bool((x - y)[finite].norm() <= SAME * y[finite].norm())


def is_norm(module: nn.Module) -> bool:
    """Whether a module's class calls itself a norm; one that holds others does something else."""
    return "norm" in type(module).__name__.lower() and not any(module.children())


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


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: the embedding's device, which an offloaded module names in its hook."""
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return embedding.weight.device
    return torch.device(embedding._hf_hook.execution_device)


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


def _trace_ids(model: PreTrainedModel) -> torch.Tensor:
    """Two rows of ids from all over the vocabulary that differ in their last token alone."""
    step = max(model.get_input_embeddings().num_embeddings // (TRACE_TOKENS + 2), 1)
    ids = step * torch.arange(1, TRACE_TOKENS + 2)
    return torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])])


def _refuse_layout(block: Call | None, place: str, expected: torch.Size) -> None:
    """Raise unless the block ran and carries (rows, tokens, width)."""
    states = None if block is None else block.output
    shape = None if states is None else tuple(states.shape)
    if shape is None or len(shape) != 3 or shape[:2] != expected:
        raise ModelError(
            f"model family {place} yields {shape or 'no tensor'} for {tuple(expected)} tokens; "
            f"blocks that carry (rows, tokens, width) can be recorded"
        )


def _tracer(calls: Trace, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        before = calls.pop(name, None)
        calls[name] = Call(
            1 + max((call.order for call in calls.values()), default=-1),
            module,
            _copy(received(args, kwargs)),
            _copy(first_tensor(output)),
            n_runs=1 if before is None else before.n_runs + 1,
        )

    return hook


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    # Some blocks add to a sublayer's output in place (Falcon's parallel branch).
    return None if tensor is None else tensor.detach().clone()
