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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities import Experiment as MlflowExperiment
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from activation_analysis import contract
from activation_analysis.errors import TrackingError
from activation_analysis.experiment import Experiment
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance
from activation_analysis.report import run_folder
from activation_analysis.report.summary import escaped
from activation_analysis.results import ContrastResult
from activation_analysis.workspace import runs_folder

MLFLOW_EXPERIMENT = "activation_analysis"
SQLITE = "sqlite:///"
LONGEST_DIGEST = 36  # this and the next two are MLflow's limits
ENTRIES_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


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

    @property
    def parent_id(self) -> str | None:
        """The run of the whole experiment, where this one is one contrast of several."""
        return self.tags.get("mlflow.parentRunId")

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

    Raises
    ------
    TrackingError
        If the store cannot be opened or the server does not answer.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{runs_folder(root) / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    try:
        with _locked(_database(uri)):
            mlflow.MlflowClient().search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"cannot open the tracking store {without_secrets(uri)}: {without_secrets(str(error))}"
        ) from error
    return uri


def _database(uri: str) -> Path | None:
    """The file behind a SQLite store, links followed; None for any other store."""
    return Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None


@contextmanager
def _locked(database: Path | None) -> Iterator[None]:
    """One process at a time; nothing to lock where the store is no file."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def without_secrets(text: str) -> str:
    """Text whose URLs have lost their user names and passwords."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


@contextmanager
def tracked_run(
    experiment: Experiment, *, kind: str = "experiment", run_name: str = "", named: str = ""
) -> Iterator[TrackedRun]:
    """Open the run that everything until the end of the block belongs to.

    Joins the run that ``mlflow run`` opened, if it did. A failure ends the run as FAILED, an
    interruption as KILLED, each with its reason in the tag ``aa.exit``.

    Parameters
    ----------
    run_name : what to call the run where its user did not name it
    named : the name that its user gave, which always stands
    """
    connect()
    joins = bool(os.environ.get("MLFLOW_RUN_ID"))
    try:
        if joins:
            run = mlflow.start_run()
        else:
            run = mlflow.start_run(experiment_id=_mlflow_experiment(), run_name=named or run_name)
    except MlflowException as error:
        raise TrackingError(f"cannot start a run: {without_secrets(str(error))}") from error
    if joins:
        _tidy_joined(run, run_name=run_name, named=named)
    with _ended_with_reason(run, experiment, kind):
        yield TrackedRun.of(run)
    mlflow.end_run("FINISHED")


def _tidy_joined(run: Run, *, run_name: str, named: str) -> None:
    """Name a run that nobody named, and take passwords out of what `mlflow run` noted."""
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    if named or _is_made_up(run.info.run_name):
        client.set_tag(run_id, "mlflow.runName", named or run_name)
    for key, value in run.data.tags.items():
        if without_secrets(value) != value:  # the URL of the git remote, for one
            client.set_tag(run_id, key, without_secrets(value))


@contextmanager
def _ended_with_reason(run: Run, experiment: Experiment, kind: str) -> Iterator[None]:
    """Tags that an open run has from its start; a failure inside closes it and says why."""
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    tags = {
        "aa.schema": contract.SCHEMA,
        "aa.kind": kind,
        "aa.complete": "0",
        "aa.prompts": experiment.name,
        "mlflow.note.content": escaped(experiment.question),
    }
    try:
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        with suppress(MlflowException):  # the first error is the one to hear about
            client.set_tag(run_id, "aa.exit", _reason(error))
            mlflow.end_run("KILLED" if interrupted else "FAILED")
        raise


def _is_made_up(name: str | None) -> bool:
    """Whether MLflow drew this name because nobody gave one: bemused-colt-123."""
    adjective, _, rest = (name or "").partition("-")
    noun, _, number = rest.partition("-")
    drawn = adjective in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS
    return not name or (drawn and number.isdecimal())


def _mlflow_experiment() -> str:
    """The id of the MLflow experiment that runs go into, made if it is not there."""
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or MLFLOW_EXPERIMENT
    found = mlflow.get_experiment_by_name(name) or _made_experiment(name)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted, and its name is still taken; bring it "
            f"back with\n    mlflow experiments restore --experiment-id {found.experiment_id}\n"
            f"or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    return found.experiment_id


def _made_experiment(name: str) -> MlflowExperiment:
    with suppress(MlflowException):  # where another process made it meanwhile
        mlflow.create_experiment(name, artifact_location=artifact_root())
    return mlflow.get_experiment_by_name(name)


def artifact_root() -> str | None:
    """Where artifacts go: beside the database, not below the current folder; a server knows."""
    database = _database(mlflow.get_tracking_uri())
    return (database.parent / "artifacts").as_uri() if database else None


def _reason(error: BaseException) -> str:
    return without_secrets(f"{type(error).__name__}: {error}")[: contract.LONGEST_TAG]


def tag_failure(error: BaseException) -> None:
    """Leave the reason in the run that ``mlflow run`` opened, where there is one."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        with suppress(MlflowException, TrackingError):
            connect()
            mlflow.MlflowClient().set_tag(run_id, "aa.exit", _reason(error))


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
        _close(run.run_id, failed)
        return [run.run_id]
    _log_parent(run.run_id, outcome, made_by, capture_run)
    children, all_failed = [], []
    for result in outcome.results:
        experiment = outcome.experiment.with_contrasts({result.contrast_name: result.contrast})
        child_outcome = replace(outcome, experiment=experiment, results=(result,))
        name = f"{outcome.run_name}·{result.contrast_name}"
        with (
            mlflow.start_run(experiment_id=run.experiment_id, run_name=name, nested=True) as child,
            _ended_with_reason(child, experiment, run.tags.get("aa.kind", "experiment")),
        ):
            run_id = child.info.run_id
            holder = capture_run or run.run_id
            failed = _log_contrast(run_id, child_outcome, result, made_by, holder)
            _close(run_id, failed)
        children.append(run_id)
        all_failed += [f"{result.contrast_name}/{what}" for what in failed]
    _close(run.run_id, all_failed)
    return children


def _log_contrast(
    run_id: str,
    outcome: Outcome,
    result: ContrastResult,
    made_by: Provenance,
    capture_run: str | None,
) -> list[str]:
    """One contrast into one run: numbers, then files; returns what could not be drawn."""
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
    return failed


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


def _log_numbers(
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


def _log_prompts(run_id: str, experiment: Experiment) -> None:
    """The prompt table as the run's dataset input."""
    dataset = mlflow.data.from_pandas(
        experiment.prompts.table,
        name=experiment.name,
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
            store = without_secrets(mlflow.get_tracking_uri())
            raise TrackingError(f"no run {reference} in {store}") from error
    runs = list_runs()
    if reference == "latest" and runs:
        return next((run for run in runs if run.parent_id is None), runs[0])
    found = [r for r in runs if r.run_id.startswith(reference) or r.name == reference]
    if len(found) == 1:
        return found[0]
    shown = [f"    {r.run_id}  {r.name}" for r in (found or runs)[:10]]
    problem = "more than one run is" if found else "no complete run is"
    raise TrackingError(
        f"{problem} called {reference!r} in {without_secrets(mlflow.get_tracking_uri())}; "
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
    conditions = [f"tags.`aa.{key}` = {_quoted(value)}" for key, value in wanted.items()]
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


def _quoted(value: str) -> str:
    """A text as MLflow's search takes it."""
    quote = '"' if "'" in value else "'"
    if quote in value:
        raise TrackingError(f"{value!r} holds both quotes, which MLflow's search cannot look for")
    return f"{quote}{value}{quote}"


@contextmanager
def stored(run: TrackedRun) -> Iterator[tuple[Path, Path]]:
    """Folders of the capture that a run rests on, and of its own experiment, for a while.

    Raises
    ------
    TrackingError
        If the run has no capture, or its artifacts cannot be found.
    """
    holder_id = run.tags.get("aa.capture_run", run.run_id)
    holder = run if holder_id == run.run_id else find_run(holder_id)
    with _spool() as folder:
        capture = _fetched(holder, "activations", folder)
        experiments = list(_fetched(run, "prompts", folder).glob("*/experiment.toml"))
        if len(experiments) != 1:
            raise TrackingError(f"{_placed(run)} holds {len(experiments)} experiments, not one")
        yield capture, experiments[0].parent


def _fetched(run: TrackedRun, part: str, folder: Path) -> Path:
    """A folder of a run's artifacts: itself where it is on this machine, else a copy."""
    place = local_artifacts(run)
    if place is not None:
        if not (place / part).is_dir():
            raise TrackingError(
                f"{_placed(run)} has no {part}: there is no {place / part}; "
                f"was the store moved, or was nothing recorded?"
            )
        return place / part
    folder.mkdir(exist_ok=True)
    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=run.run_id, artifact_path=part, dst_path=str(folder)
            )
        )
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{_placed(run)} has no {part} that can be fetched: {without_secrets(str(error))}"
        ) from error


def _placed(run: TrackedRun) -> str:
    return f"run {run.run_id} ({run.name}) in {without_secrets(mlflow.get_tracking_uri())}"


def local_artifacts(run: TrackedRun) -> Path | None:
    """Where a run's artifacts lie, or lay, on this machine; None where a server keeps them."""
    if run.artifact_uri.startswith("file:"):
        return Path(url2pathname(urlsplit(run.artifact_uri).path))
    return Path(run.artifact_uri) if run.artifact_uri.startswith("/") else None


def experiment_link(server: str) -> str:
    """The table of this project's runs; without its last part the UI opens in another mode."""
    return f"{server}/#/experiments/{_mlflow_experiment()}/runs?workflowType=machine_learning"
