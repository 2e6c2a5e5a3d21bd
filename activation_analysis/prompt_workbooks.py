"""Prompts in Excel workbooks: the first sheet, its first row the header, its cells as text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from activation_analysis.prompt_layout import Layout
from activation_analysis.prompt_problems import Report, Row
from activation_analysis.prompt_values import text_of

NEEDS_OPENPYXL = (
    "Excel files need the package openpyxl: pip install 'activation_analysis[excel]' (or save the "
    "sheet as .csv)"
)


def read_xlsx(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """Rows of a workbook's first sheet by their numbers there; formulas by their stored values."""
    try:
        yield from _table(_sheet(path), layout, report)
    except ImportError:
        report(0, NEEDS_OPENPYXL)
    except _Unreadable as error:
        report(0, f"is no .xlsx workbook that can be read, or has a password: {error}")


class _Unreadable(Exception):
    """A workbook that its library cannot read."""


@dataclass(frozen=True)
class _Cell:
    value: object
    is_error: bool = False
    is_formula: bool = False

    def text(self) -> str:
        if self.is_error:
            raise ValueError(f"is the error {self.value}; correct it or empty the cell")
        if self.is_formula and self.value is None:
            raise ValueError(
                "is a formula without a stored value; open the file in Excel and save it, or put "
                "the value in its place"
            )
        if isinstance(self.value, str):
            return _as_excel_shows(self.value)
        if isinstance(self.value, float) and self.value.is_integer():
            return str(int(self.value))  # as Excel shows it, whatever the file spells
        return text_of(self.value)


_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")


def _as_excel_shows(text: str) -> str:
    """A text with the characters that a workbook can only spell: ``_x000D_`` is a CR."""
    if "_x" not in text:
        return text
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).replace("\r\n", "\n")
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None


def _table(
    rows: Iterator[tuple[int, list[_Cell]]], layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    number, first = next(rows, (0, []))
    header = _texts(number, first, report)
    if not first:
        report(
            0,
            f"the first sheet is empty; its first row names the columns "
            f"{' and '.join(layout.required)}",
        )
    if not header:
        return
    wrong = list(layout.problems(header))
    for message in wrong:
        report(number, message)
    if wrong:
        return
    names = layout.names(header)
    for number, cells in rows:
        texts = _texts(number, cells, report)
        if len(texts) > len(names):
            report(
                number,
                f"cell {_name(len(texts) - 1, number)} is filled, but its column has no "
                f"name in the header",
            )
        elif texts:
            texts += [""] * (len(names) - len(texts))
            yield number, dict(zip(names, texts, strict=True))


def _texts(number: int, cells: Sequence[_Cell], report: Report) -> list[str]:
    """The texts of a row; none, where a cell has none."""
    texts, wrong = [], False
    for column, cell in enumerate(cells):
        try:
            texts.append(cell.text())
        except ValueError as error:
            wrong = True
            report(number, f"cell {_name(column, number)} {error}")
    return [] if wrong else texts


def _name(column: int, row: int) -> str:
    from openpyxl.utils import get_column_letter

    return f"{get_column_letter(column + 1)}{row}"


def _sheet(path: Path) -> Iterator[tuple[int, list[_Cell]]]:
    """Number and cells of every row of the first sheet that is not blank."""
    from openpyxl import load_workbook

    rows = None
    number = 0
    while True:
        # Warnings are of charts, styles and filters, which hold no prompts; and the library
        # raises whatever its parsers of ZIP and XML meet in a damaged file.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if rows is None:
                    with path.open("rb") as file:
                        file.read(1)  # a file that may not be read is an OSError of its own
                    # Only a second reading tells a formula without a value from an empty cell.
                    books = [
                        load_workbook(path, read_only=True, data_only=values)
                        for values in (True, False)
                    ]
                    sheets = [book.worksheets[0] for book in books]
                    for sheet in sheets:
                        sheet.reset_dimensions()  # many programs write wrong ones
                    rows = zip(*(sheet.iter_rows() for sheet in sheets), strict=True)
                pair = next(rows, None)
            except OSError:
                raise
            except Exception as error:
                raise _Unreadable(f"{error or type(error).__name__}".split("\n")[0]) from None
        if pair is None:
            for book in books:
                book.close()
            return
        number += 1
        cells = [
            _Cell(shown.value, shown.data_type == "e", written.data_type == "f")
            for shown, written in zip(*pair, strict=True)
        ]
        while cells and cells[-1] == _BLANK:
            cells.pop()
        if cells:
            yield number, cells


_BLANK = _Cell(None)
