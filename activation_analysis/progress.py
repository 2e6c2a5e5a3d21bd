"""Progress bars on the terminal; silent where standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def stage(description: str, total: int | None = None, *, shown: bool = True) -> Iterator[Advance]:
    """Show one bar (a spinner where ``total`` is unknown) until the block ends.

    Yields a function that moves the bar on by a number of steps.
    """
    import sys

    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps: progress.advance(task, steps)
        if total is None:
            progress.update(task, total=1, completed=1)
