"""Proof at load: a few of the user's own prompts, recorded alone and together.

A padding bug, a tap on the wrong module or a mask that lets prompts read each other gives numbers
that look like any others. So before a capture, some prompts are recorded one by one without
padding, and then as the capture will record them; and the identities that tie a block's sites
together are checked on what was recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from activation_analysis.errors import ModelError
from activation_analysis.models.checks import Check, Proof, equals_alone
from activation_analysis.models.differences import MEASURES, token_differences
from activation_analysis.models.identities import deviations, identity_taps
from activation_analysis.models.sites import ModelSites, Tap

Address = tuple[str, int]  # site, layer
Recorded = list[dict[Address, torch.Tensor]]  # per prompt: address -> (n_tokens, width)
# Token ids of every prompt, a layout, and where to listen -> every token of every prompt, or the
# `kept_places` of each.
Record = Callable[[list[list[int]], str, Mapping[Address, Tap]], Recorded]

ALONE = "alone"  # batch size 1 without padding: what the other layouts must equal
REMEDIES = {
    "padded": "what is recorded depends on the padding beside a prompt: record one prompt at a "
    "time (batch_tokens=1)",
    "packed": "prompts in one row read each other, or their positions do not restart: pad them",
    "prefix": "keys and values of a shared beginning do not stand for it: read it with each prompt",
}
PROBED = 32  # tokens of a probe: the whole proof is to stay below 5 % of a capture of 400 prompts
OPTIONAL = ("packed", "prefix")  # where they do not hold, a capture does without
MISPLACED = "the site is not what its name says in this model: record other sites"

# The largest difference that rounding may make. Measured on SmolLM2-135M (30 blocks, CPU, five
# choices of probes, worst site and layer): padded 4.6e-6, 0.050 and 0.0054 in float32, bfloat16
# and float16, packed 4.6e-6, 0.075 and 0.0071. A prompt that reads its padding or its neighbour
# is off by 0.6 and more at site attention in every tiny family, by 1.7 in SmolLM2.
LAYOUT_TOLERANCES = {
    torch.float64: 1e-5,  # recorded in float32
    torch.float32: 1e-4,
    torch.bfloat16: 0.3,
    torch.float16: 0.05,
}
HALF = (torch.bfloat16, torch.float16)
# The same modules on the same numbers: there the difference was 0 in all three.
IDENTITY_TOLERANCES = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.bfloat16: 0.02,
    torch.float16: 0.005,
}


def probes(ids: Sequence[Sequence[int]], n: int = 4, longest: int = 64) -> list[list[int]]:
    """A few of the prompts to prove the recording on: the shortest, the longest, others between.

    Parameters
    ----------
    ids : token ids of every prompt
    n : how many prompts at most
    longest : longer ones are cut at their end to so many tokens, which bounds the cost

    Returns
    -------
    list of token ids, shortest first, of at least two different lengths: prompts of one length
    need no padding and would prove nothing of it, so half of one is then added (or takes the
    place of the first). Only a prompt of one token stays alone.

    Raises
    ------
    ValueError
        If there is no prompt, or fewer than two are asked for.
    """
    if len(ids) == 0 or n < 2 or longest < 2:
        raise ValueError(
            f"probes of {len(ids)} prompts, n={n}, longest={longest}; give one prompt or more, "
            f"n and longest 2 or more"
        )
    by_length = sorted(ids, key=len)
    places = {round(k * (len(ids) - 1) / (n - 1)) for k in range(n)}
    chosen = [list(by_length[place][:longest]) for place in sorted(places)]
    if len(chosen[0]) == len(chosen[-1]) > 1:
        half = chosen[0][: len(chosen[0]) // 2]
        chosen = [half, *(chosen if len(chosen) < n else chosen[1:])]
    return chosen


def kept_places(n_tokens: int) -> np.ndarray:
    """The tokens of a probe that are compared: first, last and two between, ascending.

    The last one has read all the others; every token at every site would be as much again as
    the capture itself may hold.
    """
    return np.unique([0, n_tokens // 3, (2 * n_tokens) // 3, n_tokens - 1])


def prove(
    found: ModelSites,
    record: Record,
    ids: Sequence[Sequence[int]],
    dtype: torch.dtype,
    *,
    layouts: Sequence[str] = ("padded", "packed"),
) -> Proof:
    """Record probes alone and in every layout, and check all that must hold.

    Nothing is raised for what does not hold: `require` does that.
    """
    began = time.perf_counter()
    chosen = probes(ids, longest=PROBED)
    taps = identity_taps(found)
    alone = record(chosen, ALONE, taps)
    checks = prove_identities(found, alone, dtype)
    measure = "typical token" if found.routed and dtype in HALF else "worst token"
    for layout in layouts:
        try:
            checks += prove_layout(
                record, chosen, taps, layout, dtype, alone=alone, measure=measure
            )
        except Exception:  # a model may fail in any way at what it was not made for
            if layout not in OPTIONAL:
                raise
            tolerance = _tolerance(LAYOUT_TOLERANCES, dtype)
            checks.append(Check(equals_alone(layout), "residual", 0, float("inf"), tolerance))
    n_tokens = sum(map(len, chosen))
    seconds = time.perf_counter() - began
    return Proof(tuple(checks), len(chosen), n_tokens, _name(dtype), seconds)


def require(proof: Proof) -> None:
    """Raise a ModelError that names every failed check but those of `OPTIONAL` layouts.

    Raises
    ------
    ModelError
        If padding changes what is recorded, or a site is not what its name says.
    """
    optional = {equals_alone(layout) for layout in OPTIONAL}
    failed = [c for c in proof.checks if not c.passed and c.name not in optional]
    if failed:
        told = "; ".join(f"{check} ({_remedy(check.name)})" for check in failed)
        raise ModelError(f"this model cannot be recorded as asked, in {proof.dtype}: {told}")


def prove_layout(
    record: Record,
    chosen: list[list[int]],
    taps: Mapping[Address, Tap],
    layout: str,
    dtype: torch.dtype,
    *,
    alone: Recorded | None = None,
    measure: str = "worst token",
) -> list[Check]:
    """Whether prompts recorded together give what each gives alone: one check per site.

    Parameters
    ----------
    record : the engine, see `Record`
    chosen : token ids, as `probes` chooses them
    layout : one of `REMEDIES`
    dtype : in which the model computes
    alone : what ``record(chosen, "alone", taps)`` gave, where that is known
    measure : a key of `MEASURES`

    Raises
    ------
    ValueError
        If the layout is not known, or the engine lost a prompt or a token.
    """
    if layout not in REMEDIES:
        raise ValueError(f"no layout {layout!r} to prove; known: {', '.join(REMEDIES)}")
    alone = record(chosen, ALONE, taps) if alone is None else alone
    together = record(chosen, layout, taps)
    for prompts, name in ((alone, ALONE), (together, layout)):
        _refuse_lost(prompts, chosen, taps, name)
    lengths = [len(next(iter(prompt.values()))) for prompt in alone]
    differences = {}
    for address in taps:
        found, expected = (
            torch.cat([p[address] for p in prompts]) for prompts in (together, alone)
        )
        by_prompt = token_differences(found, expected).split(lengths)
        differences[address] = MEASURES[measure](by_prompt)
    checks = []
    for site in dict.fromkeys(site for site, _ in taps):
        layer = max((k for s, k in taps if s == site), key=lambda k: differences[site, k])
        tolerance = _tolerance(LAYOUT_TOLERANCES, dtype)
        name = equals_alone(layout)
        checks.append(Check(name, site, layer, differences[site, layer], tolerance, measure))
    return checks


def prove_identities(found: ModelSites, states: Recorded, dtype: torch.dtype) -> list[Check]:
    """Whether the sites are what their names say: one check per identity, at its worst layer.

    ``states`` is what ``record(chosen, "alone", identity_taps(found))`` gave.
    """
    worst = {}
    for deviation in deviations(found, states, dtype):
        before = worst.get(deviation.name)
        if before is None or deviation.difference > before.difference:
            worst[deviation.name] = deviation
    tolerance = _tolerance(IDENTITY_TOLERANCES, dtype)
    return [Check(d.name, d.site, d.layer, d.difference, tolerance) for d in worst.values()]


def _remedy(name: str) -> str:
    return next((todo for lay, todo in REMEDIES.items() if equals_alone(lay) == name), MISPLACED)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tolerance(tolerances: dict[torch.dtype, float], dtype: torch.dtype) -> float:
    if dtype not in tolerances:
        raise ModelError(
            f"no tolerance is known for a model that computes in {_name(dtype)}; "
            f"load it in one of: {', '.join(map(_name, tolerances))}"
        )
    return tolerances[dtype]


def _refuse_lost(
    prompts: Recorded, chosen: list[list[int]], taps: Mapping[Address, Tap], layout: str
) -> None:
    found = [{len(prompt[address]) for address in taps} for prompt in prompts]
    whole = [{len(ids)} for ids in chosen]
    some = [{len(kept_places(len(ids)))} for ids in chosen]
    if found not in (whole, some):
        raise ValueError(
            f"layout {layout!r} recorded {found} tokens of prompts that have {whole}; every one "
            f"of them, or of the {some} that are compared, must come back once"
        )
