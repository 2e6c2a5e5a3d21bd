"""The most discriminative units of a contrast."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class TopUnits:
    """The most discriminative units, with an honest effect beside the flattering one.

    Units are chosen by abs(d) on a selection half of the prompts of each condition;
    ``held_out_d`` is measured on the other half, which had no say. ``effect_size``, ``p_value``
    and ``p_adjusted`` come from all prompts and the whole family of tests.
    """

    units: pd.DataFrame
    """Columns site, layer, index, depth, effect_size, hedges_g, p_value, p_adjusted,
    significant, selected_d, held_out_d, held_out_low, held_out_high, held_out_p;
    one row per unit, strongest first."""
    n_selection: tuple[int, ...]  # prompts of each group that chose the units
    n_held_out: tuple[int, ...]  # prompts of each group that measured them
    confidence: float = 0.95

    def __len__(self) -> int:
        return len(self.units)

    def table(self) -> pd.DataFrame:
        return self.units
