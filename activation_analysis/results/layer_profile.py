"""One contrast, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from activation_analysis.activations import relative_depth


@dataclass(frozen=True)
class LayerProfile:
    """One site's contrast, layer by layer."""

    site: str
    layer: np.ndarray  # (n_layers_recorded,)
    n_layers: int  # blocks in the whole model
    n_tested: np.ndarray  # (n_layers_recorded,) and so are all below
    n_excluded: np.ndarray
    mean_abs_d: np.ndarray
    median_abs_d: np.ndarray
    max_abs_d: np.ndarray
    n_large_d: np.ndarray  # units with abs(d) > 0.5
    n_significant: np.ndarray
    prop_significant: np.ndarray
    selected_d: np.ndarray  # top 1 % units: effect on the prompts that chose them
    held_out_d: np.ndarray  # the same units: effect on the other prompts; NaN where too few
    n_true_at_least: np.ndarray | None = (
        None  # units that respond, at least (ARI), all layers at once
    )
    top_variance_share: np.ndarray | None = None  # of the layer's variance, in its 3 largest units

    STATISTICS = (
        "n_tested",
        "n_excluded",
        "mean_abs_d",
        "median_abs_d",
        "max_abs_d",
        "n_large_d",
        "n_significant",
        "prop_significant",
        "selected_d",
        "held_out_d",
        "n_true_at_least",
        "top_variance_share",
    )

    def __post_init__(self) -> None:
        for name in ("n_true_at_least", "top_variance_share"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.layer), np.nan))

    @property
    def depth(self) -> np.ndarray:
        """Relative depth of each layer, 0..1."""
        return relative_depth(self.layer, self.n_layers)

    @property
    def peak_layer(self) -> int:
        """The layer with the largest mean abs(d); -1 where no unit was tested."""
        if np.all(np.isnan(self.mean_abs_d)):
            return -1
        return int(self.layer[np.nanargmax(self.mean_abs_d)])

    @property
    def peak_depth(self) -> float:
        if self.peak_layer < 0:
            return float("nan")
        return float(relative_depth(np.array(self.peak_layer), self.n_layers))

    @property
    def peak_held_out_d(self) -> float:
        """``held_out_d`` of the layer with the largest ``selected_d``.

        The held-out prompts choose neither the units nor the layer; the largest ``held_out_d``
        of all layers would be chosen by them.
        """
        if np.all(np.isnan(self.selected_d)):
            return float("nan")
        return float(self.held_out_d[np.nanargmax(self.selected_d)])

    def metrics(self) -> dict[str, np.ndarray]:
        """Per-layer series, keyed ``<site>/<statistic>``, each (n_layers_recorded,)."""
        return {f"{self.site}/{name}": getattr(self, name) for name in self.STATISTICS}

    def summary(self) -> dict[str, float]:
        """Stepless companions, keyed ``<statistic>/<site>``."""
        return {
            f"peak_layer/{self.site}": self.peak_layer,
            f"peak_depth/{self.site}": self.peak_depth,
            f"max_prop_significant/{self.site}": largest(self.prop_significant),
            f"n_significant/{self.site}": int(self.n_significant.sum()),
            f"max_abs_d/{self.site}": largest(self.max_abs_d),
            f"held_out_d/{self.site}": self.peak_held_out_d,
            f"n_true_at_least/{self.site}": largest(self.n_true_at_least),
            f"top_variance_share/{self.site}": largest(self.top_variance_share),
        }

    def table(self) -> pd.DataFrame:
        """One row per layer."""
        columns = {"site": self.site, "layer": self.layer, "depth": self.depth}
        return pd.DataFrame(columns | {name: getattr(self, name) for name in self.STATISTICS})


def largest(values: np.ndarray) -> float:
    """The largest value; NaN where there is none."""
    return float(np.nanmax(values)) if np.any(~np.isnan(values)) else float("nan")
