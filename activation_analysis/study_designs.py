"""What an experiment's contrasts compare: prompts, test, exchangeability blocks and covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from activation_analysis import contrasts as contrasts_
from activation_analysis.analyses.designs import TWO_SIDES, Design, is_nested, omnibus_test
from activation_analysis.analyses.error_control import ErrorControl
from activation_analysis.analyses.split_half import Halves, split_halves
from activation_analysis.contrasts import Contrast
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment, UnivariateOptions
from activation_analysis.options import ADJUSTED_TESTS, PAIRED_TESTS, WEIGHTED_TESTS
from activation_analysis.prompts import PromptSet
from activation_analysis.text_measures import SURFACE, TEXT_LENGTHS

CATEGORIES = ("item", "group")
TOKENS = "tokens"  # the covariate that every recording brings
FEWEST_GROUPS = 2  # of a condition, for a variance of group means


def asked(experiment: Experiment) -> tuple[Contrast, ...]:
    """The experiment's contrasts; an omnibus one is followed by all pairs of its conditions.

    A pair that the experiment asks for itself, either way round, is not asked twice.
    """
    own = {frozenset(c.conditions) for c in experiment.contrasts if len(c.conditions) == 2}
    listed: dict[str, Contrast] = {}
    for contrast in experiment.contrasts:
        listed[contrast.name] = contrast
        if not contrast.is_omnibus or len(contrast.conditions) == 2:
            continue
        for pair in combinations(contrast.conditions, 2):
            if frozenset(pair) not in own:
                own.add(frozenset(pair))
                made = contrasts_.parse(" - ".join(map(contrasts_.quoted, pair)))
                name = made.name if made.name not in listed else f"{contrast.name}_{made.name}"
                listed[name] = replace(made, name=name)
    return tuple(listed.values())


def check_answerable(experiment: Experiment) -> None:
    """Refuse, before anything is loaded, what no test at hand can answer.

    Raises
    ------
    ExperimentError
        If covariates are unknown, or go with another test; or the control has no form for the
        test or the contrast.
    """
    options = options_of(experiment)
    _check_nuisance(experiment.prompts, options)
    if options.control != "max_t":
        return
    if options.test == "brunnermunzel":
        raise ExperimentError(
            "[univariate] control 'max_t' has no form for test 'brunnermunzel'; use "
            'test = "mannwhitney" or "welch" with it'
        )
    for contrast in asked(experiment):
        if options.test == "welch" and len(contrast.conditions) > 2 and not contrast.is_omnibus:
            raise ExperimentError(
                f"contrast {contrast.name!r}, {contrast.expression!r}: control 'max_t' of several "
                f"conditions a side goes with test = \"student\", not 'welch'"
            )


def design_of(
    experiment: Experiment, contrast: Contrast, n_tokens: np.ndarray | None = None
) -> Design:
    """The prompts of a contrast, how they are tested and what binds them.

    Parameters
    ----------
    n_tokens : (n_prompts,) of every prompt, where they are a covariate

    Raises
    ------
    ExperimentError
        If the prompts' groups leave too little to compare.
    """
    options, prompts = options_of(experiment), experiment.prompts
    rows, weights, test = _cells(experiment, contrast)
    blocks = None
    if options.groups == "auto":
        blocks = _column(prompts, "group") if test in PAIRED_TESTS else prompts.blocks
    means = (
        blocks is not None
        and "group" in prompts.table
        and not experiment.recording.stream
        and (test in PAIRED_TESTS or is_nested(rows, blocks))
    )
    design = Design(
        rows=rows,
        test=test,
        weights=weights,
        blocks=blocks,
        nuisance=nuisance_of(prompts, options.nuisance, n_tokens),
        means=means,
    )
    if means and min(design.n) < FEWEST_GROUPS:
        sides = ", ".join(
            f"{n} of {c!r}" for n, c in zip(design.n, side_names(contrast), strict=False)
        )
        raise ExperimentError(
            f"contrast {contrast.name!r}: groups are what is compared, and there are too few "
            f"({sides}); a condition needs 2 groups, "
            f'better 10. To take prompts for independent all the same: groups = "ignore"'
        )
    if design.nuisance is not None:
        _refuse_determined(contrast, design)
    return design


def _refuse_determined(contrast: Contrast, design: Design) -> None:
    """An ExperimentError where covariates leave nothing of a contrast to test."""
    try:
        design.permuted()
    except ValueError as error:
        raise ExperimentError(f"contrast {contrast.name!r}: {error}") from None


def error_control(experiment: Experiment) -> ErrorControl:
    """How the experiment's one family of tests is controlled."""
    options = options_of(experiment)
    return ErrorControl(
        control=options.control,
        alpha=options.alpha,
        n_permutations=options.n_permutations,
        step_down=options.step_down,
        seed=experiment.seed,
    )


def halves_of(experiment: Experiment, contrast: Contrast) -> Halves:
    """Which prompts choose the top units, and which measure them; the seed decides."""
    rows, _, test = _cells(experiment, contrast)
    prompts = experiment.prompts
    together = prompts.blocks
    if test in PAIRED_TESTS:  # a pair goes where its first prompt goes, with the group if any
        together = together.copy()
        together[rows[1]] = together[rows[0]]
    return split_halves(*rows, blocks=together, rng=np.random.default_rng(experiment.seed))


def nuisance_of(
    prompts: PromptSet, names: Sequence[str], n_tokens: np.ndarray | None
) -> np.ndarray | None:
    """Covariates as columns of a regression, (n_prompts, k); None where none is named.

    ``tokens``, and ``words`` and ``characters`` where no column is called so, are counted. A
    column of numbers is one covariate; any other is a category, with an indicator for every value
    but the first, and so are ``item`` and ``group`` whatever they look like.
    """
    columns = []
    for name in names:
        if name == TOKENS:
            columns.append(np.asarray(n_tokens, dtype=float)[:, None])
            continue
        if name not in prompts.table:  # a length of the text
            columns.append(SURFACE[name](prompts.texts)[:, None])
            continue
        values = prompts.table[name]
        if name in CATEGORIES:  # numbers that name items are not amounts
            columns.append(_indicators(values))
            continue
        try:
            columns.append(values.astype(float).to_numpy()[:, None])
        except ValueError:
            columns.append(_indicators(values))
    return np.hstack(columns) if columns else None


def _indicators(values: pd.Series) -> np.ndarray:
    """A column of 0 and 1 for every value but the first, (n_prompts, n_values - 1)."""
    code = np.unique(values.to_numpy(dtype=str), return_inverse=True)[1]
    return (code[:, None] == np.arange(1, code.max() + 1)).astype(float)


def options_of(experiment: Experiment) -> UnivariateOptions:
    return experiment.analysis


def _cells(
    experiment: Experiment, contrast: Contrast
) -> tuple[tuple[np.ndarray, ...], tuple[float, ...] | None, str]:
    """Rows and weights of every condition, and the test that compares them."""
    options, prompts = options_of(experiment), experiment.prompts
    if contrast.is_omnibus:
        rows = tuple(prompts.rows_of(c) for c in contrast.conditions)
        weights = TWO_SIDES if len(rows) == 2 else None  # a difference of two has a direction
        return rows, weights, omnibus_test(options.test, adjusted=bool(options.nuisance))
    if options.test in PAIRED_TESTS:
        return prompts.pairs(contrast.first, contrast.second), TWO_SIDES, options.test
    if len(contrast.conditions) > 2 and options.test in WEIGHTED_TESTS:
        rows = tuple(prompts.rows_of(c) for c in contrast.conditions)
        return rows, tuple(contrast.weights.values()), options.test
    sides = prompts.rows_of(contrast.first), prompts.rows_of(contrast.second)
    return sides, TWO_SIDES, options.test


def side_names(contrast: Contrast) -> tuple[str, ...]:
    """The two sides as labels; every condition of an omnibus contrast."""
    if contrast.is_omnibus:
        return contrast.conditions
    return " + ".join(contrast.first), " + ".join(contrast.second)


def power_sides(contrast: Contrast, design: Design) -> tuple[tuple[str, str], tuple[int, int]]:
    """Labels and sizes of two groups that detect about what the design does.

    Its two sides; of an omnibus contrast the two smallest conditions.
    """
    if design.weights is None:
        by_size = sorted(zip(design.n, contrast.conditions, strict=True))[:2]
        (n_a, first), (n_b, second) = by_size
        return (first, second), (n_a, n_b)
    parts = list(zip(design.weights, design.n, strict=True))
    # The size at which one mean is known as well as the weighted mean of a side's.
    effective = [1 / sum(w**2 / n for w, n in parts if w * sign > 0) for sign in (1, -1)]
    labels = side_names(contrast)
    return (labels[0], labels[1]), (max(2, round(effective[0])), max(2, round(effective[1])))


def leaves_blocks_alike(experiment: Experiment, design: Design) -> bool:
    """Whether prompts of one crossed block are tested as if they were independent.

    Such p-values bound nothing. They are right where blocks are averaged, or are regressors.
    """
    if design.blocks is None or design.means:
        return False
    column = "group" if "group" in experiment.prompts.table else "item"
    return column not in options_of(experiment).nuisance


def _column(prompts: PromptSet, name: str) -> np.ndarray | None:
    return prompts.table[name].to_numpy() if name in prompts.table else None


def _check_nuisance(prompts: PromptSet, options: UnivariateOptions) -> None:
    if not options.nuisance:
        return
    if options.test not in ADJUSTED_TESTS:
        raise ExperimentError(
            f'[univariate] nuisance goes with test = "glm_t" (a regression), not {options.test!r}'
        )
    columns = [c for c in (*prompts.covariates, "item", "group") if c in prompts.table]
    known = dict.fromkeys([TOKENS, *TEXT_LENGTHS, *columns])
    for name in options.nuisance:
        if name not in known:
            raise ExperimentError(
                f"[univariate] nuisance: no column {name!r}; known: {', '.join(known)}"
            )
        if name != TOKENS and name in columns and (prompts.table[name] == "").any():
            row = int(np.flatnonzero(prompts.table[name] == "")[0])
            raise ExperimentError(
                f"[univariate] nuisance: column {name!r} is empty in {prompts.where(row)}; every "
                f"prompt needs a value"
            )
