"""Results that nothing computed: planted effects on noise, for drawing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from activation_analysis.activations import SITES, Units
from activation_analysis.results import ContrastResult, LayerProfile, Power, StatMap, TopUnits

WIDTHS = {"residual": 576, "attention": 576, "mlp": 576, "neuron": 1536, "head": 576}
N = (60, 60)


def contrast_result(
    *,
    n_layers: int = 12,
    sites: tuple[str, ...] = ("residual", "mlp"),
    widths: dict[str, int] | None = None,
    effect: float = 1.2,
    sign: int | None = None,
    n_excluded: int = 20,
    untested_layer: int | None = None,
    top_n: int = 20,
    with_held_out: bool = True,
    control: str | None = "fdr_bh",
    names: dict[str, object] | None = None,
    seed: int = 0,
) -> ContrastResult:
    """A result with ``effect`` planted in a third of the units around two thirds of the depth.

    ``sign`` plants one sign only; ``effect=0`` leaves nothing significant; ``n_excluded`` as
    large as the whole map excludes everything; ``names`` replaces fields of the result.
    """
    rng = np.random.default_rng(seed)
    widths = WIDTHS | (widths or {})
    maps = {}
    for site in sites:
        units = units_of(site, n_layers, widths[site])
        maps[site] = _stat_map(
            units, rng, effect=effect, sign=sign, n_excluded=n_excluded, untested=untested_layer
        )
    maps = _controlled(maps, control)
    fields = {
        "model": "HuggingFaceTB/SmolLM2-135M",
        "experiment": "math_vs_nonmath",
        "question": "Which units respond more to mathematics?",
        "contrast": "math - nonmath",
        "contrast_name": "math",
        "conditions": ("math", "nonmath"),
        "position": "last",
        "maps": maps,
        "profiles": {site: _profile(m, with_held_out=with_held_out) for site, m in maps.items()},
        "top_units": _top_units(maps, top_n, rng, with_held_out=with_held_out),
        "n_significant_by_control": {},
        "balance": pd.DataFrame(),
        "power": Power(N, 1e-5, 1.0, 0.1, 0.7),
    }
    return ContrastResult(**(fields | (names or {})))


def units_of(site: str, n_layers: int, width: int) -> Units:
    return Units(
        site=site,
        layer=np.repeat(np.arange(n_layers), width),
        index=np.tile(np.arange(width), n_layers),
        n_layers=n_layers,
    )


def _stat_map(units: Units, rng, *, effect, sign, n_excluded, untested) -> StatMap:
    n_units = len(units)
    noise = math.sqrt(1 / N[0] + 1 / N[1])
    bump = effect * np.exp(-(((units.depth - 0.65) / 0.2) ** 2))
    bump *= 0.6 + 0.4 * SITES.index(units.site) / len(SITES)
    signs = rng.choice([-1, 1], n_units) if sign is None else sign
    responding = rng.random(n_units) < 0.3
    d = bump * signs * responding * rng.random(n_units) + noise * rng.standard_normal(n_units)
    scale = rng.lognormal(0, 1, n_units) * (1 + units.layer)
    scale[units.index % 191 == 7] *= 1000  # the massive coordinates of a real residual stream
    statistic = d / noise
    p_value = np.array([math.erfc(abs(t) / math.sqrt(2)) for t in statistic])
    if effect == 0:
        p_value = np.maximum(p_value, 0.06)
    excluded = np.full(n_units, "", dtype="U16")
    excluded[rng.permutation(n_units)[:n_excluded]] = "constant"
    if untested is not None:
        excluded[units.layer == untested] = "constant"
    gone = excluded != ""
    columns = {
        "statistic": statistic,
        "p_value": p_value,
        "df": np.full(n_units, 118.0),
        "effect_size": d,
        "hedges_g": 0.99 * d,
        "mean_difference": d * scale,
    }
    columns = {name: np.where(gone, np.nan, values) for name, values in columns.items()}
    return StatMap(**columns, excluded=excluded, test="welch", n=N, units=units)


def _controlled(maps: dict[str, StatMap], control: str | None) -> dict[str, StatMap]:
    """Benjamini and Hochberg over all sites, or nothing."""
    p = np.concatenate([m.p_value for m in maps.values()])
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    adjusted = np.full(len(p), np.nan)
    if len(order):
        scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
        adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    parts = np.split(adjusted, np.cumsum([len(m) for m in maps.values()])[:-1])
    return {
        site: StatMap(
            **vars(m)
            | {
                "p_adjusted": part if control else None,
                "control": control,
                "family_size": len(tested),
            }
        )
        for (site, m), part in zip(maps.items(), parts, strict=True)
    }


def _profile(stat_map: StatMap, *, with_held_out: bool) -> LayerProfile:
    units = stat_map.units
    rows = [_layer_row(stat_map, units.columns_of(layer)) for layer in units.layers]
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    if not with_held_out:
        table["held_out_d"] = np.full(len(rows), np.nan)
    return LayerProfile(site=units.site, layer=units.layers, n_layers=units.n_layers, **table)


def _layer_row(stat_map: StatMap, columns: slice) -> dict[str, float]:
    tested = stat_map.tested[columns]
    d = np.abs(stat_map.effect_size[columns][tested])
    significant = stat_map.significant[columns][tested]
    top = np.sort(d)[-max(len(d) // 100, 1) :]
    some = len(d) > 0
    return {
        "n_tested": len(d),
        "n_excluded": int((~tested).sum()),
        "mean_abs_d": d.mean() if some else np.nan,
        "median_abs_d": np.median(d) if some else np.nan,
        "max_abs_d": d.max() if some else np.nan,
        "n_large_d": int((d > 0.5).sum()),
        "n_significant": int(significant.sum()),
        "prop_significant": significant.mean() if some else np.nan,
        "selected_d": 1.15 * top.mean() if some else np.nan,
        "held_out_d": top.mean() - 0.35 if some else np.nan,
    }


def _top_units(maps: dict[str, StatMap], top_n: int, rng, *, with_held_out: bool) -> TopUnits:
    table = pd.concat([m.table() for m in maps.values()], ignore_index=True)
    if "p_adjusted" not in table:
        table = table.assign(p_adjusted=np.nan, significant=table["p_value"] <= 0.05)
    table = table[table["excluded"] == ""]
    table = table.sort_values("effect_size", key=np.abs, ascending=False).head(top_n)
    d = table["effect_size"].to_numpy()
    held_out = 0.7 * d + 0.15 * rng.standard_normal(len(d))
    if not with_held_out:
        held_out = np.full(len(d), np.nan)
    columns = ["site", "layer", "index", "depth", "effect_size", "hedges_g", "p_value"]
    return TopUnits(
        units=table[[*columns, "p_adjusted", "significant"]]
        .assign(
            selected_d=1.1 * d,
            held_out_d=held_out,
            held_out_low=held_out - 0.5,
            held_out_high=held_out + 0.5,
            held_out_p=0.01,
        )
        .reset_index(drop=True),
        n_selection=(30, 30),
        n_held_out=(30, 30),
    )
