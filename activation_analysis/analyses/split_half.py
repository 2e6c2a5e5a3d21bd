"""Choosing and measuring on different prompts: honest effects for units picked from many.

The best of many null units looks strong on the prompts that chose it (the winner's curse):
among 10,000 units at 20 + 20 prompts, d = 1.23 where the truth is 0. Half of each condition's
prompts choose; the other half, which had no say, measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.effects import effect_size
from activation_analysis.analyses.samples import Recording

Rows = Sequence[int] | np.ndarray
SMALLEST_HALF = 2  # prompts of each condition that a variance needs


@dataclass(frozen=True)
class Halves:
    """Rows of every condition that select, and that are held out."""

    selection: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]
    keeps_pairs: bool  # whether the i-th rows of all conditions always went to one half

    @property
    def large_enough(self) -> bool:
        """Whether both halves have at least two prompts of each condition."""
        return min(map(len, (*self.selection, *self.held_out))) >= SMALLEST_HALF


@dataclass(frozen=True)
class HalfEffects:
    """The effect at every unit in each half, by site; NaN throughout where halves are too small."""

    halves: Halves
    selected: Mapping[str, np.ndarray]  # site -> (n_units,)
    held_out: Mapping[str, np.ndarray]  # site -> (n_units,)


def split_halves(
    *conditions: Rows,
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
    conditions : (n_k,) row numbers of a recording, of two conditions or more
    blocks : (n_prompts,) labels, optional
        Item or group of every row of the recording, looked up as ``blocks[row]``.
    rng : numpy.random.Generator

    Returns
    -------
    Halves

    Raises
    ------
    ValueError
        If a row is in two conditions.
    """
    rows = tuple(np.asarray(r, dtype=int) for r in conditions)
    every, counts = np.unique(np.concatenate(rows), return_counts=True)
    shared = every[counts > 1]
    if len(shared):
        raise ValueError(
            f"rows {_some(shared)} are in two conditions; a prompt belongs to one side of a "
            f"contrast only"
        )
    if blocks is None:
        chosen = np.concatenate([rng.permutation(r)[: len(r) // 2] for r in rows])
    else:
        chosen = _whole_blocks(rows, np.asarray(blocks), rng)
    picked = tuple(np.isin(r, chosen) for r in rows)
    return Halves(
        selection=tuple(r[p] for r, p in zip(rows, picked, strict=True)),
        held_out=tuple(r[~p] for r, p in zip(rows, picked, strict=True)),
        keeps_pairs=all(np.array_equal(picked[0], p) for p in picked[1:]),
    )


def _whole_blocks(
    rows: tuple[np.ndarray, ...], blocks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the selection half: each block, in random order, joins where it evens most."""
    both = np.concatenate(rows)
    names, block_of_row = np.unique(blocks[both], return_inverse=True)
    condition = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    counts = np.zeros((len(names), len(rows)), dtype=int)
    np.add.at(counts, (block_of_row, condition), 1)
    surplus = np.zeros(len(rows), dtype=int)  # selection minus held-out rows, per condition
    selects = np.zeros(len(names), dtype=bool)
    order = rng.permutation(len(names))
    # Large blocks first: small ones can still even out what they leave uneven.
    for block in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        with_it = np.abs(surplus + counts[block]).sum()
        without = np.abs(surplus - counts[block]).sum()
        selects[block] = with_it < without or (with_it == without and rng.random() < 0.5)
        surplus += counts[block] if selects[block] else -counts[block]
    return both[selects[block_of_row]]


def half_effects(recording: Recording, halves: Halves, design: Design | None = None) -> HalfEffects:
    """The effect at every unit on the selection half, and on the held-out half.

    Parameters
    ----------
    recording : Activations or StreamedRecording
        The recording that the rows of ``halves`` count in.
    halves : Halves
    design : Design, optional
        Of the contrast; one condition against another where left out.

    Returns
    -------
    HalfEffects
        NaN throughout where a half has fewer than two prompts (or groups, where these are
        averaged) of a condition.
    """
    design = design or Design(halves.selection)
    parts = (replace(design, rows=rows) for rows in (halves.selection, halves.held_out))
    return HalfEffects(halves, *(_effects(recording, part, halves) for part in parts))


def _effects(recording: Recording, half: Design, halves: Halves) -> dict[str, np.ndarray]:
    """The effect on one half, by site."""
    effects = {}
    for site in recording.sites:
        units = recording.units(site)
        if not halves.large_enough or min(half.n) < SMALLEST_HALF:
            effects[site] = np.full(len(units), np.nan)
            continue
        layers = [half.samples(recording, site, int(layer)) for layer in units.layers]
        effects[site] = np.concatenate([effect_size(samples, half) for samples in layers])
    return effects


def strongest(d: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n largest abs(d), largest first, NaN never; ties in column order."""
    order = np.argsort(-np.abs(d), kind="stable")
    return order[~np.isnan(d[order])][:n]


def _some(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:5]))
    return f"{shown}, ... ({len(rows)} in all)" if len(rows) > 5 else shown
