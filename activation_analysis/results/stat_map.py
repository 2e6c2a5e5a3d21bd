"""One contrast at every unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from activation_analysis.activations import Units


@dataclass(frozen=True)
class StatMap:
    """One contrast at every unit of one site (or of one bare matrix): the contrast map.

    Positive where the first group responds more. NaN where a unit was excluded.
    """

    statistic: np.ndarray  # (n_units,)
    p_value: np.ndarray  # (n_units,) two-sided, uncorrected
    df: np.ndarray  # (n_units,) NaN for rank tests
    effect_size: np.ndarray  # (n_units,) Cohen's d
    hedges_g: np.ndarray  # (n_units,) d times the exact small-sample correction
    mean_difference: np.ndarray  # (n_units,) in the model's own units
    excluded: np.ndarray  # (n_units,) reason as text, "" where tested
    test: str
    n: tuple[int, ...]  # prompts in each group
    p_adjusted: np.ndarray | None = None  # (n_units,) under `control`, over `family_size` units
    control: str | None = None
    alpha: float = 0.05
    family_size: int | None = None  # units that the correction ran over, all that it spans
    units: Units | None = None  # addresses, where the matrix came from a recording
    effect_low: np.ndarray | None = None  # (n_units,) 95 % interval of the effect size
    effect_high: np.ndarray | None = None  # (n_units,)
    more: Mapping[str, np.ndarray] = field(default_factory=dict)  # further columns, (n_units,)

    def __len__(self) -> int:
        return len(self.statistic)

    @property
    def tested(self) -> np.ndarray:
        """Where a unit was tested, (n_units,) bool."""
        return self.excluded == ""

    @property
    def significant(self) -> np.ndarray:
        """Where the adjusted p-value (the uncorrected one before any control) is <= alpha."""
        p = self.p_value if self.p_adjusted is None else self.p_adjusted
        return np.nan_to_num(p, nan=1.0) <= self.alpha

    def table(self) -> pd.DataFrame:
        """One row per unit."""
        columns = {} if self.units is None else _addresses(self.units)
        columns |= {
            "statistic": self.statistic,
            "p_value": self.p_value,
            "df": self.df,
            "effect_size": self.effect_size,
            "hedges_g": self.hedges_g,
            "mean_difference": self.mean_difference,
            "excluded": self.excluded,
        }
        if self.effect_low is not None:
            columns |= {"effect_low": self.effect_low, "effect_high": self.effect_high}
        columns |= self.more
        if self.p_adjusted is not None:
            columns |= {"p_adjusted": self.p_adjusted, "significant": self.significant}
        return pd.DataFrame(columns)


def _addresses(units: Units) -> dict[str, object]:
    return {"site": units.site, "layer": units.layer, "index": units.index, "depth": units.depth}
