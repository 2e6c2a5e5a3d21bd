"""Means and sums of squares of every unit, one pass in float64, in blocks of columns.

Raw sums lose everything that matters where a unit sits far from zero: with an offset of 1e4,
float32 sums once gave t = 2.65 for a true 0.06. Here each column is first moved to its own
first value x_1, then summed with its squares:

    ss = sum (x - x_1)^2 - n (mean - x_1)^2

The first value is one of the data, so that this subtraction magnifies rounding by n + 1 at
most; columns where it would by more than ``CANCELLATION`` are centred on their mean instead.

Chan, Golub & LeVeque (1983), American Statistician 37:242-247.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_VALUES = 2**18  # float64 values held at once, 2 MiB: one block stays in cache
ROWS = 16  # of a block that moments sum before they add it to the other sums
CANCELLATION = 64  # sum of squares about the first value over that about the mean


@dataclass(frozen=True)
class Moments:
    """Mean and spread of one group at every unit; the mean is ``origin + offset``.

    All that a t-test, an effect size and the screening of units ask of a group.
    """

    n: int
    origin: np.ndarray  # (n_units,) the group's first value
    offset: np.ndarray  # (n_units,) mean minus origin
    sum_squares: np.ndarray  # (n_units,) of deviations from the mean; 0 where constant
    nonfinite: np.ndarray  # (n_units,) 0, or inf where a value is infinite, NaN where one is NaN

    PER_UNIT = ("origin", "offset", "sum_squares", "nonfinite")

    def __len__(self) -> int:
        """Prompts, as of a matrix that has one in every row."""
        return self.n

    @property
    def n_units(self) -> int:
        return len(self.origin)

    def at(self, columns: slice) -> Moments:
        """The same prompts at some of the units."""
        return Moments(self.n, *(getattr(self, name)[columns] for name in self.PER_UNIT))

    @property
    def mean(self) -> np.ndarray:
        return self.origin + self.offset

    @property
    def variance(self) -> np.ndarray:
        """Sum of squares over n - 1, (n_units,)."""
        return self.sum_squares / (self.n - 1)


Sample = np.ndarray | Moments  # a group: its values, or what a stream has kept of them


def moments(x: np.ndarray) -> Moments:
    """Mean and sum of squared deviations of every column, and whether all of it is finite.

    Parameters
    ----------
    x : (n, n_units)
        Any real dtype. NaN and inf spoil their own column only.

    Returns
    -------
    Moments
        Float64; exactly 0 sum of squares where a column is constant.
    """
    n, n_units = x.shape
    origin, offset, sum_squares = np.empty((3, n_units))
    nonfinite = np.zeros(n_units)
    buffer = np.empty(min(n, ROWS) * min(block_width(ROWS), n_units))
    with np.errstate(invalid="ignore", over="ignore"):
        for columns in column_blocks(ROWS, n_units):
            origin[columns] = x[0, columns]
            total, about_origin = _sums_about(origin[columns], x[:, columns], buffer)
            mean = total / n
            about_mean = about_origin - total * mean
            # NaN and inf are no concern of this one: neither is above the other.
            far = np.flatnonzero(about_origin > CANCELLATION * about_mean)
            if len(far):
                units = columns.start + far
                deviations = x[:, units].astype(np.float64, order="C") - origin[units]
                deviations -= mean[far]
                about_mean[far] = column_sums(np.square(deviations, out=deviations))
            spoiled = columns.start + np.flatnonzero(~np.isfinite(about_origin))
            if len(spoiled):
                nonfinite[spoiled] = _worst(x[:, spoiled])
            offset[columns], sum_squares[columns] = mean, about_mean
    return Moments(n, origin, offset, sum_squares, nonfinite)


def _sums_about(
    origin: np.ndarray, x: np.ndarray, buffer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of x - origin and of its square; a few rows at a time, wide enough to read in order."""
    total, squares = np.zeros((2, len(origin)))
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        block = buffer[: rows.size].reshape(rows.shape)
        block[:] = rows
        block -= origin
        total += column_sums(block)
        squares += column_sums(np.square(block, out=block))
    return total, squares


def _worst(x: np.ndarray) -> np.ndarray:
    """0 where all of a column is finite, inf where a value is infinite, NaN where one is NaN."""
    worst = np.abs(x).max(axis=0).astype(np.float64)
    return np.where(np.isfinite(worst), 0.0, worst)


def mean_difference(a: Moments, b: Moments) -> np.ndarray:
    """Mean of a minus mean of b, origins first so that a shared offset cancels, (n_units,)."""
    with np.errstate(invalid="ignore"):
        return (a.origin - b.origin) + (a.offset - b.offset)


def pooled_variance(a: Moments, b: Moments) -> np.ndarray:
    """Variance within the two groups, (ss_a + ss_b) / (n_a + n_b - 2), (n_units,)."""
    return (a.sum_squares + b.sum_squares) / (a.n + b.n - 2)


def constant(x: np.ndarray) -> np.ndarray:
    """Where every row has the same value, (n_units,) bool; False where a value is NaN."""
    same = np.empty(x.shape[1], dtype=bool)
    for columns in column_blocks(*x.shape):
        same[columns] = np.all(x[:, columns] == x[0, columns], axis=0)
    return same


def block_width(n: int) -> int:
    """Columns of a block of ``n`` rows."""
    return max(16, BLOCK_VALUES // max(n, 1))


def column_blocks(n: int, n_units: int) -> Iterator[slice]:
    """Slices of columns, each small enough that ``n`` rows of it fit the cache."""
    width = block_width(n)
    for start in range(0, n_units, width):
        yield slice(start, min(start + width, n_units))


def float64_block(x: np.ndarray, columns: slice) -> np.ndarray:
    """A float64 copy of some columns, row by row in memory whatever the layout of ``x``."""
    return np.array(x[:, columns], dtype=np.float64, order="C")


def column_sums(block: np.ndarray) -> np.ndarray:
    """Sums over prompts of a row-major block, added row to row, (n_units,)."""
    # numpy sums one lone column pairwise: a unit's numbers would depend, in the last bit, on
    # whether it was tested in company.
    return np.add.accumulate(block)[-1] if block.shape[1] == 1 else block.sum(axis=0)


def side_by_side(samples: Sequence[Sample]) -> Sample:
    """The units of several samples of the same prompts as those of one."""
    if isinstance(samples[0], Moments):
        columns = (np.concatenate([getattr(s, name) for s in samples]) for name in Moments.PER_UNIT)
        return Moments(samples[0].n, *columns)
    return np.concatenate(samples, axis=1)


def two_moments(a: Sample, b: Sample) -> tuple[Moments, Moments]:
    """The moments of both groups, or a ValueError that says what does not fit."""
    if not (isinstance(a, Moments) and isinstance(b, Moments)):
        a, b = two_groups(a, b)
        return moments(a), moments(b)
    _refuse_single(a.n, "the first group")
    _refuse_single(b.n, "the second group")
    _refuse_other_units(a.n_units, b.n_units)
    return a, b


def several_moments(samples: Sequence[Sample]) -> list[Moments]:
    """The moments of two groups or more, or a ValueError that says what does not fit."""
    known = []
    for number, sample in enumerate(samples, 1):
        name = _name_of(number)
        if not isinstance(sample, Moments):
            sample = moments(_as_group(sample, name))
        _refuse_single(sample.n, name)
        _refuse_other_units(known[0].n_units if known else sample.n_units, sample.n_units)
        known.append(sample)
    if len(known) < 2:
        raise ValueError(f"received {len(known)} group; this compares two groups or more")
    return known


def several_groups(samples: Sequence[np.ndarray], *, at_least: int = 2) -> list[np.ndarray]:
    """Groups as 2-D real arrays of the same units, or a ValueError that says what is not."""
    groups = [_as_group(x, _name_of(number)) for number, x in enumerate(samples, 1)]
    if len(groups) < at_least:
        raise ValueError(f"received {len(groups)} group; this compares two groups or more")
    for other in groups[1:]:
        _refuse_other_units(groups[0].shape[1], other.shape[1])
    return groups


def _name_of(number: int) -> str:
    return {1: "the first group", 2: "the second group"}.get(number, f"group {number}")


def two_groups(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both groups as 2-D real arrays, or a ValueError that says what does not fit."""
    a, b = _as_group(a, "the first group"), _as_group(b, "the second group")
    _refuse_other_units(a.shape[1], b.shape[1])
    return a, b


def pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both groups as ``two_groups`` has them, row i of one matched with row i of the other."""
    a, b = two_groups(a, b)
    refuse_unpaired(len(a), len(b))
    return a, b


def refuse_unpaired(n_a: int, n_b: int) -> None:
    """A ValueError where two groups cannot be pairs."""
    if n_a != n_b:
        raise ValueError(
            f"a paired test needs one prompt of each group per pair, received {n_a} and {n_b} "
            f"prompts; align the rows by item, or use an unpaired test"
        )


def _as_group(x: np.ndarray, name: str) -> np.ndarray:
    if isinstance(x, Moments):
        raise ValueError(
            f"{name} is known by its moments only, and this needs the value of every prompt; "
            f"record the activations, or use a test that moments answer: student or welch"
        )
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(
            f"{name} has shape {x.shape}; expected (n_prompts, n_units), one row per prompt: "
            f"average or select tokens first, and give a single unit as x[:, None]"
        )
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {x.dtype}; expected real numbers")
    _refuse_single(len(x), name)
    return x


def _refuse_single(n: int, name: str) -> None:
    if n < 2:
        raise ValueError(
            f"{name} has {n} prompt(s); at least two are needed to estimate a variance"
        )


def _refuse_other_units(n_a: int, n_b: int) -> None:
    if n_a != n_b:
        raise ValueError(
            f"the groups have {n_a} and {n_b} units; both must have the same units, in the same "
            f"order: record both at the same sites, layers and model"
        )
