"""A calibration into its run: numbers, figures, a page, and the prompts it was made with."""

from __future__ import annotations

import math
import time

from mlflow.entities import Metric

from activation_analysis import contract
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance
from activation_analysis.report import run_folder
from activation_analysis.results.calibration import CalibratedContrast
from activation_analysis.tracking.connection import spool
from activation_analysis.tracking.outcomes import close, log_folder, log_numbers, log_prompts
from activation_analysis.tracking.runs import TrackedRun


def log_calibration(
    run: TrackedRun,
    outcome: Outcome,
    of: CalibratedContrast,
    made_by: Provenance,
    *,
    capture_run: str | None,
    n_relabellings: int,
) -> None:
    """Log a calibration into its open run.

    Parameters
    ----------
    outcome : the experiment and the recording, without results
    capture_run : the run whose artifacts hold the capture, if any
    """
    c = of.calibration
    own = {
        "contrast": of.contrast,
        "calibration.relabellings": str(n_relabellings),
        "calibration.n_units": str(c.n_units),
        "calibration.n_permutations": str(c.n_permutations),
    }
    page = contract.tags(outcome, made_by, None, run.run_id, capture_run or "")
    page |= contract.calibration_tags(of)
    log_numbers(
        run.run_id,
        metrics=_metrics(of),
        params=contract.params(outcome, made_by) | own,
        tags={name: text for name, text in page.items() if text},
    )
    log_prompts(run.run_id, outcome.experiment)
    with spool() as folder:
        failed = run_folder.write_calibration(folder, of)
        log_folder(run.run_id, folder, outcome, made_by, with_capture=False)
    close(run.run_id, failed)


def _metrics(of: CalibratedContrast) -> list[Metric]:
    now = int(time.time() * 1000)
    points = [
        Metric(key, float(value), now, int(layer))
        for key, (layers, values) in of.series().items()
        for layer, value in zip(layers, values, strict=True)
    ]
    points += [Metric(k, float(v), now, 0) for k, v in of.calibration.metrics().items()]
    return [point for point in points if math.isfinite(point.value)]
