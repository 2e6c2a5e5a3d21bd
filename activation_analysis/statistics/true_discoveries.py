"""At least how many units of any set respond? Bounds that hold for sets chosen after looking.

A corrected map says which units are significant. It does not say how many of a layer's units
respond, nor may the layer be picked because it looks best. All-resolutions inference bounds the
true effects from below in every set at once, so both are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.statistics.multiplicity import p_values


@dataclass(frozen=True)
class SimesFamily:
    """What all bounds of one family share."""

    h: int  # Hommel's h: with confidence, no more than h units of the family are null
    alpha: float
    family_size: int  # p-values that are not NaN

    @property
    def at_least(self) -> int:
        """True effects in the whole family, at least."""
        return self.family_size - self.h


@dataclass(frozen=True)
class TrueDiscoveries:
    """Lower bounds of several sets of units of one family, valid together."""

    at_least: np.ndarray  # (n_sets,) int, true effects in each set
    set_size: np.ndarray  # (n_sets,) int, units with a p-value
    family: SimesFamily

    @property
    def share(self) -> np.ndarray:
        """Of each set's tested units, the share that responds at least; NaN for none, (n_sets,)."""
        with np.errstate(invalid="ignore"):
            return self.at_least / np.where(self.set_size > 0, self.set_size, np.nan)


def simes_family(p: np.ndarray, alpha: float = 0.05) -> SimesFamily:
    """The family that sets are chosen from: every test that was made.

    The bounds need Simes' inequality among the true nulls, which holds for independent and for
    positively dependent p-values (all the dependence that ``fdr_bh`` is proven for, and observed
    to hold for two-sided t-tests of correlated units). Not appropriate for p-values that are
    smallest of several, for anti-conservative ones (templated prompts taken as independent), for
    permutation p-values whose floor 1/(B + 1) lies above alpha / family size by much, and for
    strong negative dependence.

    Parameters
    ----------
    p : array of any shape
        Uncorrected, all sites, layers and contrasts of the run. NaN was not tested.
    alpha : float
        Chance that any bound of any set is too large.

    Returns
    -------
    SimesFamily

    Raises
    ------
    ValueError
        If a p-value lies outside 0..1, or ``alpha`` is not between 0 and 1.

    References
    ----------
    Goeman & Solari (2011), Statistical Science 26:584-597.
    Rosenblatt, Finos, Weeda, Solari & Goeman (2018), NeuroImage 181:786-796.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")
    p = p_values(p)
    return SimesFamily(simes_h(p, alpha), alpha, int(p.size - np.isnan(p).sum()))


def simes_h(p: np.ndarray, alpha: float) -> int:
    """Hommel's h: the size of the largest set of units that Simes' test does not reject.

        h = max i such that  i p_(m - i + j) > j alpha  for all j = 1..i
          = min over p_(k) < alpha of  max(m - k, ceil((m - k) alpha / (alpha - p_(k))) - 1)

    and m where no p is below alpha; 0 where none is above. The second form needs one sort of the
    p-values below alpha.

    References
    ----------
    Hommel (1988), Biometrika 75:383-386.
    Meijer, Krebs & Goeman (2019), Biometrical Journal 61:1304-1318.
    """
    p = np.asarray(p, dtype=float)
    family_size = int(p.size - np.isnan(p).sum())
    small = np.sort(p[p < alpha])
    if not np.any(p > alpha):
        return 0
    larger = family_size - np.arange(1, len(small) + 1)
    unrejected = np.ceil(larger * alpha / (alpha - small)) - 1
    return int(min(np.maximum(larger, unrejected).min(initial=np.inf), family_size))


def lower_bound(p_selected: np.ndarray, family: SimesFamily) -> int:
    """How many of the selected units respond, at least, with confidence 1 - alpha?

        max over u = 1..n of  1 - u + number of selected p with h p <= u alpha

    Holds for all sets that could have been selected at once: select by looking at the p-values,
    at the effects or at the layer profile, and as often as you like. Not for p-values that are
    not in the family.

    Parameters
    ----------
    p_selected : array of any shape
        The selected units' uncorrected p-values, out of those given to ``simes_family``; NaN is
        left out.
    family : SimesFamily

    Returns
    -------
    int

    References
    ----------
    Goeman, Meijer, Krebs & Solari (2019), Biometrika 106:841-856.
    """
    p = np.asarray(p_selected, dtype=float).ravel()
    return int(true_discoveries(p, np.zeros(p.size, dtype=int), family).at_least.sum())


def true_discoveries(p: np.ndarray, sets: np.ndarray, family: SimesFamily) -> TrueDiscoveries:
    """``lower_bound`` of many sets that do not overlap, as every layer of every site.

    Parameters
    ----------
    p : (n_units,)
        As ``lower_bound``.
    sets : (n_units,) int
        The set that each unit is in, from 0; below 0 in none.
    family : SimesFamily

    Returns
    -------
    TrueDiscoveries
        Of sets ``0 .. max(sets)``.

    Raises
    ------
    ValueError
        If ``p`` and ``sets`` do not match, or the sets have more units than the family.

    References
    ----------
    As ``lower_bound``.
    """
    p, sets = np.asarray(p, dtype=float).ravel(), np.asarray(sets).ravel()
    if len(p) != len(sets):
        raise ValueError(f"{len(p)} p-values but {len(sets)} set numbers; give one per unit")
    chosen = ~np.isnan(p) & (sets >= 0)
    n_sets = int(sets.max(initial=-1)) + 1
    set_size = np.bincount(sets[chosen], minlength=n_sets)
    if set_size.sum() > family.family_size:
        raise ValueError(
            f"the sets have {set_size.sum()} units with p-values, but their family only "
            f"{family.family_size}; make the family of all tests that the sets are chosen from"
        )
    # A unit counts from category u on; one beyond its set's size never adds to a bound.
    category = np.maximum(np.ceil(family.h * p[chosen] / family.alpha), 1)
    useful = category <= set_size[sets[chosen]]
    category, of_set = category[useful], sets[chosen][useful]
    order = np.lexsort((category, of_set))
    category, of_set = category[order], of_set[order]
    first = np.searchsorted(of_set, np.arange(n_sets))
    rank = np.arange(1, len(of_set) + 1) - first[of_set]
    at_least = np.zeros(n_sets, dtype=int)
    np.maximum.at(at_least, of_set, (1 - category + rank).astype(int))
    return TrueDiscoveries(at_least, set_size, family)
