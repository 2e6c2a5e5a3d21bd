"""The calibration of an experiment's own analysis: what is repeated, on how many units."""

from __future__ import annotations

import numpy as np

from activation_analysis.activations import Activations
from activation_analysis.analyses.calibration import calibrate
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.error_control import ErrorControl
from activation_analysis.analyses.streamed import StreamedRecording
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment
from activation_analysis.prompts import PromptSet
from activation_analysis.results.calibration import CalibratedContrast, Calibration
from activation_analysis.study_designs import (
    check_answerable,
    design_of,
    error_control,
    options_of,
    side_names,
)
from activation_analysis.templates import find_templates

QUICK_UNITS = 1000  # of all layers and sites, inside a run
QUICK_UNITS_PERMUTED = 300  # each repetition shuffles labels some 200 times,
QUICK_REPETITIONS_PERMUTED = 30  # so that fewer must do
QUICK_VALUES = 400_000  # prompts x units, beyond which a run takes fewer units
COMMAND_UNITS = 20_000  # of all layers and sites, where the command does not say
COMMAND_UNITS_PERMUTED = 2000
STREAM = 2  # of random numbers, apart from the analysis' own


def quick_calibration(
    experiment: Experiment,
    recording: Activations | StreamedRecording,
    design: Design,
    how: ErrorControl,
) -> Calibration | None:
    """A second's worth inside a run, on some units; None where none was asked or can be made.

    1000 units of all layers and sites; under control max_t 300, and 30 repetitions at most.
    Moments that streamed by cannot be relabelled.
    """
    asked = options_of(experiment).calibration
    if not asked or isinstance(recording, StreamedRecording):
        return None
    most = QUICK_UNITS
    if how.control == "max_t":
        most, asked = QUICK_UNITS_PERMUTED, min(asked, QUICK_REPETITIONS_PERMUTED)
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
        clusters=together(experiment.prompts),
        n_units=n_units,
    )


def together(prompts: PromptSet) -> np.ndarray | None:
    """Which prompts are alike for another reason than their condition, declared or not.

    The column group or item; else the templates that they look like fillings of; None where
    there are none.
    """
    if prompts.blocks is not None:
        return prompts.blocks
    found = find_templates(prompts)
    return found.groups if len(found) else None


def calibrated(
    experiment: Experiment,
    recording: Activations,
    *,
    n_relabellings: int,
    n_units: int | None = None,
) -> CalibratedContrast:
    """The calibration of an experiment's one contrast on a recording of its prompts.

    Parameters
    ----------
    n_units : int, optional
        0: all of them; left out: 20,000, or 2000 under control max_t.

    Raises
    ------
    ExperimentError
        If the experiment has several contrasts, or no null can be made of its prompts.
    """
    check_answerable(experiment)
    if len(experiment.contrasts) > 1:
        known = ", ".join(repr(c.expression) for c in experiment.contrasts)
        raise ExperimentError(
            f"a calibration is of one contrast, and {experiment.name!r} has "
            f"{len(experiment.contrasts)} ({known}); choose one with --contrast"
        )
    contrast, how = experiment.contrasts[0], error_control(experiment)
    design = design_of(experiment, contrast, recording.n_tokens)
    if n_units is None:
        n_units = COMMAND_UNITS_PERMUTED if how.control == "max_t" else COMMAND_UNITS
    try:
        calibration = full_calibration(
            experiment,
            recording,
            design,
            how,
            n_relabellings=n_relabellings,
            n_units=n_units or None,
        )
    except ValueError as error:
        raise ExperimentError(f"contrast {contrast.name!r} cannot be calibrated: {error}") from None
    return CalibratedContrast(
        model=recording.model,
        experiment=experiment.name,
        position=recording.position,
        contrast=contrast.expression,
        conditions=side_names(contrast) if len(design.n) == 2 else contrast.conditions,
        n=design.n,
        n_layers=recording.n_layers,
        calibration=calibration,
    )
