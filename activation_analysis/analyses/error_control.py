"""Which units survive, at one error rate for all units of every site, layer and contrast.

``CONTROLS`` names every way; each takes the uncorrected maps of all contrasts of a run and gives
them back adjusted as one family, whose size is on record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.samples import Recording
from activation_analysis.results import PermutationSummary, StatMap
from activation_analysis.statistics import multiplicity
from activation_analysis.statistics.null_maxima import NullMaxima, Relabellings
from activation_analysis.statistics.permutation import (
    STEPPED_RELABELLINGS,
    family_p_values,
    most_significant,
    relabellings_of,
    scores_of,
)
from activation_analysis.statistics.permutation_scores import Rows, blocks_of
from activation_analysis.statistics.permuted_designs import PermutedDesign
from activation_analysis.statistics.tail import TailFit, tail_p_values

SiteMaps = Mapping[str, StatMap]
FEWEST_FOR_TAIL = 200  # relabellings
T_TESTS = ("student", "welch", "paired", "glm_t")
RECOMPUTED = ("mannwhitney", "wilcoxon")  # maps hold U and W, permutations compare z


@dataclass(frozen=True)
class ErrorControl:
    """How errors are controlled over the family."""

    control: str = "fdr_bh"
    alpha: float = 0.05
    n_permutations: int = 1000
    step_down: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Controlled:
    """The maps of every contrast, adjusted together."""

    maps: tuple[dict[str, StatMap], ...]
    permutation: tuple[PermutationSummary | None, ...]  # of each contrast; None without shuffles


def controlled(
    recording: Recording,
    designs: Sequence[Design],
    maps: Sequence[SiteMaps],
    how: ErrorControl,
) -> Controlled:
    """Adjust the maps of all contrasts of a run as one family.

    Parameters
    ----------
    recording : Activations or StreamedRecording
        Read again by "max_t" only, a layer at a time.
    designs, maps : of every contrast
        The maps as `univariate.design_maps` returns them, uncorrected.
    how : ErrorControl

    Returns
    -------
    Controlled

    Raises
    ------
    ValueError
        If the control is unknown, or the test or design has no permutation form.
    """
    if how.control not in CONTROLS:
        raise ValueError(f"no control {how.control!r}; known: {', '.join(CONTROLS)}")
    return CONTROLS[how.control](recording, designs, maps, how)


def by_p_values(recording, designs, maps: Sequence[SiteMaps], how: ErrorControl) -> Controlled:
    """Adjust p-values, whatever test they came from."""
    family = multiplicity.adjust(every_p_value(maps), control=how.control, alpha=how.alpha)
    adjusted = _with_adjusted(maps, family.p_adjusted, how)
    return Controlled(adjusted, (None,) * len(maps))


def by_max_statistic(
    recording: Recording, designs: Sequence[Design], maps: Sequence[SiteMaps], how: ErrorControl
) -> Controlled:
    """Compare every unit with the largest statistic of each relabelling, over the whole family.

    Every contrast is relabelled among its own prompts only, so that what holds for the others
    does not matter to it; contrasts share the random keys, and statistics of different kinds
    are compared by their parametric p.
    """
    families = [
        _Shuffled(design, sites, design.permuted())
        for design, sites in zip(designs, maps, strict=True)
    ]
    relabellings = _relabellings(recording, families, how)
    alone = len(families) == 1
    sizes = [family.observed(recording) for family in families]
    common = [s if alone else f.common(s) for f, s in zip(families, sizes, strict=True)]
    every = np.concatenate(common)
    top = most_significant(every) if how.step_down else np.empty(0, dtype=int)
    beyond = np.ones(len(every), dtype=bool)
    beyond[top] = False
    ends = np.cumsum([len(c) for c in common])[:-1]
    null = []
    for family, drawn, apart in zip(families, relabellings, np.split(beyond, ends), strict=True):
        statistics = family.null_maxima(recording, drawn, apart)
        null.append(statistics if alone else family.common(statistics))
    exact = relabellings[0].exact
    rivals = _rivals(recording, families, relabellings, top, ends, alone)
    p_value, largest = family_p_values(every, top, rivals, np.maximum.reduce(null), exact)
    tail, more = _tail(largest, every, exact, how), {}
    if tail is not None:
        more["p_tail"] = tail.p_value
    return Controlled(
        _with_adjusted(maps, p_value, how, **more),
        tuple(
            PermutationSummary(
                n_permutations=len(drawn),
                exact=exact,
                n_possible=drawn.n_possible,
                n_ties=family.design.n_ties,
                exchangeable="whole" if family.design.means else family.permuted.atoms.kind,
                null_max=largest,
                critical=float(np.quantile(largest, 1 - how.alpha, method="higher")),
                is_statistic=alone,
                is_abs_t=alone and family.design.test in T_TESTS and not family.design.is_omnibus,
                tail_shape=np.nan if tail is None else tail.shape,
                tail_fit_p=np.nan if tail is None else tail.fit_p_value,
                tail_passed=tail is not None and tail.passed,
            )
            for family, drawn in zip(families, relabellings, strict=True)
        ),
    )


def _tail(largest: np.ndarray, every: np.ndarray, exact: bool, how: ErrorControl) -> TailFit | None:
    """A smooth tail of the null maxima; None where the counted p says all that there is."""
    if exact or len(largest) < FEWEST_FOR_TAIL:
        return None
    return tail_p_values(largest, every, rng=np.random.default_rng([how.seed, 1]))


CONTROLS: dict[str, Callable[..., Controlled]] = {
    **dict.fromkeys(multiplicity.CONTROLS, by_p_values),
    "max_t": by_max_statistic,
}


def every_p_value(maps: Sequence[SiteMaps]) -> np.ndarray:
    """The p-values of all units of all sites of all contrasts."""
    return np.concatenate([m.p_value for sites in maps for m in sites.values()])


@dataclass(frozen=True, eq=False)
class _Shuffled:
    """One contrast, ready to be relabelled."""

    design: Design
    maps: SiteMaps
    permuted: PermutedDesign

    def keys(self, keys: np.ndarray) -> np.ndarray:
        """Of the keys of all prompts those that this contrast goes by."""
        return keys[:, self.design.first_rows]

    def observed(self, recording: Recording) -> np.ndarray:
        """abs(statistic) of every unit, NaN where excluded, (n_units of all sites,)."""
        if self.design.test not in RECOMPUTED:
            return np.abs(np.concatenate([m.statistic for m in self.maps.values()]))
        return np.concatenate(
            [
                np.where(
                    tested, np.abs(self.permuted.statistic(self._rows(recording, *at))), np.nan
                )
                for *at, tested in _layers(self.maps)
            ]
        )

    def null_maxima(
        self, recording: Recording, relabellings: Relabellings, among: np.ndarray
    ) -> np.ndarray:
        """The largest abs(statistic) of each relabelling, over some of the units."""
        null = NullMaxima(self.permuted.score, self.permuted.columns, relabellings)
        start = 0
        for site, layer, tested in _layers(self.maps):
            chosen = tested & among[start : start + len(tested)]
            start += len(tested)
            if chosen.any():
                null.add(self._rows(recording, site, layer), chosen)
        return null.statistics

    def columns(self, recording: Recording, units: np.ndarray) -> np.ndarray:
        """Unit-norm columns of some units, numbered over all sites, (n, len(units))."""
        parts, places, start = [], [], 0
        for site, layer, tested in _layers(self.maps):
            inside = np.flatnonzero((units >= start) & (units < start + len(tested)))
            if len(inside):
                x = self._rows(recording, site, layer)
                parts.append(self.permuted.columns.exact(x, units[inside] - start))
                places.append(inside)
            start += len(tested)
        return np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate(places))]

    def common(self, statistic: np.ndarray) -> np.ndarray:
        """A scale on which statistics of any kind and df compare: -log10 of the parametric p."""
        return -np.log10(np.maximum(self.permuted.score.parametric_p(statistic), 1e-300))

    def _rows(self, recording: Recording, site: str, layer: int) -> Rows:
        return Rows(self.design.samples(recording, site, layer))


def _layers(maps: SiteMaps) -> Iterator[tuple[str, int, np.ndarray]]:
    """Site, layer and which of its units are tested, in the order of the maps' columns."""
    for site, stat_map in maps.items():
        for layer in stat_map.units.layers:
            yield site, int(layer), stat_map.tested[stat_map.units.columns_of(layer)]


def _relabellings(
    recording, families: Sequence[_Shuffled], how: ErrorControl
) -> list[Relabellings]:
    keys = np.random.default_rng(how.seed).random((how.n_permutations, len(recording)))
    # Lists of different length cannot be joined: several contrasts are shuffled at random.
    exact = "auto" if len(families) == 1 else False
    return [
        relabellings_of(f.permuted, how.n_permutations, exact=exact, keys=f.keys(keys))
        for f in families
    ]


def _rivals(recording, families, relabellings, top, ends, alone) -> Iterator[np.ndarray]:
    """What the most significant units reach under some relabellings after others, (n, n_top)."""
    family_of = np.searchsorted(ends, top, side="right")
    starts = np.concatenate([[0], ends])
    columns, places = [], []
    for number, family in enumerate(families):
        place = np.flatnonzero(family_of == number)
        places.append(place)
        units = top[place] - starts[number]
        columns.append(family.columns(recording, units) if len(units) else None)
    for some in blocks_of(len(relabellings[0]), STEPPED_RELABELLINGS):
        values = np.empty((some.stop - some.start, len(top)))
        for family, drawn, own, place in zip(families, relabellings, columns, places, strict=True):
            if own is not None:
                score = family.permuted.score
                reached = score.as_statistic(scores_of(score, drawn, own, some))
                values[:, place] = reached if alone else family.common(reached)
        yield values


def _with_adjusted(
    maps: Sequence[SiteMaps], p: np.ndarray, how: ErrorControl, **more: np.ndarray
) -> tuple[dict[str, StatMap], ...]:
    """The maps with their share of the adjusted p-values, and of further columns."""
    size = int(np.count_nonzero(~np.isnan(p)))
    start, adjusted = 0, []
    for sites in maps:
        adjusted.append({})
        for site, stat_map in sites.items():
            own = slice(start, start + len(stat_map))
            start = own.stop
            adjusted[-1][site] = replace(
                stat_map,
                p_adjusted=p[own],
                control=how.control,
                alpha=how.alpha,
                family_size=size,
                more={**stat_map.more, **{name: values[own] for name, values in more.items()}},
            )
    return tuple(adjusted)
