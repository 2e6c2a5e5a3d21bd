"""What each test shuffles, and what it compares: designs of permutation tests.

`permuted_design` makes one from the sizes of the groups; a new test is a function here and its
line in ``DESIGNS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from activation_analysis.statistics.exchangeability import (
    Exchangeability,
    SignFlips,
    exchangeability,
    sign_flips,
)
from activation_analysis.statistics.hypothesis_tests import TESTS
from activation_analysis.statistics.linear_model import covariates, indicators, weighted
from activation_analysis.statistics.moments import constant, refuse_unpaired
from activation_analysis.statistics.permutation_scores import (
    Columns,
    Correlation,
    Explained,
    Rows,
    Score,
    Unpooled,
    blocks_of,
    residual_directions,
    two_sample,
)
from activation_analysis.statistics.ranks import midranks

BLOCK = 512  # units whose columns are made at once
SHARE = 16 * BLOCK  # units that a thread takes at once


@dataclass(frozen=True)
class PermutedDesign:
    """One test of one design: what may be exchanged, and how units are scored."""

    score: Score
    columns: Columns
    atoms: Exchangeability | SignFlips
    observed: Callable[..., np.ndarray] | None = None  # groups -> signed statistic; None: by score
    by_label: bool = True  # the score depends on labels only, not on which row has them

    @property
    def flips(self) -> bool:
        """Whether signs are flipped, not rows exchanged."""
        return isinstance(self.atoms, SignFlips)

    @property
    def n_possible(self) -> int:
        """Relabellings that differ, the observed one included."""
        if self.flips or self.by_label:
            return self.atoms.n_relabellings
        return self.atoms.n_row_permutations

    @property
    def n_keys(self) -> int:
        """Prompts, or pairs, that need a random key."""
        return len(self.atoms.block if self.flips else self.atoms.atom)

    def every(self) -> np.ndarray:
        """All relabellings, as `null_maxima.Relabellings` has them."""
        if self.flips:
            return self.atoms.patterns()
        if not self.by_label:
            return self.atoms.row_permutations()
        of_label = np.unique(self.atoms.row_label, return_index=True)[1]
        return of_label[self.atoms.labellings()]

    def placed(self, keys: np.ndarray) -> np.ndarray:
        """One relabelling for each row of random keys, (n, n_keys)."""
        return self.atoms.signs(keys) if self.flips else self.atoms.rows(keys)

    def statistic(self, x: Rows, n_threads: int = 1) -> np.ndarray:
        """The observed statistic of every unit, signed where it has a sign, (n_units,) float64.

        No bit of it depends on the number of threads.
        """
        shares = list(blocks_of(x.shape[1], SHARE))
        observe = self._by_score if self.observed is None else self._by_test
        if n_threads == 1 or len(shares) < 2:
            parts = [observe(x, units) for units in shares]
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                parts = list(pool.map(lambda units: observe(x, units), shares))
        return np.concatenate(parts) if parts else np.empty(0)

    def _by_test(self, x: Rows, units: slice) -> np.ndarray:
        return self.observed(*(group[:, units] for group in x.groups))

    def _by_score(self, x: Rows, share: slice) -> np.ndarray:
        statistic = np.empty(share.stop - share.start)
        for inside in blocks_of(len(statistic), BLOCK):
            units = slice(share.start + inside.start, share.start + inside.stop)
            columns = self.columns.exact(x, units)
            products = [vector @ columns for vector in self.score.vectors]
            sign = np.sign(products[0]) if self._has_sign else 1.0
            sized = self.score.as_statistic(self.score([p.copy() for p in products])) * sign
            undefined = np.all(columns == 0, axis=0)
            if not self.flips:
                undefined |= np.all([constant(g[:, units]) for g in x.groups], axis=0)
            statistic[inside] = np.where(undefined, np.nan, sized)
        return statistic

    @property
    def _has_sign(self) -> bool:
        return isinstance(self.score, Correlation) or getattr(self.score, "is_t", False)


def permuted_design(
    sizes: Sequence[int],
    test: str,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence | np.ndarray | None = None,
    nuisance: np.ndarray | None = None,
) -> PermutedDesign:
    """What a permutation test of these groups shuffles and compares.

    Parameters
    ----------
    sizes : prompts of every group
    test : an entry of ``DESIGNS``, or of ``ADJUSTED``
    weights : one of every group for a linear contrast of their means ("student", "glm_t"), or
        None: the first of two groups against the second, or any difference among several
    groups : exchangeability block of every row (of every pair, for paired tests), or None
    nuisance : (n, k) covariates for "student" and "f", or None

    Raises
    ------
    ValueError
        If the test is unknown, the groups do not fit it, or nothing can be exchanged.
    """
    if test not in DESIGNS and test not in ADJUSTED:
        raise ValueError(f"no permutation test {test!r}; known: {', '.join(DESIGNS)}")
    sizes = list(sizes)
    if weights is not None and not ADJUSTED.get(test):
        raise ValueError(
            f"a permutation test of several weighted conditions goes with test='student', "
            f"received {test!r}"
        )
    if nuisance is None and weights is None:
        return DESIGNS[WITHOUT_COVARIATES.get(test, test)](sizes, groups)
    if test not in ADJUSTED:
        raise ValueError(f"nuisance covariates go with test='student' or 'f', received {test!r}")
    others = None if nuisance is None else covariates(nuisance, sum(sizes))
    effect = indicators(sizes)
    if weights is not None:
        effect, within = weighted(sizes, weights)
        others = within if others is None else np.hstack([within, others])
    elif ADJUSTED[test]:
        _two(sizes)
    return _adjusted(sizes, groups, effect, others, is_t=ADJUSTED[test])


def _student(sizes: list[int], groups) -> PermutedDesign:
    n_a, n_b = _two(sizes)
    score = Correlation(two_sample(n_a, n_b)[None], n_a + n_b - 2)
    return PermutedDesign(score, Columns(), _labelled(sizes, groups), _by("student"))


def _welch(sizes: list[int], groups) -> PermutedDesign:
    n_a, n_b = _two(sizes)
    label = np.repeat([1.0, 0.0], [n_a, n_b])
    score = Unpooled(np.vstack([two_sample(n_a, n_b), label]), n_a, n_b)
    return PermutedDesign(score, Columns(), _labelled(sizes, groups), _by("welch"))


def _mann_whitney(sizes: list[int], groups) -> PermutedDesign:
    n_a, n_b = _two(sizes)
    score = Correlation(two_sample(n_a, n_b)[None], np.inf, scale=n_a + n_b - 1)
    return PermutedDesign(score, Columns(midranks), _labelled(sizes, groups))


def _f(sizes: list[int], groups) -> PermutedDesign:
    effect, _ = residual_directions(indicators(sizes), None)
    score = Explained(effect.T.copy(), effect.shape[1], sum(sizes) - len(sizes), is_t=False)
    return PermutedDesign(score, Columns(), _labelled(sizes, groups))


def _kruskal(sizes: list[int], groups) -> PermutedDesign:
    effect, _ = residual_directions(indicators(sizes), None)
    score = Explained(effect.T.copy(), effect.shape[1], np.inf, is_t=False, scale=sum(sizes) - 1.0)
    return PermutedDesign(score, Columns(midranks), _labelled(sizes, groups))


def _paired(sizes: list[int], groups) -> PermutedDesign:
    n = _pairs(sizes)
    score = Correlation(np.full((1, n), n**-0.5), n - 1)
    columns = Columns(within_pairs, centred=False)
    return PermutedDesign(score, columns, sign_flips(n, groups), _by("paired"))


def _wilcoxon(sizes: list[int], groups) -> PermutedDesign:
    n = _pairs(sizes)
    score = Correlation(np.full((1, n), n**-0.5), np.inf, scale=n)
    return PermutedDesign(score, Columns(signed_ranks, centred=False), sign_flips(n, groups))


def _one_sample(sizes: list[int], groups) -> PermutedDesign:
    if len(sizes) != 1:
        raise ValueError(f"test 'one_sample' takes one group, received {len(sizes)}")
    n = sizes[0]
    score = Correlation(np.full((1, n), n**-0.5), n - 1)
    columns = Columns(centred=False)
    return PermutedDesign(score, columns, sign_flips(n, groups), _by("one_sample"))


def _adjusted(sizes, groups, effect: np.ndarray, others: np.ndarray, is_t: bool) -> PermutedDesign:
    """Freedman and Lane: residuals of the nuisance are permuted and regressed on everything."""
    directions, space = residual_directions(effect, others)
    df = sum(sizes) - 1 - space.shape[1] - directions.shape[1]
    if is_t and effect[:, 0] @ directions[:, 0] < 0:
        directions = -directions  # a basis has no sign; the first side is positive
    score = Explained(np.vstack([directions.T, space.T]), directions.shape[1], df, is_t=is_t)
    atoms = _labelled(sizes, groups)
    return PermutedDesign(score, Columns(nuisance=space), atoms, by_label=False)


DESIGNS: dict[str, Callable[[list[int], Sequence | None], PermutedDesign]] = {
    "student": _student,
    "welch": _welch,
    "mannwhitney": _mann_whitney,
    "paired": _paired,
    "wilcoxon": _wilcoxon,
    "one_sample": _one_sample,
    "f": _f,
    "kruskal": _kruskal,
}
ADJUSTED = {"student": True, "glm_t": True, "f": False, "glm_f": False}  # name -> is a t
WITHOUT_COVARIATES = {"glm_t": "student", "glm_f": "f"}


def within_pairs(x: np.ndarray) -> np.ndarray:
    """First half of the rows minus the second, (n, k) of (2 n, k)."""
    half = len(x) // 2
    with np.errstate(invalid="ignore"):
        return x[:half] - x[half:]


def signed_ranks(x: np.ndarray) -> np.ndarray:
    """Signed midranks of the differences within pairs that are not 0, (n, k) of (2 n, k)."""
    differences = within_pairs(x)
    zero = differences == 0
    ranks = midranks(np.abs(differences)) - zero.sum(axis=0)
    return np.where(zero, 0.0, np.sign(differences) * ranks)


def _by(test: str) -> Callable[..., np.ndarray]:
    return lambda *groups: TESTS[test](*groups).statistic


def _labelled(sizes: list[int], groups) -> Exchangeability:
    return exchangeability(np.repeat(np.arange(len(sizes)), sizes), groups)


def _two(sizes: list[int]) -> tuple[int, int]:
    if len(sizes) != 2:
        raise ValueError(f"this test compares two groups, received {len(sizes)}; use 'f'")
    return sizes[0], sizes[1]


def _pairs(sizes: list[int]) -> int:
    n_a, n_b = _two(sizes)
    refuse_unpaired(n_a, n_b)
    return n_a
