"""One contrast as rows of a recording: which prompts are compared, and what may be exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from activation_analysis.analyses.samples import Recording
from activation_analysis.statistics.exchangeability import exchangeability, sign_flips
from activation_analysis.statistics.hypothesis_tests import OMNIBUS_TESTS, PAIRED_TESTS
from activation_analysis.statistics.moments import Sample
from activation_analysis.statistics.permuted_designs import PermutedDesign, permuted_design

TWO_SIDES = (1.0, -1.0)


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

    def permuted(self, samples: Sequence[np.ndarray]) -> PermutedDesign:
        """What a permutation test of this contrast shuffles and compares.

        Parameters
        ----------
        samples : as `samples` gives them, of any site and layer

        Raises
        ------
        ValueError
            If its test has no permutation form, or nothing can be exchanged.
        """
        groups = None
        if self.blocks is not None and not self.means:
            groups = self.blocks[self.rows[0] if self.is_paired else self.every_row]
        return permuted_design(
            samples,
            self.test,
            weights=None if self.is_simple else self.weights,
            groups=groups,
            nuisance=self.covariates(),
        )

    def relabelled(self, rng: np.random.Generator) -> Design:
        """The same prompts with their conditions exchanged at random, as far as blocks allow.

        Nothing differs between the conditions of the result but by chance.
        """
        if self.is_paired:
            blocks = None if self.blocks is None else self.blocks[self.rows[0]]
            kept = sign_flips(len(self.rows[0]), blocks).draw(1, rng)[0] > 0
            first, second = self.rows
            swapped = np.where(kept, first, second), np.where(kept, second, first)
            return replace(self, rows=swapped)
        rows = self.every_row
        label = np.repeat(np.arange(len(self.rows)), [len(r) for r in self.rows])
        blocks = None if self.blocks is None else self.blocks[rows]
        drawn = label[exchangeability(label, blocks).draw(1, rng)[0]]
        return replace(self, rows=tuple(rows[drawn == k] for k in range(len(self.rows))))


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
