"""Numbers as people read them."""

from __future__ import annotations

from math import log10

import numpy as np


def percent(share: float) -> str:
    """A share as people read it; never 0 % of something or 100 % of not quite everything."""
    if np.isnan(share):
        return "-"
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def number(value: float, form: str = ".2f") -> str:
    """A number as people read it; a dash where there is none."""
    return "-" if np.isnan(value) else format(value, form)


def plural(n: int, what: str) -> str:
    """A number of things: "1 prompt", "3 prompts"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def many(count: int) -> str:
    """A count that may be astronomical."""
    return many_of(log10(count))


def many_of(logarithm: float) -> str:
    """A count that may be astronomical, by its decimal logarithm."""
    return f"{round(10**logarithm):,}" if logarithm < 7 else f"10^{int(logarithm + 1e-9)}"
