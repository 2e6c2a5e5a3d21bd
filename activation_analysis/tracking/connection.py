"""The store: which one, opened safely, and the MLflow experiment that runs go into."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.entities import Experiment as MlflowExperiment
from mlflow.exceptions import MlflowException

from activation_analysis.errors import TrackingError
from activation_analysis.tracking import runs_view
from activation_analysis.workspace import runs_folder

MLFLOW_EXPERIMENT = "activation_analysis"
SQLITE = "sqlite:///"


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


def mlflow_experiment() -> str:
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


def experiment_link(server: str) -> str:
    """The table of this project's runs, its columns chosen by `runs_view`.

    Without ``workflowType`` the UI opens in another mode.
    """
    experiment_id = mlflow_experiment()
    offer_view(experiment_id)
    page = f"{server}/#/experiments/{experiment_id}/runs"
    return f"{page}?workflowType=machine_learning&viewStateShareKey={runs_view.KEY}"


def offer_view(experiment_id: str) -> None:
    """Keep the saved view with an MLflow experiment; its runs show without it too."""
    with suppress(MlflowException):
        client = mlflow.MlflowClient()
        if client.get_experiment(experiment_id).tags.get(runs_view.TAG) != runs_view.shared_view():
            client.set_experiment_tag(experiment_id, runs_view.TAG, runs_view.shared_view())


@contextmanager
def spool() -> Iterator[Path]:
    """A folder of ``mlruns/spool`` that is gone once its content is logged."""
    place = runs_folder() / "spool"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder) / "run"
