"""The calibration of an experiment's own analysis: what is repeated, on how many units."""

from __future__ import annotations

import numpy as np

from activation_analysis.activations import Activations
from activation_analysis.analyses.calibration import calibrate
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.error_control import ErrorControl
from activation_analysis.analyses.streamed import StreamedRecording
from activation_analysis.experiment import Experiment
from activation_analysis.results_calibration import Calibration
from activation_analysis.study_designs import options_of

QUICK_UNITS = 2000  # of all layers and sites, inside a run
QUICK_UNITS_PERMUTED = 300  # each repetition shuffles labels some 200 times
QUICK_VALUES = 800_000  # prompts x units, beyond which a run takes fewer units
STREAM = 2  # of random numbers, apart from the analysis' own


def quick_calibration(
    experiment: Experiment,
    recording: Activations | StreamedRecording,
    design: Design,
    how: ErrorControl,
) -> Calibration | None:
    """A few seconds' worth inside a run, on some units; None where none was asked or can be made.

    Moments that streamed by cannot be relabelled.
    """
    asked = options_of(experiment).calibration
    if not asked or isinstance(recording, StreamedRecording):
        return None
    most = QUICK_UNITS_PERMUTED if how.control == "max_t" else QUICK_UNITS
    try:
        return full_calibration(
            experiment,
            recording,
            design,
            how,
            n_relabellings=max(asked, 2),
            n_units=min(most, max(QUICK_VALUES // len(design.every_row), 1)),
        )
    except ValueError:
        return None  # too few prompts to make a null of


def full_calibration(
    experiment: Experiment,
    recording: Activations,
    design: Design,
    how: ErrorControl,
    *,
    n_relabellings: int,
    n_units: int | None,
) -> Calibration:
    """`calibrate` with what the prompt file knows to belong together, used or ignored.

    Raises
    ------
    ValueError
        As `calibrate`.
    """
    return calibrate(
        recording,
        design,
        how,
        n_relabellings=n_relabellings,
        rng=np.random.default_rng([experiment.seed, STREAM]),
        clusters=experiment.prompts.blocks,
        n_units=n_units,
    )
