"""The voxel grid of a language model, and the matrix recorded on it.

A prompt becomes one row. A column is a unit: a (site, layer, index) triple, as a voxel is an
(x, y, z) triple. Statistics see only the matrix; the grid gives every column its address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

SITES = ("residual", "attention", "mlp", "neuron", "head")
KEY = "key"  # the detail of a recording that names it in the store
SITE_ALIASES = {"attn": "attention"}
POSITIONS = ("last", "mean", "max", "first", "span", "word_final", "all")


class StoredLayer(Protocol):
    """One layer that is read from the disk when it is indexed, as `store.StoredMatrix` is."""

    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int: ...
    def __getitem__(self, key: object) -> np.ndarray: ...
    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray: ...
    def of_rows(self, rows: np.ndarray) -> StoredLayer: ...


Layer = np.ndarray | StoredLayer  # (n_prompts, width), or a row per token
Values = Mapping[str, Mapping[int, Layer]]  # site -> layer -> activations


def canonical_site(name: str) -> str:
    """The site that ``name`` means, or a ValueError that lists the known ones."""
    site = SITE_ALIASES.get(name, name)
    if site not in SITES:
        raise ValueError(f"no site {name!r}; known: {', '.join(SITES)} (and 'attn' for attention)")
    return site


@dataclass(frozen=True)
class Units:
    """The addresses of the columns of one site's matrix, layer by layer."""

    site: str
    layer: np.ndarray  # (n_units,) block index, 0 is the first block
    index: np.ndarray  # (n_units,) coordinate within the layer
    n_layers: int  # blocks in the whole model, recorded or not

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def layers(self) -> np.ndarray:
        """The recorded layers, ascending, (n_recorded_layers,)."""
        return np.unique(self.layer)

    def columns_of(self, layer: int) -> slice:
        """The columns that hold ``layer`` (they are contiguous)."""
        start, stop = np.searchsorted(self.layer, [layer, layer + 1])
        return slice(int(start), int(stop))

    @property
    def depth(self) -> np.ndarray:
        """Relative depth of every unit, layer / (n_layers - 1), in 0..1, (n_units,)."""
        return relative_depth(self.layer, self.n_layers)


def units_of(site: str, widths: Mapping[int, int], n_layers: int) -> Units:
    """The addresses of one site, ``widths`` by layer, in the order of a matrix's columns."""
    layers = sorted(widths)
    return Units(
        site=site,
        layer=np.repeat(layers, [widths[k] for k in layers]),
        index=np.concatenate([np.arange(widths[k]) for k in layers]),
        n_layers=n_layers,
    )


def relative_depth(layer: np.ndarray, n_layers: int) -> np.ndarray:
    """Layer index over the last layer's index: 0 is the first block, 1 the last."""
    return np.asarray(layer, dtype=float) / max(n_layers - 1, 1)


@dataclass(frozen=True, eq=False)
class Activations:
    """One row per prompt at every recorded site and layer.

    ``values[site][layer]`` is (n_prompts, width) float32, in the model's own units. A site's
    layers side by side are its matrix: ``activations.matrix("mlp")`` is (n_prompts, n_units)
    with the addresses ``activations.units("mlp")``.

    Of a stored recording (`store.open_recording`), a layer's values are a `store.StoredMatrix`,
    which is indexed as an array is and reads its rows from the disk each time.
    """

    prompts: tuple[str, ...]
    n_tokens: np.ndarray  # (n_prompts,) tokens of each prompt, special tokens included
    position: str  # which token(s) speak for the prompt
    model: str  # the model's id, as asked for
    n_layers: int  # blocks in the whole model
    values: Values
    details: Mapping[str, str] = field(default_factory=dict)  # dtype, device, versions, ...

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for site in self.values.values() for layer in site}))

    @property
    def n_units(self) -> int:
        return sum(v.shape[1] for site in self.values.values() for v in site.values())

    @cached_property
    def _matrices(self) -> dict[str, np.ndarray]:
        return {}

    def matrix(self, site: str | None = None) -> np.ndarray:
        """All units of one site, (n_prompts, n_units); ``site`` may be left out if only one.

        Kept for the next time, unless the recording is a stored one, whose layers may be larger
        than memory: that is read each time.
        """
        site = self._one_site(site)
        if site in self._matrices:
            return self._matrices[site]
        layers = self.values[site]
        matrix = _side_by_side([layers[k] for k in sorted(layers)])
        if all(isinstance(v, np.ndarray) for v in layers.values()):
            self._matrices[site] = matrix
        return matrix

    def units(self, site: str | None = None) -> Units:
        """The addresses of the columns of ``matrix(site)``."""
        site = self._one_site(site)
        widths = {k: v.shape[1] for k, v in self.values[site].items()}
        return units_of(site, widths, self.n_layers)

    def sample(
        self,
        rows: Sequence[int] | np.ndarray,
        site: str,
        layer: int,
        columns: slice = slice(None),
    ) -> np.ndarray:
        """Some of the prompts at one site and layer, (n_rows, n_columns)."""
        return self.values[site][layer][rows, columns]

    def at(self, site: str) -> Activations:
        """The same recording with one site only."""
        site = self._one_site(site)
        return self._with(values={site: self.values[site]})

    def rows(self, rows: Sequence[int] | np.ndarray) -> Activations:
        """The same recording of some of the prompts, in the order given."""
        rows = np.asarray(rows, dtype=int)
        return self._with(
            prompts=tuple(self.prompts[i] for i in rows),
            n_tokens=self.n_tokens[rows],
            values={
                s: {k: rows_of(v, rows) for k, v in ls.items()} for s, ls in self.values.items()
            },
        )

    def _with(self, **changes) -> Activations:
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Activations(**{**kept, **changes})

    def _one_site(self, site: str | None) -> str:
        if site is None:
            if len(self.values) != 1:
                raise ValueError(
                    f"this recording has the sites {', '.join(self.values)}; "
                    f"name one, as in activations.matrix({next(iter(self.values))!r}), "
                    f"or keep one with activations.at(site)"
                )
            return next(iter(self.values))
        site = canonical_site(site)
        if site not in self.values:
            raise ValueError(f"site {site!r} was not recorded; recorded: {', '.join(self.values)}")
        return site

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Activations):
            return NotImplemented
        return (
            self.prompts == other.prompts
            and np.array_equal(self.n_tokens, other.n_tokens)
            and (self.position, self.model, self.n_layers)
            == (other.position, other.model, other.n_layers)
            and dict(self.details) == dict(other.details)
            and same_values(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays inside


def rows_of(values: Layer, rows: np.ndarray) -> Layer:
    """Some rows of one layer; of a stored one, nothing is read for it."""
    return values[rows] if isinstance(values, np.ndarray) else values.of_rows(rows)


def same_values(one: Values, other: Values) -> bool:
    """Whether two recordings hold the same numbers at the same sites and layers; NaN is NaN."""
    addresses = {(s, k) for s, layers in one.items() for k in layers}
    if addresses != {(s, k) for s, layers in other.items() for k in layers}:
        return False
    return all(
        one[s][k].dtype == other[s][k].dtype
        and np.array_equal(one[s][k], other[s][k], equal_nan=True)
        for s, k in addresses
    )


def _side_by_side(layers: Sequence[Layer]) -> np.ndarray:
    """One array of all columns, filled layer by layer: no layer is in memory twice."""
    if not layers:
        raise ValueError("this recording has no layers at that site")
    ends = np.cumsum([layer.shape[1] for layer in layers])
    matrix = np.empty((len(layers[0]), ends[-1]), np.result_type(*(v.dtype for v in layers)))
    for layer, end in zip(layers, ends, strict=True):
        matrix[:, end - layer.shape[1] : end] = layer
    return matrix


@dataclass(frozen=True, eq=False)
class RaggedActivations:
    """Every kept token of every prompt at every recorded site and layer.

    ``values[site][layer]`` is (n_tokens_in_all, width) float32: the tokens of the first prompt,
    then those of the second. Special tokens, which speak for no prompt, are not among them.
    """

    prompts: tuple[str, ...]
    n_tokens: np.ndarray  # (n_prompts,) tokens of each prompt, special tokens included
    tokens: tuple[tuple[str, ...], ...]  # (n_prompts,) of (n_kept,) as the tokenizer spells them
    offsets: tuple[
        np.ndarray, ...
    ]  # (n_prompts,) of (n_kept, 2) first character, one past the last
    start: np.ndarray  # (n_prompts + 1,) the row of ``values`` at which each prompt begins
    model: str  # the model's id, as asked for
    n_layers: int  # blocks in the whole model
    values: Values
    details: Mapping[str, str] = field(default_factory=dict)  # dtype, device, versions, ...
    position: str = "all"

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def n_kept(self) -> np.ndarray:
        """Tokens of each prompt that have a row, (n_prompts,)."""
        return np.diff(self.start)

    def of(self, i: int, site: str, layer: int) -> np.ndarray:
        """The tokens of prompt ``i``, (n_kept, width)."""
        if i not in range(len(self)):
            raise IndexError(f"no prompt {i} in a recording of {len(self)}")
        return self.values[canonical_site(site)][layer][self.start[i] : self.start[i + 1]]

    def pooled(self, pool: str) -> Activations:
        """One row per prompt: the ``mean`` or ``max`` over its tokens, read layer by layer.

        Raises
        ------
        ValueError
            If there is no such pool, or a prompt has no token.
        """
        if pool not in TOKEN_POOLS:
            raise ValueError(f"no pool {pool!r}; known: {', '.join(TOKEN_POOLS)}")
        empty = np.flatnonzero(self.n_kept == 0)
        if len(empty):
            raise ValueError(f"prompts {empty.tolist()} have no tokens to take the {pool} of")
        return Activations(
            prompts=self.prompts,
            n_tokens=self.n_tokens,
            position=pool,
            model=self.model,
            n_layers=self.n_layers,
            values={
                site: {k: TOKEN_POOLS[pool](np.asarray(v), self.start) for k, v in layers.items()}
                for site, layers in self.values.items()
            },
            details=self.details,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RaggedActivations):
            return NotImplemented
        return (
            (self.prompts, self.tokens, self.position, self.model, self.n_layers)
            == (other.prompts, other.tokens, other.position, other.model, other.n_layers)
            and np.array_equal(self.n_tokens, other.n_tokens)
            and np.array_equal(self.start, other.start)
            and all(map(np.array_equal, self.offsets, other.offsets))
            and dict(self.details) == dict(other.details)
            and same_values(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays inside


def mean_over_tokens(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Summed in float64, (n_prompts, width)."""
    n = np.diff(start)[:, None]
    if not len(n):
        return values[:0]
    return (np.add.reduceat(values, start[:-1], axis=0, dtype=float) / n).astype(values.dtype)


def max_over_tokens(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """NaN where a token is, (n_prompts, width)."""
    return np.maximum.reduceat(values, start[:-1], axis=0) if len(start) > 1 else values[:0]


TOKEN_POOLS = {"mean": mean_over_tokens, "max": max_over_tokens}


@dataclass(frozen=True, eq=False)
class RecordingSummary:
    """All that is known of a recording beside its numbers, by the names that Activations uses."""

    prompts: tuple[str, ...]
    n_tokens: np.ndarray  # (n_prompts,) tokens of each prompt, special tokens included
    position: str
    model: str
    n_layers: int  # blocks in the whole model
    widths: Mapping[str, Mapping[int, int]]  # site -> layer -> units
    details: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for site in self.widths.values() for layer in site}))

    @property
    def n_units(self) -> int:
        return sum(width for site in self.widths.values() for width in site.values())

    def units(self, site: str) -> Units:
        """The addresses of one site's units, layer by layer."""
        return units_of(site, self.widths[site], self.n_layers)


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """Every token of one text, and of what the model said next, at every recorded site.

    ``values[site][layer]`` is (n_tokens, width) float32. The first ``n_prompt_tokens`` rows are
    the prompt's, the others belong to generated tokens, each as the model reads it back.
    """

    text: str
    generated_text: str
    tokens: tuple[str, ...]  # (n_tokens,) as the tokenizer spells them
    token_ids: np.ndarray  # (n_tokens,)
    n_prompt_tokens: int
    model: str
    n_layers: int
    values: Mapping[str, Mapping[int, np.ndarray]]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.values)

    def table(self) -> pd.DataFrame:
        """One row per token: position, token, id, whether the model generated it."""
        return pd.DataFrame(
            {
                "position": np.arange(len(self)),
                "token": self.tokens,
                "token_id": self.token_ids,
                "generated": np.arange(len(self)) >= self.n_prompt_tokens,
            }
        )
