"""Where in a model each site is: found by structure, proved by arithmetic.

One short forward pass is traced. In every block, the attention child is the one whose class says
so; the last linear layer that runs inside it is the output projection, whose input is the heads.
The last linear layer outside it is the down-projection, whose input is the neurons. What meets
the stream is then the candidate (sublayer, its post-norm, or its projection) for which one of the
identities of `wiring.py` holds on the traced numbers, to their rounding. So parallel blocks,
scaled residuals, norms before, after and around the sum, and sublayers that add the residual
themselves need no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from activation_analysis.activations import SITES
from activation_analysis.errors import ModelError
from activation_analysis.models.tracing import Call, Trace, is_causal, is_norm, same, trace
from activation_analysis.models.wiring import Wiring, recognise

if TYPE_CHECKING:
    from transformers import PreTrainedModel


UNPROVED = "no known identity shows what attention and MLP add to the stream"
NO_HEADS = "no output projection yields the attention's output"
NO_NEURONS = "no down-projection yields the MLP's output (a mixture of experts?)"


@dataclass(frozen=True)
class Tap:
    """A place to listen: a module, and whether its input or its output is the site."""

    module: nn.Module
    reads_input: bool = False


@dataclass(frozen=True)
class BlockSites:
    """The taps of one block; a site that the block does not have is absent.

    ``input``, ``wiring`` and ``leads_to`` are what it takes to check the block again on other
    inputs, as `identities.py` does.
    """

    taps: dict[str, Tap]
    input: Tap  # the stream that enters the block
    wiring: Wiring | None = None  # how attention and MLP meet the stream; None: in no known way
    # "neuron" and "head" -> the modules that make the MLP's, or the attention's, output of it
    leads_to: dict[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # site -> why it is absent

    @property
    def additive(self) -> bool:
        """Whether residual_in + attention + mlp = residual_out was seen to hold."""
        return self.wiring is not None and self.wiring.name in ("sequential", "parallel")


@dataclass(frozen=True)
class ModelSites:
    """The taps of every block, and whether no token reads what follows it."""

    blocks: list[BlockSites]
    causal: bool

    @property
    def routed(self) -> bool:
        """Whether some MLP may be a mixture of experts: no one projection yields its output."""
        return any("neuron" in block.missing for block in self.blocks)


def find_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the model: its ``ModuleList`` of ``num_hidden_layers`` entries.

    Raises
    ------
    ModelError
        If there is no such list, or its entries are one module again and again.
    """
    family = model.config.model_type
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacks = [stack for stack in lists if len(stack) == n_layers]
    if not stacks:
        lengths = ", ".join(str(n) for n in sorted({len(stack) for stack in lists})) or "none"
        raise ModelError(
            f"no stack of {n_layers} blocks found in a {family!r} model (lengths of its lists: "
            f"{lengths}; fewer than {n_layers}: its layers share weights); models with one list "
            f"of transformer blocks, each run once, can be recorded"
        )
    blocks = list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters())))
    if len(set(map(id, blocks))) < n_layers:
        raise ModelError(
            f"the {n_layers} layers of this {family!r} model share {len(set(map(id, blocks)))} "
            f"blocks; models whose blocks each run once can be recorded"
        )
    return blocks


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
    blocks = [_sites_of(calls, f"{family!r}, block {layer}") for layer, calls in enumerate(traces)]
    return ModelSites(blocks, causal=is_causal(traces))


def _sites_of(calls: Trace, place: str) -> BlockSites:
    hidden = calls[""].output.shape[-1]
    children = sorted(
        ((name, call) for name, call in calls.items() if name and "." not in name),
        key=lambda item: item[1].order,
    )
    attention = next((n for n, c in children if _is_attention(c.module)), None)
    if attention is None:
        parts = ", ".join(type(call.module).__name__ for _, call in children)
        raise ModelError(
            f"no attention found in model family {place} (its parts: {parts}); state-space, "
            f"recurrent and convolutional blocks cannot be recorded, transformer blocks can"
        )
    linears = sorted((c.order, n) for n, c in calls.items() if _is_projection(c, hidden))
    inside = [n for _, n in linears if n.startswith(attention + ".")]
    outside = [n for _, n in linears if not n.startswith(attention + ".")]
    out = inside[-1] if inside else None
    down = outside[-1] if outside else None
    mlp = down.split(".")[0] if down else _last_sublayer(children, attention, hidden, place)
    _refuse_repeats(calls, ["", attention, mlp], place)
    fit = recognise(calls, _candidates(children, attention, out), _candidates(children, mlp, down))
    a, m = (fit.attention, fit.mlp) if fit else (attention, mlp)
    block = calls[""].module
    taps, leads_to, missing = {"residual": Tap(block)}, {}, {}
    if fit:
        taps |= {"attention": Tap(calls[a].module), "mlp": Tap(calls[m].module)}
    else:
        missing |= {"attention": UNPROVED, "mlp": UNPROVED}
    for site, projection, sublayer, added, why in (
        ("head", out, attention, a, NO_HEADS),
        ("neuron", down, mlp, m, NO_NEURONS),
    ):
        path = _path(calls, projection, sublayer, added)
        if path:
            taps[site] = Tap(path[0], reads_input=True)
            leads_to[site] = path
        else:
            missing[site] = why
    wiring = fit.wiring if fit else None
    return BlockSites(taps, Tap(block, reads_input=True), wiring, leads_to, missing)


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and not is_norm(module)


def _is_projection(call: Call, hidden: int) -> bool:
    """A linear layer to the stream's width; quantised ones only call themselves linear."""
    kind = type(call.module).__name__
    named = kind == "Conv1D" or ("linear" in kind.lower() and not any(call.module.children()))
    is_linear = named or isinstance(call.module, nn.Linear)
    return is_linear and call.output is not None and call.output.shape[-1] == hidden


def _last_sublayer(
    children: list[tuple[str, Call]], attention: str, hidden: int, place: str
) -> str:
    """The block's other sublayer, where no linear layer of it was seen to run."""
    others = [
        name
        for name, call in children
        if name != attention
        and not is_norm(call.module)
        and call.output is not None
        and call.output.shape[-1] == hidden
    ]
    if not others:
        raise ModelError(
            f"no MLP found beside attention in model family {place}; blocks that hold both, as "
            f"transformer blocks do, can be recorded"
        )
    return others[-1]


def _candidates(
    children: list[tuple[str, Call]], sublayer: str, projection: str | None
) -> list[str]:
    """What may meet the stream: the sublayer, a norm right after it, its projection."""
    names = [name for name, _ in children]
    after = names.index(sublayer) + 1
    candidates = [sublayer]
    if after < len(children) and is_norm(children[after][1].module):
        candidates.append(names[after])
    if projection and projection != sublayer:
        candidates.append(projection)
    return candidates


def _path(calls: Trace, projection: str | None, sublayer: str, added: str) -> tuple[nn.Module, ...]:
    """The modules that lead from a projection's input to what is added; empty if none do."""
    if projection is None:
        return ()
    first, last = calls[projection], calls[added]
    if first is last or same(first.output, last.output):
        return (first.module,)
    if same(first.output, calls[sublayer].output) and same(first.output, last.input):
        return (first.module, last.module)
    return ()


def _refuse_repeats(calls: Trace, names: Sequence[str], place: str) -> None:
    """Raise if a sublayer ran more than once: a tap would hear several tensors as one."""
    repeated = [f"{n} {calls[n].n_runs} times" for n in dict.fromkeys(names) if calls[n].n_runs > 1]
    if repeated:
        raise ModelError(
            f"model family {place} runs {', '.join(repeated)} in one pass (layers that share "
            f"weights, or a feed-forward pass in chunks: then set chunk_size_feed_forward to 0); "
            f"models whose modules each run once can be recorded"
        )


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
