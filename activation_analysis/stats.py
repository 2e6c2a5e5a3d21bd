"""ActivationStats: the documented object API. Each method calls what the pipeline calls.

contrast = ActivationStats.compute_contrast(happy, sad, test="ttest")
summary = ActivationStats.summarize_contrast(contrast, top_n=20)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from activation_analysis.activations import Activations
from activation_analysis.analyses import univariate
from activation_analysis.analyses.groups import (
    Group,
    array_of,
    joined,
    matrix_of,
    shared_units,
)
from activation_analysis.analyses.layer_profiles import LARGE_D
from activation_analysis.results import LayerProfile, StatMap
from activation_analysis.statistics import dissimilarity, multiplicity, permutation
from activation_analysis.statistics.hypothesis_tests import (
    CONTRAST_TESTS,
    PAIRED_TESTS,
    TEST_ALIASES,
)
from activation_analysis.statistics.scaling import SCALINGS


@dataclass(frozen=True)
class ContrastSummary:
    """A contrast in a few numbers, and its strongest units."""

    test: str
    control: str | None  # None: p-values are uncorrected, and n_significant counts accordingly
    alpha: float
    n: tuple[int, int]  # prompts in the first and second group
    n_units: int
    n_tested: int
    n_excluded: int
    n_significant: int
    n_large_d: int  # units with abs(d) > 0.5
    mean_abs_d: float
    max_abs_d: float
    top: pd.DataFrame  # strongest units by abs(d), one row each, columns as StatMap.table()

    def table(self) -> pd.DataFrame:
        return self.top


class ActivationStats:
    """Statistics of activations, as plain calls on arrays or on recordings."""

    @staticmethod
    def compute_contrast(
        group1: Group,
        group2: Group,
        test: str = "ttest",
        *,
        n_permutations: int = 1000,
        seed: int = 0,
    ) -> StatMap:
        """Test every unit: does it respond differently to the two groups?

        Parameters
        ----------
        group1, group2 : (n1, n_units) and (n2, n_units) arrays or tensors, or Activations
            One row per prompt. Recordings need one site: ``activations.at("mlp")``.
        test : str
            ``"ttest"`` (Student's, the default), ``"student"``, ``"welch"``, ``"mannwhitney"``,
            ``"brunnermunzel"``, ``"paired"`` or ``"wilcoxon"`` (rows aligned), ``"f"``,
            ``"kruskal"``, or ``"permutation"`` (Student's t, its null distribution
            from relabelled prompts: ``p_value`` is per unit and uncorrected, ``p_adjusted`` is
            family-wise over these units, ``control`` is ``"max_t"``).
        n_permutations, seed : int
            For ``"permutation"`` only.

        Returns
        -------
        StatMap
            Positive where group 1 responds more. Uncorrected: see
            ``multiple_comparison_correction``.

        Raises
        ------
        ValueError
            If the groups do not match or are too small, or the test is unknown.
        """
        units = shared_units(group1, group2)
        a, b = matrix_of(group1, "group1"), matrix_of(group2, "group2")
        if test == "permutation":
            stat_map = _permutation_map(a, b, n_permutations, seed)
        elif TEST_ALIASES.get(test, test) in CONTRAST_TESTS:
            stat_map = univariate.contrast_map(a, b, test=test)
        else:
            known = ", ".join(["ttest", *CONTRAST_TESTS, "permutation"])
            raise ValueError(f"no test {test!r}; known: {known}")
        return replace(stat_map, units=units)

    @staticmethod
    def compute_layer_wise_stats(
        condition1: Activations,
        condition2: Activations,
        *,
        test: str = "welch",
        control: str = "fdr_bh",
        alpha: float = 0.05,
        seed: int = 0,
    ) -> dict[str, LayerProfile]:
        """Sum up, layer by layer, how two recordings differ.

        Parameters
        ----------
        condition1, condition2 : Activations
            As ``ActivationCapture.capture_batch`` returns them: same model, position, sites
            and layers.
        test, control : str
            Entries of ``TESTS`` and ``CONTROLS``; Welch's t by default, since conditions may
            differ in variance.
        alpha : float
            Error rate over all units of all sites and layers together.
        seed : int
            Draws the halves that choose and measure the top units.

        Returns
        -------
        dict of site -> LayerProfile

        Raises
        ------
        ValueError
            If the recordings do not match, a condition has fewer than two prompts, or an
            option is unknown.
        """
        both = joined(condition1, condition2)
        rows_a = np.arange(len(condition1))
        rows_b = np.arange(len(condition1), len(both))
        maps = univariate.contrast_maps(
            both, rows_a, rows_b, test=test, control=control, alpha=alpha
        )
        # Row i of both stays in one half where they are pairs.
        pair = np.concatenate([np.arange(len(condition1)), np.arange(len(condition2))])
        halves = univariate.split_halves(
            rows_a,
            rows_b,
            blocks=pair if test in PAIRED_TESTS else None,
            rng=np.random.default_rng(seed),
        )
        design = univariate.two_sided(rows_a, rows_b, test=test)
        return univariate.layer_profiles(
            maps,
            selection=univariate.half_effects(both, halves, design),
            family=univariate.simes_family(univariate.every_p_value([maps]), alpha),
        )

    @staticmethod
    def multiple_comparison_correction(
        p_values: np.ndarray,
        method: str = "fdr_bh",
        alpha: float = 0.05,
        *,
        n_permutations: int | None = None,
    ) -> multiplicity.Adjusted:
        """Correct a family of p-values: ``rejected`` and ``p_adjusted``, in the shape given.

        ``method`` is ``"fdr_bh"``, ``"fdr_by"``, ``"fdr_tsbky"``, ``"bonferroni"`` or ``"holm"``.
        NaN stays NaN and does not count as a test. Uncorrected p-values of a permutation test
        need ``n_permutations`` beside them: too few for the family are refused.
        """
        return multiplicity.adjust(
            array_of(p_values, "p_values"),
            control=method,
            alpha=alpha,
            n_permutations=n_permutations,
        )

    @staticmethod
    def compute_rsa_similarity(
        acts1: Group,
        acts2: Group,
        metric: str = "correlation",
        *,
        comparison: str = dissimilarity.DEFAULT_COMPARISON,
        scaling: str = "none",
    ) -> float:
        """Compare two representations of the same prompts: do they tell the same ones apart?

        A second-order similarity: each set of activations becomes an RDM over the prompts,
        and the two RDMs are compared. The numbers of units may differ (two layers, two models).

        Parameters
        ----------
        acts1, acts2 : (n_prompts, n_units1) and (n_prompts, n_units2), or Activations
            Row i of both is the same prompt.
        metric : str
            Dissimilarity of two prompts: ``"correlation"``, ``"cosine"``, ``"euclidean"``.
        comparison : str
            Similarity of the two RDMs, an entry of ``dissimilarity.COMPARISONS``.
        scaling : str
            An entry of ``scaling.SCALINGS``, of every unit beforehand: ``"z"`` or ``"robust_z"``
            where a few massive units would decide the distances.

        Returns
        -------
        float
            1 for the same geometry, about 0 for unrelated ones.

        Raises
        ------
        ValueError
            If the prompts differ, are fewer than three, or an option is unknown.
        """
        recordings = [x for x in (acts1, acts2) if isinstance(x, Activations)]
        if len(recordings) == 2 and acts1.prompts != acts2.prompts:
            raise ValueError(
                "the two recordings are of different prompts, or of the same ones in another "
                "order; record the same prompts twice, or sort one with activations.rows(...)"
            )
        x, y = matrix_of(acts1, "acts1"), matrix_of(acts2, "acts2")
        if len(x) != len(y):
            raise ValueError(
                f"acts1 has {len(x)} prompts and acts2 has {len(y)}; RDMs are compared over the "
                f"same prompts, row by row"
            )
        if scaling not in SCALINGS:
            raise ValueError(f"no scaling {scaling!r}; known: {', '.join(SCALINGS)}")
        x, y = SCALINGS[scaling](x), SCALINGS[scaling](y)
        return dissimilarity.compare(
            dissimilarity.rdm(x, metric), dissimilarity.rdm(y, metric), comparison
        )

    @staticmethod
    def summarize_contrast(
        contrast_results: StatMap | Mapping[str, StatMap], top_n: int = 20
    ) -> ContrastSummary:
        """Counts over a contrast, and its ``top_n`` units with the largest abs(d).

        The listed d's were picked for being large and measured on the same prompts: expect
        less on new ones (``analyses.univariate.top_units`` measures them on held-out prompts).

        Parameters
        ----------
        contrast_results : StatMap, or dict of site -> StatMap
            As ``compute_contrast`` or ``analyses.univariate.contrast_maps`` returns them.
        """
        maps = contrast_results if isinstance(contrast_results, Mapping) else {"": contrast_results}
        first = next(iter(maps.values()))
        table = pd.concat([_numbered(m) for m in maps.values()], ignore_index=True)
        size = table["effect_size"].abs()
        strongest = size.sort_values(ascending=False, kind="stable").dropna().index[:top_n]
        tested = int(sum(m.tested.sum() for m in maps.values()))
        return ContrastSummary(
            test=first.test,
            control=first.control,
            alpha=first.alpha,
            n=first.n,
            n_units=len(table),
            n_tested=tested,
            n_excluded=len(table) - tested,
            n_significant=int(sum(m.significant.sum() for m in maps.values())),
            n_large_d=int((size > LARGE_D).sum()),
            mean_abs_d=float(size.mean()),
            max_abs_d=float(size.max()),
            top=table.loc[strongest].reset_index(drop=True),
        )


def _numbered(stat_map: StatMap) -> pd.DataFrame:
    """The map's table with ``significant``, and a column number where units have no address."""
    table = stat_map.table().assign(significant=stat_map.significant)
    if stat_map.units is None:
        table.insert(0, "index", np.arange(len(stat_map)))
    return table


def _permutation_map(a: np.ndarray, b: np.ndarray, n_permutations: int, seed: int) -> StatMap:
    permuted, alone = (
        shuffle([a, b], "student", n_permutations=n_permutations, rng=np.random.default_rng(seed))
        for shuffle in (permutation.max_statistic, permutation.unit_permutation)
    )
    parametric = univariate.contrast_map(a, b, test="student")
    return replace(
        parametric,
        test="permutation",
        p_value=np.where(parametric.tested, alone.p_value, np.nan),
        p_adjusted=np.where(parametric.tested, permuted.p_value, np.nan),
        control="max_t",
        family_size=int(parametric.tested.sum()),
    )
