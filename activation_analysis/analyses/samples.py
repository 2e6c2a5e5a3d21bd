"""Where an analysis takes its samples from: a recording that was kept, or one that streamed by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from activation_analysis.activations import Units
from activation_analysis.statistics.moments import Sample


class Recording(Protocol):
    """What the analyses ask of `Activations`, or of a `StreamedRecording` in their place."""

    @property
    def sites(self) -> tuple[str, ...]: ...

    def units(self, site: str) -> Units: ...

    def sample(
        self,
        rows: Sequence[int] | np.ndarray,
        site: str,
        layer: int,
        columns: slice = slice(None),
    ) -> Sample:
        """Some of the prompts at one site and layer: their values, or the moments of these."""
