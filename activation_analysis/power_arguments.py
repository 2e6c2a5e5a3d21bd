"""What the options of `activation-analysis power` ask for, and what an experiment says besides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from activation_analysis.activations import SITES
from activation_analysis.analyses.power_plan import ASSUMED_ICC, PowerPlan, plan_for, power_plan
from activation_analysis.errors import InputError
from activation_analysis.options import PAIRED_TESTS, ModelOptions, UnivariateOptions
from activation_analysis.statistics.planning import FALSE_DISCOVERY, Family

if TYPE_CHECKING:
    from activation_analysis.experiment import Experiment

UNITS_OF_DEFAULT_MODEL = 115_200  # 30 blocks x (4 sites of 576 + 1536 neurons)
LAYERS_OF_DEFAULT_MODEL = 30
WIDTHS_OF_DEFAULT_MODEL = dict.fromkeys(SITES, 576) | {"neuron": 1536}


def plans_asked(args: argparse.Namespace, experiment: Experiment | None) -> Sequence[PowerPlan]:
    """One plan, or one for every contrast of an experiment.

    Raises
    ------
    InputError
        If options do not go together, or a number cannot be planned with.
    """
    _refuse_strangers(args, experiment)
    options = (experiment and experiment.univariate) or UnivariateOptions()
    try:
        settings = {
            "effect": _given(args.planned_effect, 0.5),
            "power": _given(args.planned_power, 0.8),
            "alpha": _given(args.planned_alpha, options.alpha),
            "family": Family(
                control=args.planned_control or options.control,
                n_units=_n_units(args.planned_units, experiment),
                responding=_given(args.planned_responding, 0.05),
                threshold_t=args.planned_threshold_t,
            ),
            "paired": args.paired or options.test in PAIRED_TESTS,
            "icc": _given(args.planned_icc, ASSUMED_ICC),
        }
        if experiment is None:
            return [power_plan(n_groups=args.planned_groups, **settings)]
        return [plan_for(experiment.prompts, c, **settings) for c in experiment.contrasts]
    except ValueError as error:
        raise InputError(str(error)) from None


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _n_units(asked: int | None, experiment: Experiment | None) -> int:
    if asked is not None:
        return asked
    if experiment is None:
        return UNITS_OF_DEFAULT_MODEL
    n_units = units_of_default_model(experiment)
    if n_units is None:
        raise InputError(
            f"{experiment.name} records another model than the default; say how many units with "
            f"--units (activation-analysis plan {experiment.name} counts them)"
        )
    return n_units


def units_of_default_model(experiment: Experiment) -> int | None:
    """Units that a run tests at its sites and layers; None where its model is another one."""
    recording = experiment.recording
    if experiment.model.id != ModelOptions().id:
        return None
    n_layers = len(recording.layers) or LAYERS_OF_DEFAULT_MODEL
    return n_layers * sum(WIDTHS_OF_DEFAULT_MODEL[site] for site in recording.sites)


def _refuse_strangers(args: argparse.Namespace, experiment: Experiment | None) -> None:
    """Options that would be left unused: whoever gave them expects something of them."""
    grouped = experiment is not None and "group" in experiment.prompts.table
    control = args.planned_control or (
        experiment.univariate.control if experiment and experiment.univariate else "fdr_bh"
    )
    if experiment is None and args.contrast:
        raise InputError("--contrast goes with an experiment or prompt files; give one, too")
    if experiment is not None and args.planned_groups is not None:
        raise InputError(
            "--groups plans prompts that are not there yet; those of an experiment say their "
            "groups in a column 'group'"
        )
    if args.planned_icc is not None and not grouped and args.planned_groups is None:
        raise InputError("--icc goes with --groups, or with prompts that have a column 'group'")
    if args.planned_responding is not None and control not in FALSE_DISCOVERY:
        raise InputError(f"--responding goes with {', '.join(FALSE_DISCOVERY)}, not {control!r}")
    for contrast in experiment.contrasts if experiment else ():
        if contrast.is_omnibus:
            raise InputError(
                f"{contrast}: a difference without two sides is not planned here; name two sides "
                f"with --contrast 'a - b'"
            )
