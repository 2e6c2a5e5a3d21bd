"""Every figure there is, and how to draw and keep them all."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from activation_analysis.figures.heatmap import heatmap
from activation_analysis.figures.held_out import held_out
from activation_analysis.figures.layer_profile import layer_profile
from activation_analysis.figures.style import house_style
from activation_analysis.figures.top_units import top_units
from activation_analysis.results import ContrastResult

FIGURES: dict[str, Callable[[ContrastResult], Figure]] = {
    "layer_profile": layer_profile,
    "held_out": held_out,
    "top_units": top_units,
}

SITE_FIGURES: dict[str, Callable[[ContrastResult, str], Figure]] = {
    "heatmap": heatmap,
}

DPI = 130
FAST_PNG = {"compress_level": 1}


def log_failure(name: str, error: Exception) -> None:
    """Say which figure could not be drawn, and why."""
    logging.getLogger(__name__).warning("figure %s could not be drawn: %s", name, error)


def draw_all(
    result: ContrastResult, *, on_error: Callable[[str, Exception], None] = log_failure
) -> Iterator[tuple[str, Figure]]:
    """Draw every figure of a result, one at a time.

    Parameters
    ----------
    result : ContrastResult
    on_error : callable
        Receives the name and the exception of a figure that cannot be drawn; the others are
        drawn all the same. By default a logged warning.

    Yields
    ------
    name, figure
        ``"layer_profile"``, ``"held_out"``, ``"top_units"``, then ``"heatmap_<site>"`` for every
        site. Names are safe as file names. Nothing is kept once the next one is asked for.
    """
    drawings = {name: partial(draw, result) for name, draw in FIGURES.items()}
    for name, draw in SITE_FIGURES.items():
        for site in result.sites:
            drawings[f"{name}_{_file_safe(site)}"] = partial(draw, result, site)
    for name, draw in drawings.items():
        try:
            fig = draw()
        except Exception as error:
            on_error(name, error)
        else:
            yield name, fig


def save(fig: Figure, path: str | Path, *, dpi: int = DPI) -> Path:
    """Write a figure in the format of the path's suffix; PNG is written for speed.

    A heat map needs 90 dpi or more to show every column.
    """
    path = Path(path)
    png = {"pil_kwargs": FAST_PNG} if path.suffix.lower() == ".png" else {}
    with house_style():
        fig.savefig(path, dpi=dpi, **png)
    return path


def _file_safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
