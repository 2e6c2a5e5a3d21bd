"""What the columns of a table are, where it does not call them prompt and condition.

``columns`` gives other people's columns our names; ``wide`` names columns that are conditions, so
that a row is an item with one prompt for each of them. Neither is ever guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from activation_analysis.names import did_you_mean, nearest
from activation_analysis.prompt_problems import REQUIRED, Report, Row

PER_PROMPT = (*REQUIRED, "span_start", "span_end")  # what a row of several prompts cannot have


class Layout:
    """How tables are read: new names for columns, and the columns that are conditions.

    One is made for all files of a prompt set, because items are numbered through them.
    """

    def __init__(self, columns: Mapping[str, str] | None = None, wide: Sequence[str] = ()) -> None:
        self.columns = dict(columns or {})  # our name -> the file's
        self.wide = tuple(wide)  # conditions, by the names that `columns` gives
        self.required = self.wide or REQUIRED
        self.texts = self.wide or ("prompt",)
        self._ours = {theirs: ours for ours, theirs in self.columns.items()}
        self._numbers = count(1)
        self._own_items: bool | None = None

    @property
    def is_plain(self) -> bool:
        """Whether tables are read by the names that they have."""
        return not self.columns and not self.wide

    def names(self, header: Iterable[str]) -> list[str]:
        """A table's columns by our names."""
        return [self._ours.get(column, column) for column in header]

    def problems(self, header: Sequence[str]) -> Iterator[str]:
        """What is wrong with the columns of a table."""
        names = self.names(header)
        for theirs in self._ours:
            if theirs not in header:
                yield self._not_there(theirs, header)
        for column in self.required:
            if column not in names and column not in self.columns:
                slip = self._slip(column, names)
                yield f"no {self._meant(column)}; columns: {listed(header)}{slip}"
        if not self.wide and not set(REQUIRED) & {*names, *self.columns}:
            yield how_to_say([c for c in header if c.strip()])
        for column in PER_PROMPT if self.wide else ():
            if column in names:
                yield self._of_one_prompt(column)
        if any(not column.strip() for column in header):
            yield (
                f"column {[bool(c.strip()) for c in header].index(False) + 1} has no name; "
                f"name or delete it (pandas writes one unless told index=False)"
            )
        for column in dict.fromkeys(c for c in names if c.strip() and names.count(c) > 1):
            yield self._twice(column, names.count(column))

    def row(self, values: Mapping[str, object]) -> dict[str, object]:
        """An object of JSON lines by our names, or a ValueError that says what is wrong with it."""
        row = {self._ours.get(key, key): value for key, value in values.items()}
        absent = [key for key in self.required if key not in row]
        if absent:
            wrong = " and ".join(f"{self._key(k)!r}{self._slip(k, row)}" for k in absent)
            raise ValueError(f"no key {wrong}; keys: {listed(values) or 'none'}")
        if len(row) != len(values):
            twice = next(
                ours for ours, theirs in self.columns.items() if {ours, theirs} <= {*values}
            )
            raise ValueError(self._twice(twice, 2))
        for key in PER_PROMPT if self.wide else ():
            if key in row:
                raise ValueError(self._of_one_prompt(key))
        return row

    def never_there(self, keys: Iterable[str]) -> Iterator[str]:
        """The renamed columns that no row of JSON lines has."""
        keys = list(keys)
        for theirs in self._ours:
            if theirs not in keys:
                yield self._not_there(theirs, keys)

    def unfolded(
        self, rows: Iterable[tuple[int, Row]], report: Report
    ) -> Iterator[tuple[int, Row]]:
        """One row for every prompt of the rows of a wide table."""
        for line, row in rows:
            shared = {column: value for column, value in row.items() if column not in self.wide}
            own = "item" in shared
            if self._own_items not in (None, own):
                report(line, "item is a column of some rows only; fill it in on all or on none")
            self._own_items = own
            if own and not shared["item"].strip():
                report(line, "column 'item' is empty; fill it in, or delete the column")
            if not own:
                shared["item"] = str(next(self._numbers))
            for condition in self.wide:
                if row[condition].strip():
                    yield line, {"condition": condition, "prompt": row[condition], **shared}
                else:
                    report(
                        line,
                        f"column {condition!r} is empty; a row has a prompt for each of "
                        f"{listed(self.wide)}",
                    )

    def _meant(self, column: str) -> str:
        return f"column {column!r}" + (" (which wide names)" if self.wide else "")

    def _key(self, column: str) -> str:
        return self.columns.get(column, column)

    def _slip(self, wanted: str, there: Iterable[str]) -> str:
        unused = [column for column in there if column not in self.required]
        if self.wide:
            return did_you_mean(wanted, unused)
        close = nearest(wanted, unused)
        return f" (for {close!r}, did you mean {wanted!r}?)" if close else ""

    def _not_there(self, theirs: str, header: Iterable[str]) -> str:
        header = list(header)
        said = f"no column {theirs!r}, which columns calls {self._ours[theirs]!r}"
        return f"{said}; columns: {listed(header)}{did_you_mean(theirs, header)}"

    def _of_one_prompt(self, column: str) -> str:
        return (
            f"column {column!r} is of one prompt, but with wide a row holds {len(self.wide)}; "
            f'delete it, or give it another name, as in columns = ["old_{column}={column}"]'
        )

    def _twice(self, column: str, n: int) -> str:
        if column not in self.columns:
            return f"column {column!r} is there {n} times; keep one"
        return (
            f"columns calls {self.columns[column]!r} {column!r}, but there is a column {column!r} "
            f'already; give that another name, as in columns = ["old_{column}={column}"]'
        )


def listed(names: Iterable[str]) -> str:
    """Names as messages list them."""
    return ", ".join(map(repr, names))


def how_to_say(header: Sequence[str]) -> str:
    """What to write where a table has neither of the columns that it needs."""
    own = [c for c in header if c not in ("item", "group", *PER_PROMPT)][:5]
    first, second = (*own, "text", "label")[:2] if len(own) != 1 else (own[0], "label")
    conditions = own if len(own) > 1 else ["formal", "informal"]
    quoted = ", ".join(f'"{c}"' for c in conditions)
    return (
        f"where columns are conditions and a row is an item, say so: wide = [{quoted}] "
        f"(--wide {','.join(conditions)}); where prompt and condition have other names: "
        f'columns = ["prompt={first}", "condition={second}"] '
        f"(--columns prompt={first},condition={second})"
    )
