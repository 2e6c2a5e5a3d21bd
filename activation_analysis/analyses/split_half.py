"""Choosing and measuring on different prompts: honest effects for units picked from many.

The best of many null units looks strong on the prompts that chose it (the winner's curse):
among 10,000 units at 20 + 20 prompts, d = 1.23 where the truth is 0. Half of each condition's
prompts choose; the other half, which had no say, measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from activation_analysis.analyses.samples import Recording
from activation_analysis.statistics.effect_size import cohens_d

Rows = Sequence[int] | np.ndarray
SMALLEST_HALF = 2  # prompts of each condition that a variance needs


@dataclass(frozen=True)
class Halves:
    """Rows of the first and second condition that select, and that are held out."""

    selection: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    keeps_pairs: bool  # whether the i-th rows of both conditions always went to one half

    @property
    def large_enough(self) -> bool:
        """Whether both halves have at least two prompts of each condition."""
        return min(map(len, (*self.selection, *self.held_out))) >= SMALLEST_HALF


@dataclass(frozen=True)
class HalfEffects:
    """Cohen's d of every unit in each half, by site; NaN throughout where halves are too small."""

    halves: Halves
    selected: Mapping[str, np.ndarray]  # site -> (n_units,)
    held_out: Mapping[str, np.ndarray]  # site -> (n_units,)


def split_halves(
    rows_a: Rows,
    rows_b: Rows,
    *,
    blocks: Sequence | np.ndarray | None = None,
    rng: np.random.Generator,
) -> Halves:
    """Split the prompts of each condition at random into a selection and a held-out half.

    Half of each condition (rounded down) selects. With ``blocks``, all rows of a block go to
    one half, in whichever way keeps both conditions closest to even; matched prompts or
    prompts of one template would otherwise carry what they share across the split. Rows keep
    their order, so that rows paired by position stay paired where ``blocks`` is the item.

    Parameters
    ----------
    rows_a, rows_b : (n_a,) and (n_b,) row numbers of a recording
    blocks : (n_prompts,) labels, optional
        Item or group of every row of the recording, looked up as ``blocks[row]``.
    rng : numpy.random.Generator

    Returns
    -------
    Halves

    Raises
    ------
    ValueError
        If a row is in both conditions.
    """
    rows = (np.asarray(rows_a, dtype=int), np.asarray(rows_b, dtype=int))
    shared = np.intersect1d(*rows)
    if len(shared):
        raise ValueError(
            f"rows {_some(shared)} are in both conditions; a prompt belongs to one side of a "
            f"contrast only"
        )
    if blocks is None:
        chosen = np.concatenate([rng.permutation(r)[: len(r) // 2] for r in rows])
    else:
        chosen = _whole_blocks(rows, np.asarray(blocks), rng)
    picked = tuple(np.isin(r, chosen) for r in rows)
    return Halves(
        selection=(rows[0][picked[0]], rows[1][picked[1]]),
        held_out=(rows[0][~picked[0]], rows[1][~picked[1]]),
        keeps_pairs=np.array_equal(*picked),
    )


def _whole_blocks(
    rows: tuple[np.ndarray, np.ndarray], blocks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the selection half: each block, in random order, joins where it evens most."""
    both = np.concatenate(rows)
    names, block_of_row = np.unique(blocks[both], return_inverse=True)
    in_second = np.arange(len(both)) >= len(rows[0])
    counts = np.zeros((len(names), 2), dtype=int)
    np.add.at(counts, (block_of_row, in_second.astype(int)), 1)
    surplus = np.zeros(2, dtype=int)  # selection minus held-out rows, per condition
    selects = np.zeros(len(names), dtype=bool)
    order = rng.permutation(len(names))
    # Large blocks first: small ones can still even out what they leave uneven.
    for block in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        with_it = np.abs(surplus + counts[block]).sum()
        without = np.abs(surplus - counts[block]).sum()
        selects[block] = with_it < without or (with_it == without and rng.random() < 0.5)
        surplus += counts[block] if selects[block] else -counts[block]
    return both[selects[block_of_row]]


def half_effects(recording: Recording, halves: Halves) -> HalfEffects:
    """Cohen's d of every unit on the selection half, and on the held-out half.

    Parameters
    ----------
    recording : Activations or StreamedRecording
        The recording that the rows of ``halves`` count in.
    halves : Halves

    Returns
    -------
    HalfEffects
        NaN throughout where a half has fewer than two prompts of a condition.
    """
    return HalfEffects(
        halves, *(_effects(recording, rows, halves) for rows in (halves.selection, halves.held_out))
    )


def _effects(
    recording: Recording, rows: tuple[np.ndarray, np.ndarray], halves: Halves
) -> dict[str, np.ndarray]:
    """Cohen's d on one half, by site."""
    effects = {}
    for site in recording.sites:
        units = recording.units(site)
        if not halves.large_enough:
            effects[site] = np.full(len(units), np.nan)
            continue
        layers = [[recording.sample(r, site, int(layer)) for r in rows] for layer in units.layers]
        effects[site] = np.concatenate([cohens_d(a, b) for a, b in layers])
    return effects


def strongest(d: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n largest abs(d), largest first, NaN never; ties in column order."""
    order = np.argsort(-np.abs(d), kind="stable")
    return order[~np.isnan(d[order])][:n]


def _some(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:5]))
    return f"{shown}, ... ({len(rows)} in all)" if len(rows) > 5 else shown
