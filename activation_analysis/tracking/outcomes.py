"""An outcome into its runs: numbers in as few batches as MLflow takes, then files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from activation_analysis import contract
from activation_analysis.experiment import Experiment
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance
from activation_analysis.report import run_folder
from activation_analysis.results import ContrastResult
from activation_analysis.tracking.connection import spool
from activation_analysis.tracking.runs import TrackedRun, ended_with_reason

LONGEST_DIGEST = 36  # this and the next two are MLflow's limits
ENTRIES_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


def log_outcome(
    run: TrackedRun, outcome: Outcome, made_by: Provenance, *, capture_run: str | None = None
) -> list[str]:
    """Log every contrast of an outcome; returns the ids of the runs that hold one, in order.

    Parameters
    ----------
    run : the open run; with several contrasts it becomes the parent of one child each
    capture_run : the run whose artifacts already hold this capture, or None to store it here
    """
    if len(outcome.results) == 1:
        failed = _log_contrast(run.run_id, outcome, outcome.results[0], made_by, capture_run)
        close(run.run_id, failed)
        return [run.run_id]
    _log_parent(run.run_id, outcome, made_by, capture_run)
    children, all_failed = [], []
    for result in outcome.results:
        experiment = outcome.experiment.with_contrasts({result.contrast_name: result.contrast})
        child_outcome = replace(outcome, experiment=experiment, results=(result,))
        name = f"{outcome.run_name}·{result.contrast_name}"
        with (
            mlflow.start_run(experiment_id=run.experiment_id, run_name=name, nested=True) as child,
            ended_with_reason(child, experiment, run.tags.get("aa.kind", "experiment")),
        ):
            run_id = child.info.run_id
            holder = capture_run or run.run_id
            failed = _log_contrast(run_id, child_outcome, result, made_by, holder)
            close(run_id, failed)
        children.append(run_id)
        all_failed += [f"{result.contrast_name}/{what}" for what in failed]
    close(run.run_id, all_failed)
    return children


def _log_contrast(
    run_id: str,
    outcome: Outcome,
    result: ContrastResult,
    made_by: Provenance,
    capture_run: str | None,
) -> list[str]:
    """One contrast into one run: numbers, then files; returns what could not be drawn."""
    log_numbers(
        run_id,
        metrics=_metrics(result, outcome),
        params=contract.params(outcome, made_by, result),
        tags=contract.tags(outcome, made_by, result, run_id, capture_run or run_id),
    )
    log_prompts(run_id, outcome.experiment)
    with spool() as folder:
        failed = run_folder.write_result(folder, result)
        log_folder(run_id, folder, outcome, made_by, with_capture=capture_run is None)
    return failed


def _log_parent(
    run_id: str, outcome: Outcome, made_by: Provenance, capture_run: str | None
) -> None:
    """What the contrasts of one experiment share: params, prompts and the capture."""
    log_numbers(
        run_id,
        metrics=[],
        params=contract.params(outcome, made_by),
        tags=contract.tags(outcome, made_by, None, run_id, capture_run or run_id),
    )
    log_prompts(run_id, outcome.experiment)
    with spool() as folder:
        log_folder(run_id, folder, outcome, made_by, with_capture=capture_run is None)


def log_folder(
    run_id: str, folder: Path, outcome: Outcome, made_by: Provenance, *, with_capture: bool
) -> None:
    """Inputs and capture beside what is in ``folder``, all of it logged, the manifest last."""
    run_folder.write_inputs(folder, outcome.experiment, outcome.activations, made_by)
    if with_capture and outcome.uploads_capture:
        run_folder.write_capture(folder, outcome.activations, outcome.capture_folder)
    run_folder.write_capture_log(folder, outcome.proof, outcome.notes)
    manifest = run_folder.seal(
        folder,
        run_id=run_id,
        schema=contract.SCHEMA,
        proof=outcome.proven,
    )
    # It says that all the rest has arrived, so it travels by itself.
    apart = folder.parent / manifest.name
    os.replace(manifest, apart)
    mlflow.log_artifacts(str(folder), run_id=run_id)
    mlflow.log_artifact(str(apart), run_id=run_id)


def close(run_id: str, failed: list[str]) -> None:
    reason = "figures missing: " + "; ".join(failed) if failed else "ok"
    closing = {"aa.exit": reason[: contract.LONGEST_TAG], "aa.complete": "1"}
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(k, v) for k, v in closing.items()])


def _metrics(result: ContrastResult, outcome: Outcome) -> list[Metric]:
    """Series with step = layer, then their stepless companions; inf, which MLflow mangles, out."""
    now = int(time.time() * 1000)
    points = [
        Metric(key, float(value), now, int(layer))
        for key, layers, values in contract.series(result)
        for layer, value in zip(layers, values, strict=True)
    ]
    points += [
        Metric(key, float(value), now, 0)
        for key, value in (contract.summaries(result) | outcome.time_metrics()).items()
    ]
    return [point for point in points if not math.isinf(point.value)]


def log_numbers(
    run_id: str, *, metrics: list[Metric], params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    client = mlflow.MlflowClient()
    # `mlflow run` logs its own parameters first, shell-quoted, and a param never changes.
    there = client.get_run(run_id).data.params
    entries = [Param(key, value) for key, value in params.items() if key not in there]
    notes = [RunTag(key, value) for key, value in tags.items()]
    while entries or notes or metrics:
        some, entries = entries[:PARAMS_PER_BATCH], entries[PARAMS_PER_BATCH:]
        room = ENTRIES_PER_BATCH - len(some) - len(notes)
        client.log_batch(run_id, metrics=metrics[:room], params=some, tags=notes)
        metrics, notes = metrics[room:], []


def log_prompts(run_id: str, experiment: Experiment) -> None:
    """The prompt table as the run's dataset input."""
    dataset = mlflow.data.from_pandas(
        experiment.prompts.table,
        name=experiment.name,
        digest=experiment.prompts.fingerprint[:LONGEST_DIGEST],
    )
    client = mlflow.MlflowClient()
    tags = [InputTag("mlflow.data.context", "prompts")]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
