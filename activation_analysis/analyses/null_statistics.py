"""The test of a design at every unit, under many null repetitions.

A t-test asks only for sums and sums of squares, which one matrix product gives for many
repetitions at once, which pays for some thousands of units. The others are tested one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import pandas as pd

from activation_analysis.activations import Units
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.effects import tested
from activation_analysis.analyses.null_designs import NullDraw
from activation_analysis.statistics.hypothesis_tests import MOMENT_TESTS
from activation_analysis.statistics.moments import Moments
from activation_analysis.statistics.permutation_scores import blocks_of
from activation_analysis.statistics.unit_statistics import UnitStatistics

SITE = "units"  # what the chosen columns of all sites are called together
VALUES_AT_ONCE = 2**21  # repetitions x units
UNITS_AT_ONCE = 4096  # in float64 beside the recording
ROUNDING = 1e-11  # of a sum of squares, below which nothing varied


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Some units of a recording in one matrix, as if they were one site of one layer."""

    values: np.ndarray  # (n_prompts, n_units)
    cell: np.ndarray  # (n_units,) row of `cells`
    cells: pd.DataFrame  # columns site, layer
    rows: tuple[np.ndarray, ...]  # of the design, whose means deviations are from

    sites = (SITE,)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_units(self) -> int:
        return self.values.shape[1]

    def units(self, site: str) -> Units:
        nothing = np.zeros(self.n_units, dtype=int)
        return Units(site=site, layer=nothing, index=np.arange(self.n_units), n_layers=1)

    def sample(self, rows, site: str, layer: int, columns: slice = slice(None)) -> np.ndarray:
        return self.values[rows, columns]

    @cached_property
    def deviations(self) -> np.ndarray:
        """From the mean of each condition, (n_prompts, n_units)."""
        away = np.zeros_like(self.values)
        for rows in self.rows:
            mean = self.values[rows].mean(axis=0, dtype=np.float64)
            away[rows] = self.values[rows] - mean
        return away

    def under(self, draw: NullDraw) -> Excerpt:
        """As a null repetition sees it."""
        if draw.sign is None:
            return self
        return replace(self, values=self.deviations * draw.sign[:, None])


def null_statistics(
    excerpt: Excerpt, draws: Sequence[NullDraw]
) -> Iterator[tuple[NullDraw, UnitStatistics]]:
    """Every repetition with its test of every unit; those of equal sizes one after the other."""
    if not _from_sums(draws[0].design):
        for draw in draws:
            samples = draw.design.samples(excerpt.under(draw), SITE, 0)
            yield draw, tested(samples, draw.design)
        return
    at_once = max(1, VALUES_AT_ONCE // excerpt.n_units)
    for _, alike in groupby(sorted(draws, key=_sizes), key=_sizes):
        same = list(alike)
        for some in blocks_of(len(same), at_once):
            yield from zip(same[some], _tested_at_once(excerpt, same[some]), strict=True)


def _from_sums(design: Design) -> bool:
    return design.test in MOMENT_TESTS and design.nuisance is None and not design.is_paired


def _sizes(draw: NullDraw) -> tuple[int, ...]:
    return draw.design.n


def _tested_at_once(excerpt: Excerpt, draws: Sequence[NullDraw]) -> list[UnitStatistics]:
    """Repetitions whose conditions have the same sizes, as if each were further units."""
    design, flips = draws[0].design, draws[0].sign is not None
    values = excerpt.deviations if flips else excerpt.values
    averaging = _averaging(design, len(excerpt))
    weights = [_weights(draws, k, len(excerpt)) for k in range(len(design.rows))]
    if averaging is not None:  # no repetition divides a block
        weights = [np.sign(weight @ averaging.T) for weight in weights]
    shape = len(draws), excerpt.n_units
    sums = [(np.empty(shape), np.empty(shape)) for _ in weights]
    for units in blocks_of(excerpt.n_units, UNITS_AT_ONCE):
        x = values[:, units].astype(np.float64)
        if not flips:  # deviations are centred as they are
            x -= x[design.every_row].mean(axis=0)
        x = x if averaging is None else averaging @ x
        squares = np.square(x)
        for (total, of_squares), weight in zip(sums, weights, strict=True):
            total[:, units] = weight @ x
            of_squares[:, units] = np.abs(weight) @ squares
    samples = [_moments(n, *both) for n, both in zip(design.n, sums, strict=True)]
    result = tested(samples, replace(design, means=False))
    fields = (result.statistic, result.p_value, result.df)
    return [UnitStatistics(*(f.reshape(shape)[i] for f in fields)) for i in range(len(draws))]


def _averaging(design: Design, n: int) -> np.ndarray | None:
    """Weights that turn prompts into block means, (n_blocks, n); None where prompts are tested."""
    if not design.means:
        return None
    _, block, sizes = np.unique(design.blocks, return_inverse=True, return_counts=True)
    matrix = np.zeros((len(sizes), n))
    matrix[block, np.arange(n)] = 1 / sizes[block]
    return matrix


def _weights(draws: Sequence[NullDraw], k: int, n: int) -> np.ndarray:
    """Which prompts are in condition k, with their signs, (n_draws, n)."""
    weights = np.zeros((len(draws), n))
    for weight, draw in zip(weights, draws, strict=True):
        rows = draw.design.rows[k]
        weight[rows] = 1 if draw.sign is None else draw.sign[rows]
    return weights


def _moments(n: int, total: np.ndarray, of_squares: np.ndarray) -> Moments:
    """Of one condition, every repetition's units one after the other."""
    mean = total / n
    spread = of_squares - total * mean
    spread[spread <= ROUNDING * of_squares] = 0.0
    flat, nothing = mean.ravel(), np.zeros(mean.size)
    return Moments(n, nothing, flat, spread.ravel(), nothing)
