"""What is asked of a capture, and what stands ready to answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from activation_analysis.activations import POSITIONS, SITES, canonical_site
from activation_analysis.errors import ModelError
from activation_analysis.models.batching import LAYOUTS, Plan
from activation_analysis.models.positions import REDUCTIONS
from activation_analysis.models.recording import Address
from activation_analysis.models.rows import Rows
from activation_analysis.models.sites import Tap
from activation_analysis.models.tokenizing import Tokens


@dataclass(frozen=True)
class Request:
    """Which values to record, and how; checked on the way in."""

    sites: Sequence[str] = SITES
    layers: Sequence[int] = ()  # block indices; none for all; negative ones count from the end
    positions: Sequence[str] = ("last",)
    skip_first: int = 0
    batch_tokens: int = 0  # tokens of one forward pass; 0 for what is fastest and fits
    layout: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.sites, str):
            raise ModelError(
                f"layers_to_capture is one string; pass a list, as in [{self.sites!r}]"
            )
        if len(self.sites) == 0:
            raise ModelError(f"no site to record; name one or more of: {', '.join(SITES)}")
        unknown = [p for p in self.positions if p not in REDUCTIONS]
        if unknown or not self.positions:
            raise ModelError(f"no position {(unknown or [''])[0]!r}; known: {', '.join(POSITIONS)}")
        if self.layout not in ("auto", *LAYOUTS):
            raise ModelError(f"no layout {self.layout!r}; known: auto, {', '.join(LAYOUTS)}")
        if self.batch_tokens < 0:
            raise ModelError(
                f"batch_tokens={self.batch_tokens}; give tokens of one forward pass, or 0 for what "
                f"is fastest and fits into memory"
            )
        sites = tuple(dict.fromkeys(canonical_site(name) for name in self.sites))
        object.__setattr__(self, "sites", sites)
        object.__setattr__(self, "positions", tuple(dict.fromkeys(self.positions)))
        object.__setattr__(self, "layers", tuple(self.layers or ()))


@dataclass(frozen=True)
class Prepared:
    """A capture that is ready to run: what is read, in which passes, and who listens."""

    request: Request
    tokens: Tokens
    rows: Rows
    plan: Plan
    taps: Mapping[Address, Tap]
