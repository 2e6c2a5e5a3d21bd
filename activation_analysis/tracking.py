"""Runs in MLflow: the only module that imports it. Names follow `contract.py`.

One run holds one model x one prompt set x one contrast. An experiment with several contrasts is a
parent run with one child per contrast; the capture then lies with the parent.

Comparisons select by tags only: ``aa.complete = 1`` and status FINISHED.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from activation_analysis import contract
from activation_analysis.errors import TrackingError
from activation_analysis.experiment import Experiment
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance
from activation_analysis.report import run_folder
from activation_analysis.results import ContrastResult
from activation_analysis.workspace import runs_folder

MLFLOW_EXPERIMENT = "activation_analysis"
LONGEST_TAG = 5000
LONGEST_DIGEST = 36
METRICS_PER_BATCH = 1000  # MLflow's limit
PARAMS_PER_BATCH = 100
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,4}")  # what MLflow calls a run nobody named


@dataclass(frozen=True)
class TrackedRun:
    """A run as other parts of the program speak of it."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    artifact_uri: str
    started: float  # seconds since 1970

    @classmethod
    def of(cls, run: Run) -> TrackedRun:
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            tags=run.data.tags,
            params=run.data.params,
            metrics=run.data.metrics,
            artifact_uri=run.info.artifact_uri,
            started=run.info.start_time / 1000,
        )


def connect(root: Path | None = None) -> str:
    """Point MLflow at the workspace's store, or at ``MLFLOW_TRACKING_URI``; returns the URI.

    A fresh database is made under a lock, since several processes that open one at once crash
    in its migration.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return mlflow.get_tracking_uri()
    folder = runs_folder(root)
    database = folder / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    with (folder / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mlflow.MlflowClient().search_experiments(max_results=1)
    return mlflow.get_tracking_uri()


@contextmanager
def tracked_run(
    experiment: Experiment, *, kind: str = "experiment", run_name: str | None = None
) -> Iterator[TrackedRun]:
    """Open the run that everything until the end of the block belongs to.

    Joins the run that ``mlflow run`` opened, if it did. A failure ends the run as FAILED, an
    interruption as KILLED, each with its reason in the tag ``aa.exit``.
    """
    connect()
    tags = {
        "aa.schema": contract.SCHEMA,
        "aa.kind": kind,
        "aa.complete": "0",
        "aa.prompts": experiment.name,
        "mlflow.note.content": experiment.question,
    }
    if os.environ.get("MLFLOW_RUN_ID"):
        run = mlflow.start_run()
        _name_if_nobody_did(run, run_name)
    else:
        run = mlflow.start_run(experiment_id=_mlflow_experiment(), run_name=run_name)
    client = mlflow.MlflowClient()
    run_id = run.info.run_id
    try:
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        yield TrackedRun.of(run)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        client.set_tag(run_id, "aa.exit", _reason(error))
        mlflow.end_run("KILLED" if interrupted else "FAILED")
        raise
    mlflow.end_run("FINISHED")


def _name_if_nobody_did(run: Run, run_name: str | None) -> None:
    if run_name and MADE_UP_NAME.fullmatch(run.info.run_name or ""):
        mlflow.MlflowClient().set_tag(run.info.run_id, "mlflow.runName", run_name)


def _mlflow_experiment() -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", MLFLOW_EXPERIMENT)
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    # Beside the database and not below the current folder, wherever that is.
    is_local = mlflow.get_tracking_uri().startswith("sqlite:")
    place = (runs_folder() / "artifacts").as_uri() if is_local else None
    try:
        return mlflow.create_experiment(name, artifact_location=place)
    except MlflowException:
        found = mlflow.get_experiment_by_name(name)  # another process made it meanwhile
        if found is None:
            raise
        return found.experiment_id


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_TAG]


def tag_failure(error: BaseException) -> None:
    """Leave the reason in the run that ``mlflow run`` opened, where there is one."""
    if os.environ.get("MLFLOW_RUN_ID"):
        connect()
        mlflow.MlflowClient().set_tag(os.environ["MLFLOW_RUN_ID"], "aa.exit", _reason(error))


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
        _log_contrast(run.run_id, outcome, outcome.results[0], made_by, capture_run)
        return [run.run_id]
    _log_parent(run.run_id, outcome, made_by, capture_run)
    children = []
    for result in outcome.results:
        name = f"{outcome.run_name}·{result.contrast_name}"
        with mlflow.start_run(run_name=name, nested=True) as child:
            _log_contrast(child.info.run_id, outcome, result, made_by, capture_run or run.run_id)
            children.append(child.info.run_id)
    _close(run.run_id, [])
    return children


def _log_contrast(
    run_id: str,
    outcome: Outcome,
    result: ContrastResult,
    made_by: Provenance,
    capture_run: str | None,
) -> None:
    """One contrast into one run: numbers in as few batches as MLflow allows, then files."""
    _log_numbers(
        run_id,
        metrics=_metrics(result, outcome),
        params=contract.params(outcome, made_by, result),
        tags=contract.tags(outcome, made_by, result, run_id, capture_run or run_id),
    )
    _log_prompts(run_id, outcome.experiment)
    with _spool() as folder:
        failed = run_folder.write_result(folder, result)
        _log_folder(run_id, folder, outcome, made_by, with_capture=capture_run is None)
    _close(run_id, failed)


def _log_parent(
    run_id: str, outcome: Outcome, made_by: Provenance, capture_run: str | None
) -> None:
    """What the contrasts of one experiment share: params, prompts and the capture."""
    _log_numbers(
        run_id,
        metrics=[],
        params=contract.params(outcome, made_by),
        tags=contract.tags(outcome, made_by, None, run_id, capture_run or run_id),
    )
    _log_prompts(run_id, outcome.experiment)
    with _spool() as folder:
        _log_folder(run_id, folder, outcome, made_by, with_capture=capture_run is None)


@contextmanager
def _spool() -> Iterator[Path]:
    """A folder of ``mlruns/spool`` that is gone once its content is logged."""
    place = runs_folder() / "spool"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder) / "run"


def _log_folder(
    run_id: str, folder: Path, outcome: Outcome, made_by: Provenance, *, with_capture: bool
) -> None:
    """Inputs and capture beside what is in ``folder``, all of it logged, the manifest last."""
    run_folder.write_inputs(folder, outcome.experiment, outcome.activations, made_by)
    if with_capture:
        run_folder.write_capture(folder, outcome.activations)
    manifest = run_folder.seal(folder, run_id=run_id, schema=contract.SCHEMA)
    # It says that all the rest has arrived, so it travels by itself.
    apart = folder.parent / manifest.name
    os.replace(manifest, apart)
    mlflow.log_artifacts(str(folder), run_id=run_id)
    mlflow.log_artifact(str(apart), run_id=run_id)


def _close(run_id: str, failed: list[str]) -> None:
    reason = "figures missing: " + "; ".join(failed) if failed else "ok"
    closing = {"aa.complete": "1", "aa.exit": reason[:LONGEST_TAG]}
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


def _log_numbers(
    run_id: str, *, metrics: list[Metric], params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    client = mlflow.MlflowClient()
    # `mlflow run` logs its own parameters first, shell-quoted, and a param never changes.
    there = client.get_run(run_id).data.params
    entries = [Param(key, value) for key, value in params.items() if key not in there]
    notes = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(entries), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=entries[start : start + PARAMS_PER_BATCH])
    room = METRICS_PER_BATCH - len(notes)
    client.log_batch(run_id, metrics=metrics[:room], tags=notes)
    for start in range(room, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


def _log_prompts(run_id: str, experiment: Experiment) -> None:
    """The prompt table as the run's dataset input."""
    dataset = mlflow.data.from_pandas(
        experiment.prompts.table,
        name=experiment.prompts.name,
        digest=experiment.prompts.fingerprint[:LONGEST_DIGEST],
    )
    client = mlflow.MlflowClient()
    tags = [InputTag("mlflow.data.context", "prompts")]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])


def find_run(reference: str) -> TrackedRun:
    """A run by its id, the start of its id, its name, or the word ``latest``.

    Raises
    ------
    TrackingError
        If there is none, or more than one (they are listed).
    """
    connect()
    client = mlflow.MlflowClient()
    if re.fullmatch(r"[0-9a-f]{32}", reference):
        try:
            return TrackedRun.of(client.get_run(reference))
        except MlflowException as error:
            raise TrackingError(f"no run {reference} in {mlflow.get_tracking_uri()}") from error
    runs = list_runs()
    if reference == "latest" and runs:
        return runs[0]
    found = [r for r in runs if r.run_id.startswith(reference) or r.name == reference]
    if len(found) == 1:
        return found[0]
    shown = [f"    {r.run_id}  {r.name}" for r in (found or runs)[:10]]
    problem = "more than one run is" if found else "no complete run is"
    raise TrackingError(
        f"{problem} called {reference!r} in {mlflow.get_tracking_uri()}; "
        + ("choose one by its id:\n" if shown else "none is there yet")
        + "\n".join(shown)
    )


def list_runs(**tags: str) -> list[TrackedRun]:
    """Finished, complete runs of this schema, newest first.

    Parameters
    ----------
    tags : further tags that must match, without their ``aa.``: ``model="gpt2"``
    """
    connect()
    wanted = {"complete": "1", "schema": contract.SCHEMA} | tags
    conditions = [f"tags.`aa.{key}` = '{_quotable(value)}'" for key, value in wanted.items()]
    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    found: list[TrackedRun] = []
    token = None
    while True:
        page = client.search_runs(
            experiments,
            filter_string=" AND ".join([*conditions, "attributes.status = 'FINISHED'"]),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += [TrackedRun.of(run) for run in page]
        token = page.token
        if not token:
            return found


def _quotable(value: str) -> str:
    if "'" in value:
        raise TrackingError(f"{value!r} holds a quote, which MLflow's search cannot look for")
    return value


def stored_capture(run: TrackedRun) -> tuple[Path, Path]:
    """Local folders of a run's capture and of the experiment it came from.

    Raises
    ------
    TrackingError
        If the run has no capture, or its artifacts cannot be found.
    """
    holder = find_run(run.tags.get("aa.capture_run", run.run_id))
    place = f"run {holder.run_id} ({holder.name})"
    try:
        capture = Path(_download(holder, "activations"))
        prompts = Path(_download(holder, "prompts"))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{place} has no capture that can be read: {error}") from error
    experiments = list(prompts.glob("*/experiment.toml"))
    if len(experiments) != 1:
        raise TrackingError(
            f"{place} holds no experiment in {prompts}; was the store moved? "
            f"its artifacts were at {holder.artifact_uri}"
        )
    return capture, experiments[0].parent


def _download(run: TrackedRun, folder: str) -> str:
    return mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path=folder)


def local_artifacts(run: TrackedRun) -> Path | None:
    """Where a run's artifacts lie on this machine; None where a server keeps them."""
    if not run.artifact_uri.startswith(("file:", "/")):
        return None
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=run.artifact_uri))


def experiment_link(server: str) -> str:
    """The table of this project's runs; without its last part the UI opens in another mode."""
    return f"{server}/#/experiments/{_mlflow_experiment()}/runs?workflowType=machine_learning"
