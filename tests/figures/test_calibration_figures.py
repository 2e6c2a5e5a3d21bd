"""The figures of a calibration draw, without a warning, for results of every shape."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from activation_analysis.figures import CALIBRATION_FIGURES, save
from activation_analysis.results.calibration import (
    CalibratedContrast,
    Calibration,
    ErrorRate,
    NullPValues,
    NullRates,
)

HOSTILE = "$x_{$ \\frac{ 条件_甲 😀 \x07\n\t עברית " + "very_long_name_" * 20
LEVELS = np.concatenate([[0.0], np.geomspace(1e-5, 0.01, 20), np.linspace(0.02, 1, 50)])


def null(name: str, power: float, n_cells: int) -> NullRates:
    """p-values whose distribution function is u^power: 1 is uniform."""
    share = LEVELS**power
    rate = ErrorRate(0.05**power, 0.04, 0.06, "passes" if power == 1 else "flagged")
    band = np.sqrt(LEVELS * (1 - LEVELS) / 100)
    return NullRates(
        null=name,
        n=100,
        n_possible=10**58,
        n_clusters=10,
        alpha=0.05,
        fpr=rate,
        family_wise=rate,
        false_discovery=rate.value,
        false_discovery_error=0.02,
        n_found=3.0,
        p_values=NullPValues(
            LEVELS,
            share,
            np.maximum(LEVELS - band, 0),
            np.minimum(LEVELS + band, 1),
            np.diff(np.linspace(0, 1, 21) ** power) * 20,
            float(np.abs(share - LEVELS).max()),
        ),
        by_layer=np.full(n_cells, rate.value),
    )


def calibrated(n_layers=12, sites=("residual", "mlp"), nulls=("relabelled", "halves", "flipped")):
    cells = pd.DataFrame(
        [(s, k) for s in sites for k in range(n_layers)], columns=["site", "layer"]
    )
    powers = dict(zip(nulls, (1, 0.4, 0.5), strict=False))
    calibration = Calibration(
        nulls=tuple(null(name, power, len(cells)) for name, power in powers.items()),
        skipped={},
        cells=cells,
        test="welch",
        control="fdr_bh",
        alpha=0.05,
        n_units=1000,
        n_all_units=115_200,
    )
    return CalibratedContrast(
        "gpt2", "templates", "last", "a - b", ("a", "b"), (30, 30), n_layers, calibration
    )


def not_one_unit_of_a_layer():
    of = calibrated()
    by_layer = np.where(np.arange(24) < 12, np.nan, 0.05)
    nulls = tuple(replace(n, by_layer=by_layer) for n in of.calibration.nulls)
    return replace(of, calibration=replace(of.calibration, nulls=nulls))


SHAPES = {
    "three nulls": calibrated,
    "one null": lambda: calibrated(nulls=("relabelled",)),
    "one layer": lambda: calibrated(n_layers=1, sites=("head",)),
    "80 layers": lambda: calibrated(n_layers=80, sites=("residual", "attention", "mlp", "neuron")),
    "a site without units": not_one_unit_of_a_layer,
    "hostile names": lambda: replace(
        calibrated(), model=HOSTILE, contrast=HOSTILE, conditions=(HOSTILE, HOSTILE)
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CALIBRATION_FIGURES)
def test_figures_of_every_shape_are_drawn_and_saved(name, shape, tmp_path):
    fig = CALIBRATION_FIGURES[name](SHAPES[shape]())
    assert isinstance(fig, Figure)
    assert save(fig, tmp_path / "figure.png").stat().st_size > 10_000


def test_the_title_says_that_it_is_flagged():
    flagged, passed = calibrated(), calibrated(nulls=("relabelled",))
    for draw in CALIBRATION_FIGURES.values():
        assert "(FLAGGED)" in draw(flagged).texts[0].get_text()
        assert "(passes)" in draw(passed).texts[0].get_text()
