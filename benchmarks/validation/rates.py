"""A share that was counted, and how well it is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom


@dataclass(frozen=True)
class Rate:
    """How often something happened in independent simulations."""

    count: int
    n: int

    @classmethod
    def of(cls, happened: np.ndarray) -> Rate:
        """Of a bool array; each entry is one simulation."""
        return cls(int(np.count_nonzero(happened)), int(np.size(happened)))

    @property
    def value(self) -> float:
        return self.count / self.n

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(max(self.value * (1 - self.value), 1 / self.n) / self.n))

    def is_at_most(self, goal: float, *, standard_errors: float = 2.0) -> bool:
        """Whether the true share may be ``goal`` or less."""
        return self.value <= goal + standard_errors * np.sqrt(goal * (1 - goal) / self.n)

    def agrees_with(self, low: float, high: float, *, chance: float = 1e-6) -> bool:
        """Whether a true share inside low..high could give this count; wrong once in a million."""
        return bool(
            binom.cdf(self.count, self.n, low) > chance
            and binom.sf(self.count - 1, self.n, high) > chance
        )

    def __str__(self) -> str:
        digits = 4 if self.n >= 5000 else 3
        return f"{self.value:.{digits}f} ± {self.standard_error:.{digits}f}"


@dataclass(frozen=True)
class Mean:
    """A mean over independent simulations."""

    value: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        values = np.asarray(values, dtype=float)
        n = len(values)
        return cls(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)), n)

    def is_at_most(self, goal: float, *, standard_errors: float = 2.0) -> bool:
        return self.value <= goal + standard_errors * self.standard_error

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


def table(head: list[str], rows: list[list[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
