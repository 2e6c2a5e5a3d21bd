"""One contrast as rows of a recording: which prompts are compared, and what may be exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from activation_analysis.analyses.samples import Recording
from activation_analysis.statistics.exchangeability import (
    Exchangeability,
    SignFlips,
    exchangeability,
    log10_labellings,
    sign_flips,
)
from activation_analysis.statistics.hypothesis_tests import OMNIBUS_TESTS, PAIRED_TESTS
from activation_analysis.statistics.moments import Sample
from activation_analysis.statistics.permuted_designs import PermutedDesign, permuted_design

TWO_SIDES = (1.0, -1.0)
MANY_PROMPTS = 10_000  # whose relabellings nobody counts


@dataclass(frozen=True, eq=False)
class Design:
    """The prompts of every condition of a contrast, how they are tested, and what binds them.

    Two conditions are compared as they are; several with ``weights`` by a linear contrast of
    their means; several without (an omnibus contrast) by whether any of them differs.
    """

    rows: tuple[np.ndarray, ...]  # row numbers of each condition; aligned for a paired test
    test: str = "welch"
    weights: tuple[float, ...] | None = TWO_SIDES  # one per condition; None: omnibus
    blocks: np.ndarray | None = None  # (n_prompts,) exchangeability block of every row
    nuisance: np.ndarray | None = None  # (n_prompts, k) covariates of every row
    means: bool = False  # the mean of a block is the unit of analysis, not the prompt

    @property
    def is_omnibus(self) -> bool:
        return self.weights is None

    @property
    def is_paired(self) -> bool:
        return self.test in PAIRED_TESTS

    @property
    def is_simple(self) -> bool:
        """Whether it is one condition (or pool of them) against another."""
        return self.weights == TWO_SIDES

    @property
    def n(self) -> tuple[int, ...]:
        """Prompts of every condition; blocks, where these are averaged."""
        if self.means:
            return tuple(len(np.unique(blocks)) for blocks in self._blocks())
        return tuple(len(rows) for rows in self.rows)

    @property
    def every_row(self) -> np.ndarray:
        """The rows of all conditions, one condition after the other."""
        return np.concatenate(self.rows)

    def samples(
        self, recording: Recording, site: str, layer: int, columns: slice = slice(None)
    ) -> list[Sample]:
        """The activations of every condition at one site and layer, each (n_k, n_columns)."""
        samples = [recording.sample(rows, site, layer, columns) for rows in self.rows]
        if not self.means:
            return samples
        return [_block_means(x, blocks) for x, blocks in zip(samples, self._blocks(), strict=True)]

    def _blocks(self) -> list[np.ndarray]:
        """The block of every row of each condition; a pair is in that of its first prompt."""
        return [self.blocks[self.rows[0] if self.is_paired else rows] for rows in self.rows]

    def covariates(self) -> np.ndarray | None:
        """Nuisance covariates of the samples' rows, (n, k); None where there are none."""
        if self.nuisance is None:
            return None
        parts = [self.nuisance[rows] for rows in self.rows]
        if self.means:
            parts = [
                _block_means(x, blocks) for x, blocks in zip(parts, self._blocks(), strict=True)
            ]
        return np.concatenate(parts)

    def permuted(self) -> PermutedDesign:
        """What a permutation test of this contrast shuffles and compares.

        Raises
        ------
        ValueError
            If its test has no permutation form, or nothing can be exchanged.
        """
        return permuted_design(
            self.n,
            self.test,
            weights=None if self.is_simple else self.weights,
            groups=self._groups,
            nuisance=self.covariates(),
        )

    @property
    def exchangeable(self) -> Exchangeability | SignFlips:
        """What may be exchanged under the null: prompts or pairs, or the groups they come in."""
        if self.is_paired:
            return sign_flips(self.n[0], self._groups)
        return exchangeability(np.repeat(np.arange(len(self.n)), self.n), self._groups)

    @property
    def relabellings(self) -> tuple[str, float, float]:
        """What may be exchanged, how many relabellings there are, and how many differ.

        Both numbers as decimal logarithms. Relabellings whose two-sided statistics are equal
        whatever the data count once in the second: no permutation p is below one over it.
        """
        if self._groups is None and not self.is_paired and sum(self.n) > MANY_PROMPTS:
            logarithm = log10_labellings(np.array(self.n))  # no array of a million prompts
            return "free", logarithm, logarithm
        found = self.exchangeable
        logarithm = found.log10_n_relabellings
        return found.kind, logarithm, logarithm - float(np.log10(self.n_ties))

    @property
    def n_ties(self) -> int:
        """How many relabellings share each two-sided statistic, whatever the data."""
        return self.exchangeable.n_ties if self.is_simple or self.is_omnibus else 1

    def relabelled(self, rng: np.random.Generator) -> Design:
        """The same prompts with their conditions exchanged at random, as far as blocks allow.

        Nothing differs between the conditions of the result but by chance.
        """
        drawn = self.exchangeable.draw(1, rng)[0]
        if self.is_paired:
            kept = (drawn > 0)[self._units()]
            first, second = self.rows
            swapped = np.where(kept, first, second), np.where(kept, second, first)
            return replace(self, rows=swapped)
        label = np.repeat(np.arange(len(self.n)), self.n)[drawn][self._units()]
        rows = self.every_row
        return replace(self, rows=tuple(rows[label == k] for k in range(len(self.rows))))

    @property
    def first_rows(self) -> np.ndarray:
        """The first row of every unit of analysis: prompt, pair, or averaged block."""
        rows = self.rows[0] if self.is_paired else self.every_row
        return rows[np.unique(self._units(), return_index=True)[1]]

    @property
    def _groups(self) -> np.ndarray | None:
        """The block of every prompt or pair that is tested; None where blocks are averaged."""
        if self.blocks is None or self.means:
            return None
        return self.blocks[self.rows[0] if self.is_paired else self.every_row]

    def _units(self) -> np.ndarray:
        """The unit of analysis of every row (of every pair, for a paired test), (n,) int."""
        if not self.means:
            return np.arange(len(self.rows[0] if self.is_paired else self.every_row))
        blocks = self._blocks()[:1] if self.is_paired else self._blocks()
        starts = np.concatenate([[0], np.cumsum(self.n)])
        return np.concatenate(
            [
                start + np.unique(inside, return_inverse=True)[1]
                for start, inside in zip(starts, blocks, strict=False)
            ]
        )


def is_nested(rows: Sequence[np.ndarray], blocks: np.ndarray) -> bool:
    """Whether every block lies in one condition only."""
    inside = [set(blocks[r].tolist()) for r in rows]
    return sum(map(len, inside)) == len(set().union(*inside))


def omnibus_test(test: str, *, adjusted: bool = False) -> str:
    """The test of any difference that goes with a test of two conditions."""
    if test in OMNIBUS_TESTS:
        return test
    if adjusted:
        return "glm_f"
    return "kruskal" if test in ("mannwhitney", "brunnermunzel", "wilcoxon") else "f"


def _block_means(x: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Mean of the rows of each block, blocks in sorted order, (n_blocks, n_columns) float64."""
    names, of_row, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), x.shape[1]))
    for row, block in enumerate(of_row):
        sums[block] += x[row]
    return sums / sizes[:, None]
