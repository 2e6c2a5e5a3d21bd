"""What a proof found: each thing that must hold, and how nearly it did."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Check:
    """One thing that must hold, at the layer where it holds least."""

    name: str  # "padded = alone", "down_proj(neuron) = mlp", "sequential", ...
    site: str
    layer: int
    difference: float  # relative; see `token_differences`
    tolerance: float
    measure: str = "worst token"  # a key of `MEASURES`

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"{self.name} does not hold at site {self.site!r}, layer {self.layer}: the relative "
            f"difference is {self.difference:.2g}, and rounding explains {self.tolerance:.2g}"
        )


@dataclass(frozen=True)
class Proof:
    """What was checked before a capture, and how well it held."""

    checks: tuple[Check, ...]
    n_prompts: int
    n_tokens: int
    dtype: str
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def checked(self, layout: str) -> bool:
        """Whether a layout was checked at all."""
        return any(check.name == equals_alone(layout) for check in self.checks)

    def holds(self, layout: str) -> bool:
        """Whether a layout was checked and gives what each prompt gives alone."""
        checks = [check for check in self.checks if check.name == equals_alone(layout)]
        return bool(checks) and all(check.passed for check in checks)

    def worst(self, name: str) -> Check:
        """The check of that name that is nearest to failing, or furthest beyond it.

        Raises
        ------
        ValueError
            If nothing of that name was checked.
        """
        named = [check for check in self.checks if check.name == name]
        if not named:
            known = ", ".join(dict.fromkeys(check.name for check in self.checks))
            raise ValueError(f"no check {name!r}; checked: {known}")
        return max(named, key=lambda check: check.difference / check.tolerance)

    def table(self) -> pd.DataFrame:
        """One row per check: name, site, layer, difference, tolerance, measure, passed."""
        import pandas as pd

        columns = ["name", "site", "layer", "difference", "tolerance", "measure", "passed"]
        rows = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> str:
        """The proof as JSON; a difference that is infinite is null."""
        told = asdict(self)
        for check, row in zip(self.checks, told["checks"], strict=True):
            row["difference"] = check.difference if math.isfinite(check.difference) else None
            row["passed"] = check.passed
        return json.dumps({**told, "passed": self.passed}, indent=2)

    @property
    def finding(self) -> str:
        """One line: the worst of every kind of check."""
        kinds = [self.worst(name) for name in dict.fromkeys(c.name for c in self.checks)]
        told = ", ".join(
            f"{check.name} {check.difference:.1e}"
            + ("" if check.passed else f" FAILED ({check.site}, layer {check.layer})")
            for check in kinds
        )
        return (
            f"{'Proved' if self.passed else 'Not proved'} on {self.n_prompts} prompts, "
            f"{self.n_tokens} tokens, {self.dtype}: {told}"
        )

    @property
    def claim(self) -> str:
        """What was proved, without the rounding that was seen: the same wherever it holds."""
        names = dict.fromkeys((c.name, c.tolerance, c.passed) for c in self.checks)
        told = ", ".join(
            f"{name} {'within' if passed else 'NOT within'} {tolerance:.0e}"
            for name, tolerance, passed in names
        )
        return f"Proved on {self.n_prompts} prompts, {self.n_tokens} tokens, {self.dtype}: {told}"

    def summary(self) -> str:
        """The finding and what it took, for a log."""
        return f"{self.finding} ({self.seconds:.1f} s)"


def equals_alone(layout: str) -> str:
    """The name of the check that a layout gives what each prompt gives alone."""
    return f"{layout} = alone"
