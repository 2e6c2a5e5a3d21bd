"""How a block's attention and MLP meet the stream: recognised in traced numbers.

    sequential   residual_out = residual_in + attention + mlp
    parallel     the same sum, where the MLP does not read what attention has added
    scaled       residual_out = residual_in + c (attention + mlp), with one constant c
    post-norm    residual_out = norm_2(norm_1(residual_in + attention) + mlp)

Every term is a traced tensor, so an identity either holds to the rounding of its terms or it
does not; names and configurations are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import nn

from activation_analysis.models.tracing import Call, Trace, is_norm, same

ROUNDINGS = 4  # units of rounding that a sum of three terms may be off, per element
STRAYS = 0.01  # share of elements that may be further off (overflowed ones, say)
WORST = 100.0  # units of rounding above which an element is simply wrong
BETTER = 0.9  # a constant c is believed if it leaves less than this share of the misfit


@dataclass(frozen=True)
class Wiring:
    """The identity that one block was seen to obey.

    What a block *adds* to the stream is ``scale`` times what its sublayers put out: the sites
    ``attention`` and ``mlp`` record the modules' own outputs, before that constant.
    """

    name: str
    scale: float = 1.0
    norms: tuple[nn.Module, ...] = ()  # the two norms of "post-norm", in the order they run


@dataclass(frozen=True)
class Fit:
    """One reading of a block: its wiring, its two sublayers, and how far the numbers are off."""

    wiring: Wiring
    attention: str  # module paths inside the block
    mlp: str
    errors: torch.Tensor  # one per finite element, in units of rounding

    @property
    def misfit(self) -> float:
        return float(self.errors.clamp(max=WORST).square().mean().sqrt().nan_to_num(nan=WORST))

    @property
    def holds(self) -> bool:
        return float((self.errors > ROUNDINGS).double().mean()) <= STRAYS


def recognise(calls: Trace, attentions: Sequence[str], mlps: Sequence[str]) -> Fit | None:
    """The wiring that holds, with the sublayers for which it does; None where none does.

    Parameters
    ----------
    calls : the traced block
    attentions, mlps : paths of modules whose output may be what meets the stream, the likeliest
        first

    The reading with the smallest misfit wins, not the first that is close enough: in half
    precision the rounding of a large stream can hide a whole sublayer.
    """
    for readings in READINGS.values():
        fits = [fit for a, m in product(attentions, mlps) for fit in readings(calls, a, m)]
        best = min(fits, key=lambda fit: fit.misfit, default=None)
        if best is not None and best.holds:
            return best
    return None


def _sums(calls: Trace, attention: str, mlp: str) -> Iterator[Fit]:
    block, a, m = calls[""], calls[attention], calls[mlp]
    plain = _errors(block.output, block.input, a.output, m.output)
    if plain is None:
        return
    order = "sequential" if _is_read(calls, block.input, a.output) else "parallel"
    fit = Fit(Wiring(order), attention, mlp, plain)
    scale = _least_squares(block, a, m)
    scaled = _errors(block.output, block.input, a.output, m.output, scale=scale)
    constant = Fit(Wiring("scaled", scale), attention, mlp, scaled)
    yield constant if constant.misfit < BETTER * fit.misfit else fit


def _post_norms(calls: Trace, attention: str, mlp: str) -> Iterator[Fit]:
    block = calls[""]
    norms = sorted((c for c in calls.values() if is_norm(c.module)), key=lambda c: c.order)
    for first, second in combinations(norms, 2):
        if not same(second.output, block.output):
            continue
        one = _errors(first.input, block.input, calls[attention].output)
        two = _errors(second.input, first.output, calls[mlp].output)
        if one is not None and two is not None:
            wiring = Wiring("post-norm", norms=(first.module, second.module))
            yield Fit(wiring, attention, mlp, torch.cat([one, two]))


READINGS: dict[str, Callable[[Trace, str, str], Iterator[Fit]]] = {
    "sum": _sums,
    "post-norm": _post_norms,
}


def _errors(
    total: torch.Tensor | None,
    stream: torch.Tensor | None,
    *added: torch.Tensor | None,
    scale: float = 1.0,
) -> torch.Tensor | None:
    """How far ``stream + scale * sum(added)`` is from ``total``, in units of rounding.

    Judged element by element, at the rounding of its own terms: a few massive coordinates of the
    stream would otherwise drown the sublayers' outputs, in half precision above all.
    """
    tensors = (total, stream, *added)
    if any(t is None or t.numel() != total.numel() for t in tensors):
        return None
    after, before, *outputs = (t.cpu().double().flatten() for t in tensors)
    terms = [before, *(scale * t for t in outputs)]
    size = sum(t.abs() for t in (*terms, after))
    rounding = torch.finfo(total.dtype).eps * size
    errors = (sum(terms) - after).abs() / rounding
    overflowed = ~after.isfinite() & ~sum(terms).isfinite()  # on both sides: says nothing
    return torch.where(rounding == 0, 0.0, errors).nan_to_num(nan=torch.inf)[~overflowed]


def _least_squares(block: Call, attention: Call, mlp: Call) -> float:
    """The constant c for which c (attention + mlp) is nearest to what the block has added.

    Each element weighs as much as its rounding allows, so that massive coordinates do not count.
    """
    before, after, a, m = (
        t.cpu().double().flatten()
        for t in (block.input, block.output, attention.output, mlp.output)
    )
    size = (before.abs() + after.abs() + a.abs() + m.abs()).clamp(min=torch.finfo(a.dtype).tiny)
    added, outputs = (after - before) / size, (a + m) / size
    kept = added.isfinite() & outputs.isfinite()
    power = outputs[kept].square().sum()
    return float((added[kept] * outputs[kept]).sum() / power) if power > 0 else 1.0


def _is_read(calls: Trace, stream: torch.Tensor, attention: torch.Tensor) -> bool:
    """Whether a module of the block reads the stream with attention's output added, to the bit."""
    after = stream.flatten() + attention.flatten().to(stream.device)
    return any(
        name
        and call.input is not None
        and call.input.numel() == after.numel()
        and torch.equal(call.input.flatten().to(after.device), after)
        for name, call in calls.items()
    )
