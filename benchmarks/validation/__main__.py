"""Simulations that show the error rates, as tables and figures.

    python -m benchmarks.validation                        # every section, as in docs/validation.md
    python -m benchmarks.validation --only coverage
    python -m benchmarks.validation --only joint --simulations 200
    python -m benchmarks.validation --write                # into docs/validation.md and docs/images

Seeds are fixed. One thread suffices: set OMP_NUM_THREADS=1 where others use the machine.
"""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.validation import (
    coverage,
    dependence,
    false_positives,
    families,
    figures,
    real_activations,
    selection,
    tails,
)

DOCUMENT = Path("docs/validation.md")
IMAGES = Path("docs/images")


@dataclass(frozen=True)
class Section:
    """A table, the simulations behind it, and the figure of them."""

    make: Callable[[int], tuple[str, object]]
    n_simulations: int
    draw: Callable[..., Figure] | None = None


def sections(cache: Path) -> dict[str, Section]:
    return {
        "false_positives": Section(false_positives.section, 40_000, figures.false_positives),
        "real": Section(
            partial(real_activations.section, cache=cache), 1000, figures.real_activations
        ),
        "joint": Section(families.joint_section, 500),
        "discoveries": Section(families.discoveries_section, 1000, figures.discoveries),
        "coverage": Section(coverage.section, 20_000, figures.coverage),
        "selection": Section(selection.section, 400, figures.selection),
        "templates": Section(dependence.templates_section, 20_000, figures.templates),
        "confounded": Section(dependence.confounded_section, 100_000),
        "tails": Section(tails.section, 400),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        known = sections(args.cache or Path(folder))
        for name in args.only or known:
            section = known[name]
            n = args.simulations or section.n_simulations
            text, found = section.make(n)
            text = f"{n:,} simulations a cell.\n\n{text}" if name != "real" else text
            print(f"## {name}\n\n{text}\n", flush=True)
            if args.write:
                write(name, text)
                if section.draw is not None:
                    section.draw(found).savefig(IMAGES / f"validation_{name}.png", dpi=150)
    print(environment())


def environment() -> str:
    """Versions that the numbers come from."""
    packages = ("numpy", "scipy", "torch", "transformers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"Python {platform.python_version()}, {versions}"


def write(name: str, text: str) -> None:
    """Put a table between its two marks in the document."""
    old = DOCUMENT.read_text(encoding="utf-8")
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    between = re.compile(f"{marks[0]}.*?{marks[1]}", re.DOTALL)
    if not between.search(old):
        raise SystemExit(f"{DOCUMENT} has no {marks[0]} ... {marks[1]}; add both lines to it")
    new = "\n\n".join((marks[0], text, marks[1]))
    DOCUMENT.write_text(between.sub(lambda _: new, old), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(sections(Path()))
    parser.add_argument("--only", nargs="+", choices=names, help="sections; all if left out")
    parser.add_argument("--simulations", type=int, help="of every section; each its own otherwise")
    parser.add_argument("--write", action="store_true", help="into docs/")
    parser.add_argument("--cache", type=Path, help="folder that a cut-off run can go on from")
    return parser


if __name__ == "__main__":
    main()
