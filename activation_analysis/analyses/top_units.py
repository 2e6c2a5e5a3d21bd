"""The most discriminative units of a contrast, each with an effect that it did not win by luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.effects import effect_interval, effect_of, tested
from activation_analysis.analyses.samples import Recording
from activation_analysis.analyses.split_half import SMALLEST_HALF, HalfEffects, strongest
from activation_analysis.results import StatMap, TopUnits
from activation_analysis.statistics.moments import side_by_side


def top_units(
    recording: Recording,
    maps: Mapping[str, StatMap],
    selection: HalfEffects,
    design: Design | None = None,
    *,
    top_n: int = 20,
    confidence: float = 0.95,
) -> TopUnits:
    """The units that tell the conditions apart best, each with a held-out effect.

    Chosen by abs(d) on the selection half among all sites and layers; measured by the same
    test, and by an interval of d, on the held-out half. Where a half has fewer than two
    prompts of a condition, all prompts choose and the held-out columns are NaN.

    Parameters
    ----------
    recording : Activations or StreamedRecording
    maps : site -> StatMap
        Of all prompts, as ``contrast_maps`` returns them for this recording.
    selection : HalfEffects
        As ``half_effects`` returns them for this recording.
    design : Design, optional
        Of the contrast; one condition against another by the maps' test where left out.
    top_n : int
        Units to list, at most.
    confidence : float
        Coverage of ``held_out_low`` .. ``held_out_high``.

    Returns
    -------
    TopUnits

    Raises
    ------
    ValueError
        If the test is paired and the halves do not hold the same pairs.
    """
    halves = selection.halves
    design = design or Design(halves.selection, _one_test(maps))
    if design.is_paired and halves.large_enough and not halves.keeps_pairs:
        raise ValueError(
            "the halves tear pairs apart, but the test is paired; "
            "split with split_halves(..., blocks=the item of every row)"
        )
    table = pd.concat([m.table().assign(site=site) for site, m in maps.items()], ignore_index=True)
    if halves.large_enough:
        n_selection, n_held_out = (
            replace(design, rows=rows).n for rows in (halves.selection, halves.held_out)
        )
        table["selected_d"] = np.concatenate([selection.selected[site] for site in maps])
    else:
        n_selection, n_held_out = next(iter(maps.values())).n, (0,) * len(design.rows)
        table["selected_d"] = table["effect_size"]
    candidates = np.where(table["excluded"] == "", table["selected_d"], np.nan)
    top = table.loc[strongest(candidates, top_n)].reset_index(drop=True)
    held_out = dict.fromkeys(("held_out_d", "held_out_low", "held_out_high", "held_out_p"), np.nan)
    if halves.large_enough and len(top):
        measured = replace(design, rows=halves.held_out)
        if min(measured.n) >= SMALLEST_HALF:
            held_out = _measured(recording, top, measured, confidence)
    columns = [
        *("site", "layer", "index", "depth", "effect_size", "hedges_g", "p_value"),
        *("p_adjusted", "significant", "selected_d", *held_out),
    ]
    return TopUnits(top.assign(**held_out)[columns], n_selection, n_held_out, confidence)


def _one_test(maps: Mapping[str, StatMap]) -> str:
    names = sorted({stat_map.test for stat_map in maps.values()})
    if len(names) != 1:
        raise ValueError(f"these maps come from several tests ({', '.join(names)}); use one")
    return names[0]


def _measured(
    recording: Recording, top: pd.DataFrame, design: Design, confidence: float
) -> dict[str, np.ndarray]:
    """Effect, its interval and its p-value on the held-out prompts, one value per listed unit."""
    addresses = list(zip(top["site"], top["layer"], top["index"], strict=True))
    units = [design.samples(recording, s, layer, slice(i, i + 1)) for s, layer, i in addresses]
    samples = [side_by_side(parts) for parts in zip(*units, strict=True)]
    result = tested(samples, design)
    effect = effect_of(result, samples, design)
    interval = effect_interval(effect, result, samples, design, confidence=confidence)
    return {
        "held_out_d": effect,
        "held_out_low": interval.low,
        "held_out_high": interval.high,
        "held_out_p": result.p_value,
    }
