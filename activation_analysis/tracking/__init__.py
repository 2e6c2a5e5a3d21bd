"""Runs in MLflow: the only room that imports it. Names follow `contract.py`.

One run holds one model x one prompt set x one contrast. An experiment with several contrasts is a
parent run with one child per contrast; the capture then lies with the parent.

Comparisons select by tags only: ``aa.complete = 1`` and status FINISHED.
"""

from activation_analysis.tracking.calibrations import log_calibration
from activation_analysis.tracking.connection import (
    artifact_root,
    connect,
    experiment_link,
    without_secrets,
)
from activation_analysis.tracking.outcomes import log_outcome
from activation_analysis.tracking.runs import TrackedRun, tag_failure, tracked_run
from activation_analysis.tracking.search import find_run, list_runs, local_artifacts, stored

__all__ = [
    "TrackedRun",
    "artifact_root",
    "connect",
    "experiment_link",
    "find_run",
    "list_runs",
    "local_artifacts",
    "log_calibration",
    "log_outcome",
    "stored",
    "tag_failure",
    "tracked_run",
    "without_secrets",
]
