"""A tracked run from its first tag to its last status."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from activation_analysis import contract
from activation_analysis.errors import TrackingError
from activation_analysis.experiment import Experiment
from activation_analysis.report.summary import escaped
from activation_analysis.tracking.connection import (
    connect,
    mlflow_experiment,
    offer_view,
    without_secrets,
)


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
            run = mlflow.start_run(experiment_id=mlflow_experiment(), run_name=named or run_name)
    except MlflowException as error:
        raise TrackingError(f"cannot start a run: {without_secrets(str(error))}") from error
    offer_view(run.info.experiment_id)
    if joins:
        _tidy_joined(run, run_name=run_name, named=named)
    with ended_with_reason(run, experiment, kind):
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
def ended_with_reason(run: Run, experiment: Experiment, kind: str) -> Iterator[None]:
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


def _reason(error: BaseException) -> str:
    return without_secrets(f"{type(error).__name__}: {error}").rstrip(": ")[: contract.LONGEST_TAG]


def tag_failure(error: BaseException) -> None:
    """Leave the reason in the run that ``mlflow run`` opened, where there is one."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        with suppress(MlflowException, TrackingError):
            connect()
            mlflow.MlflowClient().set_tag(run_id, "aa.exit", _reason(error))
