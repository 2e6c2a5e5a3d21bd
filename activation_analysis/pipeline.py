"""The whole method on one page. READ FIRST.

    prompts -> tokens -> activations (n_prompts x n_units) -> a test at every unit
            -> maps per site -> profiles per layer -> top units, with held-out effects

`run` records a model and analyses what it recorded; `analyze` is the second half by itself, from
a capture that exists. Tracking, figures and files are somebody else's business.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activation_analysis import cautions
from activation_analysis.acquisition import acquire
from activation_analysis.activations import KEY, Activations
from activation_analysis.analyses import univariate
from activation_analysis.analyses.design_power import power_of, small_sample_warning
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.streamed import (
    StreamedMoments,
    StreamedRecording,
    refuse_whole_data,
)
from activation_analysis.analyses.templating import templating
from activation_analysis.balance import contrast_balance
from activation_analysis.contrasts import Contrast
from activation_analysis.errors import ExperimentError, ModelError, StoreError
from activation_analysis.experiment import Experiment
from activation_analysis.progress import stage
from activation_analysis.prompts import PromptSet
from activation_analysis.provenance import code_version
from activation_analysis.results import ContrastResult, PermutationSummary, StatMap
from activation_analysis.study_calibration import quick_calibration
from activation_analysis.study_designs import (
    asked,
    check_answerable,
    design_of,
    error_control,
    halves_of,
    leaves_blocks_alike,
    options_of,
    power_sides,
    side_names,
)
from activation_analysis.surface_baseline import contrast_baseline

if TYPE_CHECKING:
    from activation_analysis.models.checks import Proof
    from activation_analysis.models.distributed import Processes
    from activation_analysis.models.loading import ModelSource
    from activation_analysis.models.tokenizing import Tokens


@dataclass(frozen=True)
class Ready:
    """An experiment whose model is there and can read every prompt; no weights are read yet."""

    experiment: Experiment
    source: ModelSource
    config: Any  # the model's, as transformers reads it
    tokenizer: Any
    tokens: Tokens


@dataclass(frozen=True)
class Seconds:
    """Where the wall time of a run went."""

    loading: float = 0.0
    forward: float = 0.0  # inside the model
    capture: float = 0.0  # forward passes and all around them
    analysis: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one experiment on one model yields."""

    experiment: Experiment
    activations: Activations | StreamedRecording
    results: tuple[ContrastResult, ...]  # one per contrast
    seconds: Seconds = Seconds()
    capture_folder: Path | None = None  # of the capture in the store
    proof: Proof | None = None  # of the model, where it was read
    notes: tuple[str, ...] = ()  # what the user was told during the capture

    @property
    def run_name(self) -> str:
        """``<model>·<experiment>``, as runs are called unless their user names them."""
        return run_name(self.activations.model, self.experiment.name)

    @property
    def capture_key(self) -> str:
        return recording_key(self.activations)

    @property
    def proven(self) -> str:
        """What was proved of the model, in a line: as measured, or as its capture remembers."""
        return self.proof.finding if self.proof else self.activations.details.get("proof", "")

    @property
    def uploads_capture(self) -> bool:
        """Whether the activations go into the tracked run; larger ones stay in the store."""
        if isinstance(self.activations, StreamedRecording):
            return False
        n_bytes = 4 * len(self.activations) * self.activations.n_units
        if self.capture_folder is not None:
            n_bytes = sum(file.stat().st_size for file in self.capture_folder.iterdir())
        return n_bytes <= 1e6 * self.experiment.recording.upload_mb

    def time_metrics(self) -> dict[str, float]:
        s = self.seconds
        named = {
            "loading": s.loading,
            "forward": s.forward,
            "capture": s.capture,
            "analysis": s.analysis,
        }
        return {f"seconds/{name}": value for name, value in named.items() if value}


def run(
    experiment: Experiment,
    *,
    ready: Ready | None = None,
    processes: Processes | None = None,
    progress: bool = True,
) -> Outcome | None:
    """Record the experiment's prompts on its model, and analyse every contrast.

    Everything that can be wrong with the prompts is said before the weights are read. ``ready``
    is what `prepare` returned for this experiment, where that has been done already. Of several
    ``processes`` each records its share; the main one analyses, and the others return None.
    """
    began = time.perf_counter()
    ready = ready or prepare(experiment)
    moments = stream(experiment) if experiment.recording.stream else None
    acquired = acquire(experiment, ready, stream=moments, processes=processes, progress=progress)
    if acquired is None:
        return None
    recorded = time.perf_counter()
    results = analyze(experiment, acquired.activations, progress=progress)
    seconds = Seconds(
        loading=recorded - began - acquired.seconds,
        forward=acquired.forward,
        capture=acquired.seconds,
        analysis=time.perf_counter() - recorded,
    )
    return Outcome(
        experiment,
        acquired.activations,
        results,
        seconds,
        capture_folder=acquired.folder,
        proof=acquired.proof,
        notes=acquired.notes,
    )


def rerun_analysis(
    experiment: Experiment, activations: Activations, *, progress: bool = True
) -> Outcome:
    """Analyse a capture that exists; no model is loaded."""
    began = time.perf_counter()
    results = analyze(experiment, activations, progress=progress)
    seconds = Seconds(analysis=time.perf_counter() - began)
    return Outcome(experiment, activations, results, seconds)


def analyze(
    experiment: Experiment,
    activations: Activations | StreamedRecording,
    *,
    progress: bool = True,
) -> tuple[ContrastResult, ...]:
    """Every contrast of the experiment, on one recording of its prompts, kept or streamed."""
    check_answerable(experiment)
    refuse_other_prompts(experiment, activations)
    contrasts = asked(experiment)
    designs = [design_of(experiment, c, activations.n_tokens) for c in contrasts]
    with stage("Testing every unit", 2 * len(contrasts) + 1, shown=progress) as advance:
        maps = []
        for design in designs:
            maps.append(univariate.design_maps(activations, design))
            advance(1)
        how = error_control(experiment)
        adjusted = univariate.controlled(activations, designs, maps, how)
        advance(1)
        family = univariate.simes_family(univariate.every_p_value(adjusted.maps), how.alpha)
        results = []
        for number, contrast in enumerate(contrasts):
            found = adjusted.maps[number], adjusted.permutation[number], family
            results.append(
                contrast_result(experiment, activations, contrast, designs[number], *found)
            )
            advance(1)
    return tuple(results)


def refuse_other_prompts(
    experiment: Experiment, activations: Activations | StreamedRecording
) -> None:
    """A StoreError, unless the recording is of the experiment's prompts."""
    if activations.prompts != experiment.prompts.texts:
        raise StoreError("this capture is of other prompts than the experiment's; record it again")


def stream(experiment: Experiment) -> StreamedMoments:
    """What the batches of a capture go to, if only the answers to the contrasts are wanted.

    Add every prompt once, by its row number; then `analyze` a StreamedRecording of it.

    Raises
    ------
    ExperimentError
        If a contrast, or the test, needs more than moments.
    """
    check_answerable(experiment)
    options = options_of(experiment)
    try:
        refuse_whole_data(options.test, options.control)
    except ValueError as error:
        raise ExperimentError(f"[univariate] {error}") from None
    splits = [halves_of(experiment, contrast) for contrast in asked(experiment)]
    return StreamedMoments.of(len(experiment.prompts), splits)


def contrast_result(
    experiment: Experiment,
    activations: Activations | StreamedRecording,
    contrast: Contrast,
    design: Design,
    maps: dict[str, StatMap],
    permutation: PermutationSummary | None,
    family: univariate.SimesFamily,
) -> ContrastResult:
    """One contrast: maps, profiles, top units, and what to be careful about."""
    options = options_of(experiment)
    calibration = quick_calibration(experiment, activations, design, error_control(experiment))
    selection = univariate.half_effects(activations, halves_of(experiment, contrast), design)
    family_size = next(iter(maps.values())).family_size or 1
    compared, sizes = power_sides(contrast, design)
    power = power_of(
        design,
        sizes,
        alpha=options.alpha,
        family_size=family_size,
        control=options.control,
        threshold_t=permutation.critical if permutation and permutation.is_abs_t else None,
    )
    alike = contrast_balance(experiment.prompts, contrast, {"tokens": activations.n_tokens})
    bounds = None if leaves_blocks_alike(experiment, design) else family
    labels = side_names(contrast)
    profiles = univariate.layer_profiles(maps, selection=selection, family=bounds)
    return ContrastResult(
        model=activations.model,
        experiment=experiment.name,
        question=experiment.question,
        contrast=contrast.expression,
        contrast_name=contrast.name,
        conditions=labels,
        position=activations.position,
        maps=maps,
        profiles=profiles,
        top_units=univariate.top_units(activations, maps, selection, design, top_n=options.top_n),
        n_significant_by_control=univariate.significant_by_control(maps, alpha=options.alpha),
        balance=alike,
        power=power,
        permutation=permutation,
        groups=contrast.conditions if len(design.n) > 2 else (),
        counted="groups" if design.means else "prompts",
        n_true_at_least=None
        if bounds is None
        else univariate.lower_bound(univariate.every_p_value([maps]), bounds),
        calibration=calibration,
        surface=contrast_baseline(experiment.prompts, contrast, seed=experiment.seed),
        warnings=tuple(
            said
            for said in (
                small_sample_warning(compared, power, "groups" if design.means else "prompts"),
                cautions.truncation(activations),
                cautions.imbalance(alike, adjusted=options.nuisance),
                cautions.unequal_pooling(experiment.prompts, contrast, options.test),
                cautions.dependence(
                    experiment.prompts,
                    design.test,
                    n_groups=design.n if design.means else (),
                    shuffled=permutation is not None and design.blocks is not None,
                    adjusted=options.nuisance,
                ),
                undeclared_templates(activations, experiment.prompts, contrast, options.test),
                cautions.unreachable(permutation, options.alpha),
                cautions.exclusion(maps),
                cautions.massive_units(profiles),
                calibration.warning if calibration else "",
            )
            if said
        ),
    )


def undeclared_templates(
    activations: Activations | StreamedRecording, prompts: PromptSet, contrast: Contrast, test: str
) -> str:
    """What a user should know of prompts that look like fillings of a few templates."""
    return templating(prompts, contrast, test=test, recording=activations)


def prepare(experiment: Experiment) -> Ready:
    """Find the model and read every prompt with its tokenizer; what is wrong is said here.

    Raises
    ------
    ExperimentError, ModelError, PromptError
        If a contrast cannot be answered, the model or its device is not there, or a prompt is
        empty to it or longer than its context.
    """
    from activation_analysis.models.loading import check_device

    check_answerable(experiment)
    check_device(experiment.model.device)
    return read_tokens(experiment)


def read_tokens(experiment: Experiment) -> Ready:
    """The prompts as the model would read them, whatever the contrasts ask.

    Raises
    ------
    ModelError, PromptError
        If the model is not there, or a prompt is empty to it, too long for it, or has no token
        at the experiment's position.
    """
    from activation_analysis.models.loading import load_config, load_tokenizer, resolve
    from activation_analysis.models.positions import READ_BY_CHARACTER, places
    from activation_analysis.models.tokenizing import context_length, tokenize

    prompts, options = experiment.prompts, experiment.recording
    source = resolve(experiment.model.id, revision=experiment.model.revision or None)
    config, tokenizer = load_config(source), load_tokenizer(source)
    _check_layers(experiment, config)
    tokens = tokenize(
        tokenizer,
        prompts.texts,
        limit=context_length(config, tokenizer),
        truncate=options.truncate,
        sources=[prompts.where(row) for row in range(len(prompts))],
        chat=options.chat,
        control_tokens=options.control_tokens,
        spans=prompts.spans if options.position == "span" else None,
        offsets=options.position in READ_BY_CHARACTER,
    )
    places(options.position, tokens, skip_first=options.skip_first)
    return Ready(experiment, source, config, tokenizer, tokens)


def _check_layers(experiment: Experiment, config: Any) -> None:
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    outside = [k for k in experiment.recording.layers if n_layers and k >= n_layers]
    if outside:
        raise ModelError(
            f"no layer {', '.join(map(str, outside))} in {experiment.model.id!r}, which has "
            f"{n_layers} blocks: 0 to {n_layers - 1}"
        )


def recording_key(activations: Activations | StreamedRecording) -> str:
    """SHA-256 of all that defines a capture: weights, prompts, sites, position, precision, code.

    The key in the store, where the recording has one; else of what it knows itself.
    """
    if KEY in activations.details:
        return activations.details[KEY]
    defining = {
        "model": activations.model,
        "details": dict(activations.details),
        "prompts": activations.prompts,
        "sites": activations.sites,
        "layers": activations.layers,
        "position": activations.position,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()


def run_name(model: str, experiment: str) -> str:
    """``<model>·<experiment>``; of the model the last part of its hub id, path or file name."""
    return f"{short_name(model)}·{experiment}"


def short_name(model: str) -> str:
    """The last part of a hub id, path or file name."""
    return model.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf")
