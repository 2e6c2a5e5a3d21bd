"""Do the two sides of a contrast differ in something that nobody asked about?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_analysis.text_measures import LENGTHS, MEASURES, SURFACE, TEXT_LENGTHS

if TYPE_CHECKING:
    from activation_analysis.contrasts import Contrast
    from activation_analysis.prompts import PromptSet

LARGEST_BALANCED_SMD = 0.1
LARGEST_SURFACE_SMD = 0.25  # of marks, digits, capitals: matched by hand on few prompts


def balance(
    prompt_set: PromptSet,
    first: str | Sequence[str],
    second: str | Sequence[str],
    covariates: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Are the two sides alike in length and in every other covariate?

        smd = (mean_first - mean_second) / sqrt((var_first + var_second) / 2)

    The standardised mean difference does not grow with the number of prompts, as a p-value
    would. 0 where both sides are constant and equal, infinite where constant and different.

    Parameters
    ----------
    first, second : conditions of each side
    covariates : name -> (n_prompts,) numbers, one for every prompt of the set; ``words`` and
        ``characters`` are always there

    Returns
    -------
    DataFrame
        One row a covariate: covariate, mean_first, sd_first, mean_second, sd_second, smd,
        limit (see `largest_smd`), flagged (abs(smd) > limit).

    Raises
    ------
    ValueError
        If a covariate has the wrong length or holds NaN or inf.

    References
    ----------
    Austin (2009), Statistics in Medicine 28:3083-3107.
    """
    given = covariates or {}
    counted = [name for name in TEXT_LENGTHS if name not in given]
    measured = {name: SURFACE[name](prompt_set.texts) for name in counted}
    for name, values in given.items():
        measured[name] = _checked(name, values, len(prompt_set))
    sides = prompt_set.rows_of(first), prompt_set.rows_of(second)
    return pd.DataFrame(
        [_row(name, *(v[s].astype(np.float64) for s in sides)) for name, v in measured.items()]
    )


def contrast_balance(
    prompt_set: PromptSet, contrast: Contrast, covariates: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """`balance` of a contrast's two sides; of an omnibus contrast, of the worst pair a covariate.

    Parameters, errors : as `balance`. A column ``pair`` says which pair of several it is, and is
    "" where there is but one.
    """
    if not contrast.is_omnibus:
        return balance(prompt_set, contrast.first, contrast.second, covariates).assign(pair="")
    tables = [
        balance(prompt_set, *pair, covariates).assign(pair=f"{pair[0]} against {pair[1]}")
        for pair in combinations(contrast.conditions, 2)
    ]
    every = pd.concat(tables, ignore_index=True)
    worst = every.assign(size=every["smd"].abs()).groupby("covariate", sort=False)["size"].idxmax()
    chosen = every.loc[worst].reset_index(drop=True)
    return chosen if len(tables) > 1 else chosen.assign(pair="")


def balance_label(row: Any) -> str:
    """How a row of `contrast_balance` is named for a reader."""
    return f"{row.covariate} ({row.pair})" if row.pair else str(row.covariate)


def _row(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, object]:
    smd, limit = standardised_mean_difference(a, b), largest_smd(name, len(a), len(b))
    return {
        "covariate": name,
        "mean_first": float(a.mean()),
        "sd_first": float(a.std(ddof=1)),
        "mean_second": float(b.mean()),
        "sd_second": float(b.std(ddof=1)),
        "smd": smd,
        "limit": limit,
        "flagged": bool(abs(smd) > limit),
    }


def largest_smd(covariate: str, n_first: int, n_second: int) -> float:
    """From where on a standardised mean difference is worth mending.

    0.1 for lengths and for any covariate of one's own. For marks, digits, capitals and the like
    0.25, or what chance alone exceeds in one of twenty sets of that size, if that is more: in
    twenty prompts a side, nobody can balance commas.

    References
    ----------
    Austin (2009) for 0.1; Stuart (2010), Statistical Science 25:1-21, for 0.25.
    """
    if covariate in LENGTHS or covariate not in MEASURES:
        return LARGEST_BALANCED_SMD
    return max(LARGEST_SURFACE_SMD, 1.96 * np.sqrt(1 / n_first + 1 / n_second))


def standardised_mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The difference of two means over the root of their mean variance."""
    difference = float(a.mean() - b.mean())
    scale = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    if scale == 0:
        return 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return difference / scale


def _checked(name: str, values: np.ndarray, n_prompts: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n_prompts,):
        raise ValueError(
            f"covariate {name!r} has shape {values.shape}; expected one number for each of the "
            f"{n_prompts} prompts"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"covariate {name!r} holds NaN or inf; give every prompt a number")
    return values
