"""Prompts in Arrow's columns: Parquet files and Hugging Face datasets, in batches.

Rows are numbered from 1. A column of numbers, dates or truth values becomes text as a CSV file
would have it, a ClassLabel becomes its name; lists, images and other structures are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from activation_analysis.prompt_layout import Layout, listed
from activation_analysis.prompt_problems import Report, Row
from activation_analysis.prompt_values import text_of
from activation_analysis.text_files import shown

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

HUB = "hf:"
NEEDS_DATASETS = (
    "Hugging Face datasets need the package datasets: pip install 'activation_analysis[datasets]'"
)
_ON_THE_HUB = re.compile(
    r"(?P<place>[\w.-]+/[\w.-]+|[\w.-]+)(/(?P<config>[^/:]+))?(:(?P<split>.+))?"
)
_ON_DISK = re.compile(r"(?P<place>(?:[A-Za-z]:)?[^:]+)(:(?P<split>.+))?")
_ROWS_AT_ONCE = 8192


def read_parquet(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a Parquet file."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with path.open("rb") as stream, ParquetFile(stream) as file:
            batches = file.iter_batches(_ROWS_AT_ONCE)
            yield from _rows(file.schema_arrow, batches, {}, layout, report)
    except pyarrow.ArrowException as error:
        report(0, f"is no Parquet file that can be read: {_first_line(error)}")


def read_dataset(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a dataset that `save_to_disk` wrote, or that ``hf:`` names."""
    try:
        import datasets
    except ImportError:
        report(0, NEEDS_DATASETS)
        return
    try:
        dataset = _loaded(path)
    except Exception as error:  # a hub, a network and a dozen formats can fail in any way
        report(0, f"cannot be loaded: {_first_line(error)}")
        return
    labels = {
        name: feature.names
        for name, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    batches = dataset.with_format("arrow").iter(_ROWS_AT_ONCE)
    yield from _rows(dataset.features.arrow_schema, batches, labels, layout, report)


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a folder."""
    files = [("dataset_dict.json",), ("dataset_info.json", "state.json")]
    return any(all((folder / name).is_file() for name in names) for names in files)


def _loaded(path: Path) -> Dataset:
    """The one dataset that a path or ``hf:place:split`` means; a ValueError says why none."""
    import datasets

    text = path.as_posix()
    if not text.startswith(HUB):
        return _of_splits(datasets.load_from_disk(text), None, lambda name: f"{shown(path)}/{name}")
    inside = text.removeprefix(HUB)
    on_disk = inside.startswith((".", "/", "~")) or os.path.isabs(inside)
    found = (_ON_DISK if on_disk else _ON_THE_HUB).fullmatch(inside)
    if found is None:
        raise ValueError("write it as hf:owner/name:split, or hf:./folder:split for a local one")
    place, split = found["place"], found["split"]
    if not on_disk and os.path.isdir(place):  # which the library would take without a word
        raise ValueError(f"there is a folder {place!r} here; write {HUB}./{place} for it")
    if not on_disk:
        return _of_many_formats(place, found["config"], split)
    place = os.path.expanduser(place)
    if os.path.isfile(place):
        raise ValueError(f"is a file; give it as {shown(place)}")
    if not os.path.isdir(place):
        raise ValueError(f"no such folder {shown(place)!r}")
    if is_saved_dataset(Path(place)):
        return _of_splits(
            datasets.load_from_disk(place), split, lambda name: f"{HUB}{place}:{name}"
        )
    return _of_many_formats(place, None, split)


def _of_many_formats(place: str, config: str | None, split: str | None) -> Dataset:
    """One split of a dataset on the hub, or of a local folder of CSV or Parquet files."""
    import datasets

    silent, on_disk = datasets.are_progress_bars_disabled(), os.path.isdir(place)
    source = os.path.abspath(place) if on_disk else place
    if on_disk:
        datasets.disable_progress_bars()
    try:
        if split is None:
            names = datasets.get_dataset_split_names(source, config)
            within = f"{place}/{config}" if config else place
            split = _the_split(names, None, lambda name: f"{HUB}{within}:{name}")
        return datasets.load_dataset(source, config, split=split)
    except OSError as error:
        if on_disk:
            raise
        raise ValueError(
            f"{_first_line(error)}; is the name right, and the hub within reach? (a private "
            f"dataset needs: hf auth login)"
        ) from None
    finally:
        if not silent:
            datasets.enable_progress_bars()


def _of_splits(
    dataset: Dataset | Mapping[str, Dataset], split: str | None, spelled: Callable[[str], str]
) -> Dataset:
    if not isinstance(dataset, Mapping):
        if split is not None:
            raise ValueError(f"has no splits; leave {':' + split!r} out")
        return dataset
    return dataset[_the_split(list(dataset), split, spelled)]


def _the_split(names: Sequence[str], split: str | None, spelled: Callable[[str], str]) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:
        what = "has several splits" if split is None else f"has no split {split!r}"
        raise ValueError(f"{what}: {listed(names)}; choose one, as in {spelled(names[0])}")
    return split


def _rows(
    schema: pyarrow.Schema,
    batches: Iterable[pyarrow.RecordBatch],
    labels: Mapping[str, Sequence[str]],
    layout: Layout,
    report: Report,
) -> Iterator[tuple[int, Row]]:
    # pandas stores a nameless index so, and shows it to nobody as a column.
    kept = [i for i, name in enumerate(schema.names) if not name.startswith("__index_level_")]
    header = [schema.names[i] for i in kept]
    names = layout.names(header)
    types = [schema.field(i).type for i in kept]
    wrong = [*layout.problems(header), *_wrong_types(names, types, layout.texts)]
    for message in wrong:
        report(0, message)
    if wrong:
        return
    n_before = 0
    for batch in batches:
        try:
            columns = [_texts(batch.column(i), labels.get(schema.names[i])) for i in kept]
        except (UnicodeDecodeError, ValueError) as error:
            report(n_before + 1, f"a row from this one on cannot be read: {error}")
            return
        for number, values in enumerate(zip(*columns, strict=True), start=n_before + 1):
            yield number, dict(zip(names, values, strict=True))
        n_before += batch.num_rows


def _wrong_types(
    names: Sequence[str], types: Sequence[pyarrow.DataType], texts: Sequence[str]
) -> Iterator[str]:
    """The columns that cannot be, or must not be made, text."""
    from pyarrow import types as of

    for name, kind in zip(names, types, strict=True):
        value = kind.value_type if of.is_dictionary(kind) else kind
        is_text = of.is_string(value) or of.is_large_string(value) or of.is_string_view(value)
        is_plain = (
            is_text
            or of.is_primitive(value)
            or of.is_boolean(value)
            or of.is_decimal(value)
            or of.is_null(value)
        )
        if not is_plain or of.is_duration(value) or of.is_interval(value):
            yield (
                f"column {name!r} holds {kind}; a row holds texts, numbers and dates only, so "
                f"delete the column"
            )
        elif name in texts and not is_text:
            yield f"column {name!r} holds {kind}, but prompts are text"


def _texts(column: pyarrow.Array, labels: Sequence[str] | None) -> list[str]:
    """A column of one batch as texts; a label is its name, and none where it is -1."""
    from pyarrow import types as of

    values = column.to_pylist()
    if labels is not None:
        return ["" if v is None or v < 0 else labels[v] for v in values]
    if of.is_float16(column.type) or of.is_float32(column.type):  # digits that float64 adds
        values = [v if v is None else np.float32(v) for v in values]
    return [v if type(v) is str else text_of(v) for v in values]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().split("\n")
    return lines[0] or type(error).__name__
