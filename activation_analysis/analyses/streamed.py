"""Contrasts of activations that nobody kept: moments of every group, gathered as batches pass.

Which prompts a contrast compares, and which of them choose its top units, is known before the
model reads the first. So each of these groups has its moments at every unit, batches are added
to them and forgotten, and the analyses ask for a group's moments where they would otherwise take
its rows. Memory is that of four groups per contrast, however many prompts there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from activation_analysis.activations import RecordingSummary
from activation_analysis.analyses.split_half import Halves, Rows
from activation_analysis.statistics.hypothesis_tests import MOMENT_TESTS, canonical_test
from activation_analysis.statistics.moments import Moments
from activation_analysis.statistics.streaming import added, merged, packed, unpacked

Address = tuple[str, int]  # site, layer
SEEN, GROUPS = "seen", "groups"  # arrays of `to_arrays` that are no address


def refuse_whole_data(test: str, control: str = "fdr_bh") -> None:
    """A ValueError unless moments answer the test under its control."""
    test = canonical_test(test)
    if control == "max_t":
        raise ValueError(
            "control 'max_t' shuffles every activation, and a stream keeps none; with a stream "
            "use another control, or leave out --stream to record them"
        )
    if test not in MOMENT_TESTS:
        raise ValueError(
            f"test {test!r} needs every activation at once, and a stream keeps none; with a "
            f"stream use {' or '.join(MOMENT_TESTS)}, or leave out --stream to record them"
        )


class StreamedMoments:
    """Moments of groups of prompts at every site and layer, filled batch by batch.

    Each prompt is added once, in any order, by one process or several. Two objects made for the
    same prompts and groups, each with its share of the prompts, merge into one.

    Parameters
    ----------
    groups : (n_groups, n_prompts) bool
        Which prompts belong to a group; a prompt may be in several, or in none.
    """

    def __init__(self, groups: np.ndarray) -> None:
        self.groups = np.asarray(groups, dtype=bool)
        self.seen = np.zeros(self.groups.shape[1], dtype=bool)  # (n_prompts,) added already
        self._columns: dict[Address, slice] = {}  # all units lie side by side, sorted by address
        self._known: list[Moments | None] = [None] * len(self.groups)  # None: no prompt yet

    @classmethod
    def of(cls, n_prompts: int, splits: Iterable[Halves]) -> StreamedMoments:
        """Of both halves of both sides of every contrast; sides are merged from their halves."""
        rows = [r for halves in splits for r in (*halves.selection, *halves.held_out) if len(r)]
        groups = np.array([_members(r, n_prompts) for r in rows]).reshape(-1, n_prompts)
        _, first = np.unique(groups, axis=0, return_index=True)
        return cls(groups[np.sort(first)])  # contrasts that share a side may share its halves

    def widths(self, sites: Sequence[str]) -> dict[str, dict[int, int]]:
        """Site -> layer -> units of all that was added, sites in the order given."""
        return {
            site: {k: c.stop - c.start for (s, k), c in self._columns.items() if s == site}
            for site in sites
        }

    def add(self, rows: Rows, values: Mapping[Address, np.ndarray]) -> None:
        """Take in a batch, which may be forgotten afterwards.

        Parameters
        ----------
        rows : (n,) numbers of the prompts of this batch, each for the first time
        values : (site, layer) -> (n, width)
            The same sites and layers in every batch.

        Raises
        ------
        ValueError
            If a prompt is added twice or unknown, or the batch is not of the same units as
            those before; nothing of it is taken in then.
        """
        rows = np.asarray(rows, dtype=int)
        self._refuse_rows(rows)
        self._refuse_values(len(rows), values)
        self._columns = self._columns or _columns({a: x.shape[1] for a, x in values.items()})
        every_unit = np.concatenate([values[address] for address in self._columns], axis=1)
        members = self.groups[:, rows]
        for group in np.flatnonzero(members.any(axis=1)):
            self._known[group] = added(self._known[group], every_unit[members[group]])
        self.seen[rows] = True

    def merge(self, other: StreamedMoments) -> StreamedMoments:
        """Both shares of the prompts as one.

        Raises
        ------
        ValueError
            If the groups, sites, layers or widths differ, or a prompt is in both shares.
        """
        if not np.array_equal(self.groups, other.groups):
            raise ValueError(
                "these streams are of other prompts or contrasts; merge only like ones"
            )
        twice = np.flatnonzero(self.seen & other.seen)
        if len(twice):
            raise ValueError(f"prompts {_some(twice)} are in both streams; each is added once")
        if self._columns and other._columns and self._columns != other._columns:
            raise ValueError("these streams differ in sites, layers or widths; record the same")
        both = StreamedMoments(self.groups)
        both.seen = self.seen | other.seen
        both._columns = self._columns or other._columns
        both._known = [_together(parts) for parts in zip(self._known, other._known, strict=True)]
        return both

    def group(self, rows: Rows, address: Address) -> Moments:
        """The moments of a group, or of two disjoint ones together, at one site and layer.

        Raises
        ------
        ValueError
            If prompts are missing still, or ``rows`` is no such group.
        """
        missing = np.flatnonzero(~self.seen)
        if len(missing):
            raise ValueError(f"prompts {_some(missing)} were never added; the stream is unfinished")
        columns = self._columns[address]
        return reduce(merged, [self._known[group].at(columns) for group in self._made_of(rows)])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays, for a file or for another process."""
        arrays = {SEEN: self.seen.copy(), GROUPS: self.groups.copy()}
        n_units = sum(c.stop - c.start for c in self._columns.values())
        every = np.zeros((len(self.groups), len(Moments.PER_UNIT), n_units))
        for group, known in enumerate(self._known):
            if known is not None:
                every[group] = packed(known)
        for (site, layer), columns in self._columns.items():
            arrays[f"{site}/{layer}"] = np.ascontiguousarray(every[:, :, columns])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> StreamedMoments:
        """What `to_arrays` gave away."""
        streamed = cls(arrays[GROUPS])
        streamed.seen = np.array(arrays[SEEN], dtype=bool)
        named = {tuple(n.rsplit("/", 1)): n for n in arrays.keys() - {SEEN, GROUPS}}
        packs = {(site, int(layer)): arrays[name] for (site, layer), name in named.items()}
        if packs:
            streamed._columns = _columns({a: pack.shape[-1] for a, pack in packs.items()})
            every = np.concatenate([packs[a] for a in streamed._columns], axis=-1)
            counts = (streamed.groups & streamed.seen).sum(axis=1)
            streamed._known = [
                unpacked(int(n), rows) if n else None for n, rows in zip(counts, every, strict=True)
            ]
        return streamed

    def _made_of(self, rows: Rows) -> list[int]:
        wanted = _members(rows, len(self.seen))
        for group in np.flatnonzero(~(self.groups & ~wanted).any(axis=1)):
            rest = wanted & ~self.groups[group]
            if not rest.any():
                return [group]
            other = np.flatnonzero((self.groups == rest).all(axis=1))
            if len(other):
                return [group, other[0]]
        raise ValueError(
            f"these {len(np.asarray(rows))} prompts are no side or half of a contrast that the "
            f"stream was made for; make it with the same contrasts, prompts and seed"
        )

    def _refuse_rows(self, rows: np.ndarray) -> None:
        n_prompts = len(self.seen)
        unknown = rows[(rows < 0) | (rows >= n_prompts)]
        if len(unknown):
            raise ValueError(f"no prompts {_some(unknown)}; there are {n_prompts}, the first is 0")
        numbers, counts = np.unique(rows, return_counts=True)
        twice = numbers[(counts > 1) | self.seen[numbers]]
        if len(twice):
            raise ValueError(f"prompts {_some(twice)} are added a second time; each is added once")

    def _refuse_values(self, n_rows: int, values: Mapping[Address, np.ndarray]) -> None:
        shapes = {address: np.shape(x) for address, x in values.items()}
        for address, shape in shapes.items():
            if len(shape) != 2 or shape[0] != n_rows:
                raise ValueError(f"{address} has shape {shape}; expected ({n_rows}, width)")
        columns = _columns({address: shape[1] for address, shape in shapes.items()})
        if self._columns and columns != self._columns:
            raise ValueError(
                f"this batch has {_sizes(columns)}, those before it {_sizes(self._columns)}; "
                f"every batch has the same sites, layers and widths"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedRecording(RecordingSummary):
    """What is left of a recording that streamed past: the summary, and moments of its groups.

    Stands in for Activations wherever the moments of a side or of a half will do.
    """

    moments: StreamedMoments

    def sample(self, rows: Rows, site: str, layer: int, columns: slice = slice(None)) -> Moments:
        """The moments of one group of the prompts at one site and layer."""
        return self.moments.group(rows, (site, layer)).at(columns)


def _members(rows: Rows, n_prompts: int) -> np.ndarray:
    members = np.zeros(n_prompts, dtype=bool)
    members[np.asarray(rows, dtype=int)] = True
    return members


def _columns(widths: Mapping[Address, int]) -> dict[Address, slice]:
    addresses = sorted(widths)
    ends = np.cumsum([widths[a] for a in addresses]).tolist()
    return {a: slice(end - widths[a], end) for a, end in zip(addresses, ends, strict=True)}


def _sizes(columns: Mapping[Address, slice]) -> str:
    return f"{len(columns)} layers of {sum(c.stop - c.start for c in columns.values())} units"


def _together(parts: Iterable[Moments | None]) -> Moments | None:
    known = [m for m in parts if m is not None]
    return reduce(merged, known) if known else None


def _some(numbers: np.ndarray) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown}, ... ({len(numbers)} in all)" if len(numbers) > 5 else shown
