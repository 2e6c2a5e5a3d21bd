"""Finding runs, and what they stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.exceptions import MlflowException

from activation_analysis import contract
from activation_analysis.errors import TrackingError
from activation_analysis.store import digest
from activation_analysis.tracking.connection import connect, spool, without_secrets
from activation_analysis.tracking.runs import TrackedRun


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
        experiments = [r for r in runs if r.tags.get("aa.kind") != "calibration"] or runs
        return next((run for run in experiments if run.parent_id is None), experiments[0])
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
    with spool() as folder:
        capture = _capture(holder, folder)
        experiments = list(_fetched(run, "prompts", folder).glob("*/experiment.toml"))
        if len(experiments) != 1:
            raise TrackingError(f"{_placed(run)} holds {len(experiments)} experiments, not one")
        yield capture, experiments[0].parent


def _capture(run: TrackedRun, folder: Path) -> Path:
    """The capture among a run's artifacts; in the store, where it was too large for them."""
    uri, stated = run.tags.get("aa.capture_uri", ""), run.tags.get("aa.capture_digest", "")
    place = local_artifacts(run)
    if not uri or (place is not None and (place / "activations").is_dir()):
        return _fetched(run, "activations", folder)
    try:
        return _fetched(run, "activations", folder)
    except TrackingError:
        kept = Path(url2pathname(urlsplit(uri).path))
    if not kept.is_dir():
        raise TrackingError(
            f"{_placed(run)}: its capture was too large to be uploaded and is no more at {kept}; "
            f"record it again"
        )
    if digest(kept) != stated:
        raise TrackingError(
            f"{_placed(run)}: the capture at {kept} is not the one that was recorded (SHA-256 of "
            f"its manifest differs); record it again"
        )
    return kept


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
