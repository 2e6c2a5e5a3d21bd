"""What a model is sent, token by token, on the terminal. User text is never read as markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from activation_analysis import cautions
from activation_analysis.terminal import console, shown

if TYPE_CHECKING:
    from activation_analysis.experiment import Experiment
    from activation_analysis.models.tokenizing import Tokens

# mark and style of a token: they say the same, for eyes and files without colour
COUNTS = ("*", "bold green")
OWN = (" ", "")
NOT_OWN = (".", "dim")
WIDEST = 28  # columns of a token's spelling
INDENT, GAP = 2, 3


def show_tokens(
    experiment: Experiment, rows: np.ndarray, tokens: Tokens, places: Sequence[np.ndarray]
) -> None:
    """Every prompt as it is sent, then its tokens: which count, which are special or scaffold.

    Parameters
    ----------
    experiment : one with the prompts that are shown
    rows : their places in the prompt set, the first is 0
    tokens, places : of these prompts, as `tokenize` and `places` return them
    """
    out = console()
    out.print(Text.assemble((_heading(experiment), "bold"), "\n", _legend()), soft_wrap=True)
    unread = cautions.unread_marks(experiment.prompts, experiment.recording.position)
    if unread:
        out.print(shown(f"! {unread}", "yellow"), soft_wrap=not out.is_terminal)
    for i, row in enumerate(rows):
        out.print()
        n, n_chosen = len(tokens.ids[i]), len(places[i])
        condition = experiment.prompts.table["condition"].iloc[i]
        count = f"{n} token{'s' * (n != 1)}, {n_chosen} count{'s' * (n_chosen == 1)}"
        head = f"prompt {row + 1}, {experiment.prompts.where(i)}, {condition}: {count}"
        out.print(shown(head, "bold"), soft_wrap=not out.is_terminal)
        _print_sent(out, tokens.rendered[i], tokens.texts[i])
        out.print()
        _print_grid(out, _cells(tokens, i, places[i]))


def _heading(experiment: Experiment) -> str:
    options = experiment.recording
    how = [f"position {options.position}"]
    how += [f"the first {options.skip_first} places skipped"] * bool(options.skip_first)
    how += ["chat template"] * options.chat
    how += ["control tokens read as such"] * options.control_tokens
    return f"{experiment.name}, as {experiment.model.id} reads it: {', '.join(how)}"


def _legend() -> Text:
    meanings = {COUNTS: "counts", NOT_OWN: "special or template", OWN: "read, does not count"}
    parts = [
        Text(f"{mark} {said}", style) for (mark, style), said in meanings.items() if mark != " "
    ]
    return Text("   ").join([*parts, Text("unmarked: " + meanings[OWN])])


def _print_sent(out: Console, rendered: str, text: str) -> None:
    """The characters that are sent; those of a template are dim."""
    kept = text.strip()
    sent = shown(rendered)
    if rendered != text and kept and rendered.count(kept) == 1:
        start = rendered.index(kept)
        sent.stylize("dim", 0, start)
        sent.stylize("dim", start + len(kept))
    if out.is_terminal:
        out.print(Padding(sent, (0, 0, 0, INDENT)))
        return
    for line in sent.split("\n", allow_blank=True):
        out.print(Text(" " * INDENT) + line, soft_wrap=True)


def _cells(tokens: Tokens, row: int, places: np.ndarray) -> list[Text]:
    """One text a token: mark, place, id and spelling."""
    chosen = set(places.tolist())
    ids, counted = tokens.ids[row], tokens.counted[row]
    wide_place, wide_id = len(str(len(ids) - 1)), len(str(max(ids)))
    cells = []
    for place, string in enumerate(tokens.strings(row)):
        mark, style = COUNTS if place in chosen else OWN if counted[place] else NOT_OWN
        cell = Text(f"{mark} ", style)
        cell.append(f"{place:>{wide_place}} {ids[place]:>{wide_id}}", style or "dim")
        cell.append(f"  {_spelled(tokens, string)}", style)
        cells.append(cell)
    return cells


def _spelled(tokens: Tokens, string: str) -> str:
    """A token as its tokenizer spells it, and what that stands for where it is not plain."""
    said = tokens.tokenizer.convert_tokens_to_string([string]).strip()
    plain = said in string or "\ufffd" in said
    spelled = _visible(string) if plain else f"{_visible(string)} ({_visible(said)})"
    if cell_len(spelled) <= WIDEST:
        return spelled
    return set_cell_size(spelled, WIDEST - 1).rstrip() + "…"


def _visible(text: str) -> str:
    """No line break, control or invisible character as such."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _print_grid(out: Console, cells: Sequence[Text]) -> None:
    """The cells line by line, as many as fit beside each other."""
    widest = max(cell.cell_len for cell in cells)
    n_columns = max((out.width - INDENT + GAP) // (widest + GAP), 1)
    for first in range(0, len(cells), n_columns):
        line = Text(" " * INDENT)
        for cell in cells[first : first + n_columns]:
            line.append_text(cell)
            line.append(" " * (widest + GAP - cell.cell_len))
        line.rstrip()
        out.print(line, soft_wrap=True)
