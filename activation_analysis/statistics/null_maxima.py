"""The largest statistic over all units under every relabelling, as fast as a matrix product.

Float32 finds, float64 decides. A block of units times a block of relabellings is one float32
product that never leaves the cache; whatever comes so close to a relabelling's largest score
that rounding could matter is computed again in float64, from the activations themselves. So the
maxima are those of float64 arithmetic: the same for every size of block and number of threads.
No array of size relabellings x units exists.

The bound on what float32 may be off is probabilistic (Higham & Mary 2019, SIAM Journal on
Scientific Computing 41:A2815-A2835), at eight standard errors of rounding.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from threadpoolctl import ThreadpoolController

from activation_analysis.statistics.permutation_scores import (
    Columns,
    Correlation,
    Rows,
    Score,
    blocks_of,
)

BLOCK_UNITS = 912  # no power of two: rows of columns would share cache lines
BLOCK_RELABELLINGS = 1000
SURE_ENOUGH = 8.0  # standard errors of rounding
FEWEST_ROWS_FLOAT32 = 32  # with fewer, float64 costs nothing and its rounding never matters
MOST_SENSITIVE = 2000.0  # beyond it, as with 5 prompts against 500, float32 is too coarse


@dataclass(frozen=True)
class Relabellings:
    """Which design row, or which sign, every prompt gets under each relabelling."""

    placed: np.ndarray  # (n_relabellings, n) design row of each prompt; or +-1
    are_signs: bool
    exact: bool  # all that there are, the observed one among them
    n_possible: int

    def __len__(self) -> int:
        return len(self.placed)

    def of(self, vector: np.ndarray, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        """A vector of the design under some relabellings, (n_some, n) float64."""
        placed = self.placed[some]
        return placed * vector if self.are_signs else vector[placed]


class NullMaxima:
    """Running maxima over all units that were added, in blocks, by several threads.

    Parameters
    ----------
    score, columns : what is compared, and of which columns
    relabellings : Relabellings
    n_threads : int, optional
        All cores at hand where left out. No number depends on it.
    """

    def __init__(
        self,
        score: Score,
        columns: Columns,
        relabellings: Relabellings,
        n_threads: int | None = None,
    ) -> None:
        self.score, self.columns, self.relabellings = score, columns, relabellings
        self.largest = np.zeros(len(relabellings))  # exact scores
        self.n_threads = n_threads or available_cores()

    def add(self, x: Rows, testable: np.ndarray | None = None) -> None:
        """Take in some units.

        Parameters
        ----------
        x : Rows, (n, n_units)
            NaN and inf spoil their own unit only.
        testable : (n_units,) bool, optional
            Units to leave out are False.
        """
        blocks = list(blocks_of(x.shape[1], BLOCK_UNITS))
        n_threads = min(self.n_threads, max(len(blocks), 1))
        shares = [blocks[k::n_threads] for k in range(n_threads)]
        with _blas().limit(limits=1, user_api="blas"):
            if n_threads == 1:
                found = [self._share(x, testable, blocks)]
            else:
                with ThreadPoolExecutor(n_threads) as pool:
                    found = list(pool.map(lambda share: self._share(x, testable, share), shares))
        self._decide(x, found)

    @property
    def statistics(self) -> np.ndarray:
        """The maxima as abs(statistic), (n_relabellings,)."""
        return self.score.as_statistic(self.largest)

    @cached_property
    def _dtype(self) -> type:
        n = self.relabellings.placed.shape[1]
        coarse = n < FEWEST_ROWS_FLOAT32 or self.score.sensitivity > MOST_SENSITIVE
        return np.float64 if coarse else np.float32

    @cached_property
    def _slack(self) -> float:
        n = self.relabellings.placed.shape[1]
        rounding = np.finfo(self._dtype).eps / 2
        return self.score.sensitivity * rounding * (SURE_ENOUGH * np.sqrt(n) + 16)

    @cached_property
    def _left(self) -> list[np.ndarray]:
        """The design's vectors under every relabelling, each (n_relabellings, n)."""
        return [self.relabellings.of(v).astype(self._dtype) for v in self.score.vectors]

    def _share(self, x, testable, blocks) -> _Found:
        """The largest scores of some blocks in float32, and all units that may be the largest."""
        largest = self.largest.copy()
        found = _Found(largest, [], [], [])
        shape = (len(self.score.vectors), min(len(largest), BLOCK_RELABELLINGS), BLOCK_UNITS)
        space = np.empty(shape, self._dtype)
        for units in blocks:
            if testable is not None and not testable[units].any():
                continue
            columns = self.columns.fast(x, units)
            if testable is not None:
                columns[:, ~testable[units]] = 0.0
            columns = columns.astype(self._dtype, copy=False)
            squares = np.square(columns) if any(self.score.squared) else None
            for some in blocks_of(len(largest), BLOCK_RELABELLINGS):
                products = [
                    np.matmul(
                        left[some],
                        squares if of_squares else columns,
                        out=into[: some.stop - some.start, : columns.shape[1]],
                    )
                    for left, of_squares, into in zip(
                        self._left, self.score.squared, space, strict=True
                    )
                ]
                self._note(found, products, some.start, units.start)
        return found

    def _note(self, found: _Found, products: list[np.ndarray], row: int, unit: int) -> None:
        """Keep of one block of products what could still be the largest."""
        if isinstance(self.score, Correlation):
            values = products[0]
            top = np.maximum(values.max(axis=1), -values.min(axis=1))
        else:
            values = self.score(products)
            top = values.max(axis=1)
        largest = found.largest[row : row + len(top)]
        hot = np.flatnonzero(top >= largest - 2 * self._slack)
        np.maximum(largest, top, out=largest)
        if len(hot):
            chosen = np.abs(values[hot])
            cut = largest[hot] - 2 * self._slack
            at = np.nonzero((chosen >= cut[:, None]) & (chosen > 0))  # 0: left out, or constant
            found.row.append(row + hot[at[0]])
            found.unit.append(unit + at[1])
            found.score.append(chosen[at])

    def _decide(self, x, found: list[_Found]) -> None:
        """Compute again, in float64, what may be the largest of a relabelling."""
        largest = np.maximum.reduce([f.largest for f in found])
        if not any(f.row for f in found):
            return
        row, unit, score = (
            np.concatenate([part for f in found for part in getattr(f, name)])
            for name in ("row", "unit", "score")
        )
        # What is less than this cannot be the largest, however float32 was rounded.
        near = score >= largest[row] - 2 * self._slack
        row, unit = row[near], unit[near]
        by_unit = np.argsort(unit, kind="stable")
        for some in blocks_of(len(by_unit), 2048):
            chosen = by_unit[some]
            scores = self._exactly(row[chosen], unit[chosen], x)
            np.maximum.at(self.largest, row[chosen], scores)

    def _exactly(self, relabelling: np.ndarray, unit: np.ndarray, x) -> np.ndarray:
        """The float64 scores of some units, each under one relabelling, (n_pairs,)."""
        chosen, place = np.unique(unit, return_inverse=True)
        values = np.ascontiguousarray(self.columns.exact(x, chosen).T)[place]
        products = []
        for vector, of_squares in zip(self.score.vectors, self.score.squared, strict=True):
            left = self.relabellings.of(vector, relabelling)
            left *= np.square(values) if of_squares else values
            products.append(left.sum(axis=1))
        return self.score(products)


@dataclass(frozen=True)
class _Found:
    """Of the blocks of one thread."""

    largest: np.ndarray  # (n_relabellings,) so far, in float32's precision
    row: list[np.ndarray]  # relabellings and units that may have the largest score
    unit: list[np.ndarray]
    score: list[np.ndarray]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """The linear algebra at hand, each thread of ours with one of its own."""
    return ThreadpoolController()
