"""Where in the model two conditions differ: contrast maps summed up layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from activation_analysis.analyses.split_half import HalfEffects, strongest
from activation_analysis.results import LayerProfile, StatMap
from activation_analysis.statistics.scaling import top_variance_share
from activation_analysis.statistics.true_discoveries import SimesFamily, true_discoveries

LARGE_D = 0.5  # abs(d) counted as a meaningful difference
TOP_SHARE = 0.01  # of a layer's tested units, whose effect is held out


def layer_profiles(
    maps: Mapping[str, StatMap],
    *,
    selection: HalfEffects | None = None,
    family: SimesFamily | None = None,
) -> dict[str, LayerProfile]:
    """Contrast maps summed up layer by layer.

    ``selected_d`` is the mean d of a layer's top 1 % units (at least one) by abs(d) on the
    selection half, each with the sign that it has there; ``held_out_d`` is that of the same
    units with the same signs on the held-out half. The gap between them is the winner's curse.
    ``n_true_at_least`` bounds from below how many units of the layer respond, with confidence
    1 - alpha for all layers and sites at once. ``top_variance_share`` is the part of the layer's
    variance (within conditions) that its three largest units have.

    Parameters
    ----------
    maps : site -> StatMap
        With ``units``, as ``contrast_maps`` returns them.
    selection : HalfEffects, optional
        Without it both are NaN.
    family : SimesFamily, optional
        Of all p-values that the maps are a part of; NaN without.

    Returns
    -------
    dict of site -> LayerProfile
    """
    return {site: _profile(site, stat_map, selection, family) for site, stat_map in maps.items()}


def _profile(
    site: str, stat_map: StatMap, selection: HalfEffects | None, family: SimesFamily | None
) -> LayerProfile:
    units = stat_map.units
    if units is None:
        raise ValueError("this map has no addresses, hence no layers; make it with contrast_maps")
    rows, at_least = [], _at_least(stat_map, family)
    for number, layer in enumerate(units.layers):
        columns = units.columns_of(layer)
        tested = stat_map.tested[columns]
        d = np.abs(stat_map.effect_size[columns][tested])
        n_significant = int(stat_map.significant[columns].sum())
        selected_d, held_out_d = np.nan, np.nan
        if selection is not None:
            selected_d, held_out_d = _top_effects(
                selection.selected[site][columns][tested],
                selection.held_out[site][columns][tested],
            )
        rows.append(
            {
                "n_tested": int(tested.sum()),
                "n_excluded": int((~tested).sum()),
                "mean_abs_d": d.mean() if len(d) else np.nan,
                "median_abs_d": np.median(d) if len(d) else np.nan,
                "max_abs_d": d.max() if len(d) else np.nan,
                "n_large_d": int((d > LARGE_D).sum()),
                "n_significant": n_significant,
                "prop_significant": n_significant / len(d) if len(d) else np.nan,
                "selected_d": selected_d,
                "held_out_d": held_out_d,
                "n_true_at_least": at_least[number],
                "top_variance_share": top_variance_share(
                    np.square(stat_map.more["sd"][columns]) if "sd" in stat_map.more else d[:0]
                ),
            }
        )
    series = {name: np.array([row[name] for row in rows]) for name in LayerProfile.STATISTICS}
    return LayerProfile(site=site, layer=units.layers, n_layers=units.n_layers, **series)


def _at_least(stat_map: StatMap, family: SimesFamily | None) -> np.ndarray:
    layers = stat_map.units.layers
    if family is None:
        return np.full(len(layers), np.nan)
    of_layer = np.searchsorted(layers, stat_map.units.layer)
    found = true_discoveries(stat_map.p_value, of_layer, family).at_least
    return np.pad(found, (0, len(layers) - len(found))).astype(float)


def _top_effects(selected: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Mean sign-aligned d of the strongest units, where they were chosen and elsewhere."""
    usable = ~np.isnan(selected)
    selected, held_out = selected[usable], held_out[usable]
    top = strongest(selected, max(1, int(TOP_SHARE * len(selected))))
    signs = np.sign(selected[top])
    aligned = signs * held_out[top]
    aligned = aligned[~np.isnan(aligned)]  # units that fall silent in the held-out half
    return (
        float((signs * selected[top]).mean()) if len(top) else np.nan,
        float(aligned.mean()) if len(aligned) else np.nan,
    )
