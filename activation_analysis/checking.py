"""A check of an experiment's prompts, with what a model says of them: tokens and surprisal."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from activation_analysis.errors import InputError, ModelError
from activation_analysis.experiment import Experiment
from activation_analysis.power_arguments import units_of_default_model
from activation_analysis.prompt_check import Counter, check_prompts, counted
from activation_analysis.results import PromptCheck
from activation_analysis.study_designs import asked
from activation_analysis.text_files import shown

LEAST_ENGLISH = 1.0  # mean Zipf frequency; text of another language or of code has less
NEEDS_ALL = ("span", "word_final")  # positions that characters decide


def checked(experiment: Experiment, *, surprisal: bool = False) -> PromptCheck:
    """The check, with tokens and surprisal as the experiment's model has them.

    Raises
    ------
    ModelError
        If surprisal is asked for and the model cannot give it.
    PromptError
        If the model cannot read a prompt at the experiment's position.
    """
    measures, counters = {}, {}
    uncounted, context = "", None
    try:
        if _is_read_plainly(experiment):
            counters["tokens"], context = _token_counter(experiment)
        else:
            measures["tokens"] = _tokens_read(experiment)
    except ModelError as error:
        if surprisal:
            raise
        uncounted = str(error)
    if find_spec("wordfreq"):
        from activation_analysis.word_frequency import word_frequency

        counters["word_frequency"] = word_frequency
    if surprisal:
        measures["surprisal"] = _surprisal(experiment)
    n_units = units_of_default_model(experiment)
    family = n_units * len(asked(experiment)) if n_units else 1
    measures |= counted(experiment.prompts, counters)
    if np.mean(measures.get("word_frequency", 1.0)) < LEAST_ENGLISH:
        del measures["word_frequency"]
    counters.clear()  # a tokenizer of 45 MB among them
    return check_prompts(
        experiment, measures, context=context, family_size=family, uncounted=uncounted
    )


def save_check(found: PromptCheck, folder: Path) -> list[Path]:
    """Write balance.png, balance.csv and check.json; the files written."""
    from activation_analysis.figures.gallery import save
    from activation_analysis.figures.prompt_balance import prompt_balance

    files = [folder / name for name in ("balance.png", "balance.csv", "check.json")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(prompt_balance(found), files[0])
        found.table().to_csv(files[1], index=False)
        files[2].write_text(json.dumps(found.summary(), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"--save {shown(folder)}: cannot be written: {error.strerror}") from None
    return files


def _is_read_plainly(experiment: Experiment) -> bool:
    """Whether the model reads each prompt's text and nothing else, to its end."""
    options = experiment.recording
    special = options.chat or options.control_tokens or options.truncate or options.skip_first
    return not special and options.position not in NEEDS_ALL


def _token_counter(experiment: Experiment) -> tuple[Counter, int | None]:
    """What counts tokens for the experiment's model, and how many the model can read."""
    from activation_analysis.models.loading import resolve
    from activation_analysis.models.token_counts import longest_context, token_counter

    source = resolve(experiment.model.id, revision=experiment.model.revision or None)
    return token_counter(source), longest_context(source)


def _tokens_read(experiment: Experiment) -> np.ndarray:
    """Tokens of every prompt as the model would read it at the experiment's position."""
    from activation_analysis.pipeline import read_tokens

    return read_tokens(experiment).tokens.n_tokens


def _surprisal(experiment: Experiment) -> np.ndarray:
    """Mean surprisal of every prompt under the experiment's model, in bits a token."""
    from activation_analysis.models.loading import load_model
    from activation_analysis.models.surprisal import mean_surprisal
    from activation_analysis.pipeline import read_tokens

    ready = read_tokens(experiment)
    model = load_model(ready.source, device=experiment.model.device, dtype=experiment.model.dtype)
    bits = mean_surprisal(model, ready.tokens.ids)
    if np.isnan(bits).any():
        row = int(np.flatnonzero(np.isnan(bits))[0])
        raise ModelError(
            f"{experiment.prompts.where(row)}: a single token has no surprisal; leave --surprisal "
            f"out, or lengthen the prompt"
        )
    return bits
