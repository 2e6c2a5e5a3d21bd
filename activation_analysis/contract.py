"""The names of everything tracked: one contract, so that runs can be compared by name.

    per layer, step = layer   <site>/<statistic>, and depth
    calibration               calibration/<rate>, calibration/<rate>/<null>
    stepless companions       peak_layer/<site>, peak_depth/<site>, n_significant/<site>, ...
    params                    model.*, prompts.*, contrast, capture.*, analysis.*, code.version,
                              and every leaf of the experiment file under its own name
    tags                      aa.*

A change of any name or meaning bumps `SCHEMA`.
"""

from __future__ import annotations

import colorsys
import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator

import numpy as np

from activation_analysis.activations import relative_depth
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance
from activation_analysis.report.calibration import calibration_summary
from activation_analysis.report.summary import findings_markdown, summary_markdown
from activation_analysis.results import ContrastResult
from activation_analysis.results.calibration import CalibratedContrast
from activation_analysis.store import digest

SCHEMA = "1"
LONGEST_KEY = 250
LONGEST_PARAM = 6000  # MLflow cuts longer ones with only a warning
LONGEST_TAG = 5000


def series(result: ContrastResult) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Key, layers and values of every chart whose x axis is the layer."""
    profiles = list(result.profiles.values())
    layers = np.unique(np.concatenate([p.layer for p in profiles]))
    yield "depth", layers, relative_depth(layers, profiles[0].n_layers)
    for profile in profiles:
        for key, values in profile.metrics().items():
            yield key, profile.layer, values


def summaries(result: ContrastResult) -> dict[str, float]:
    """One number each, since tables of runs show only the last step of a series."""
    return result.metrics()


def params(
    outcome: Outcome, made_by: Provenance, result: ContrastResult | None = None
) -> dict[str, str]:
    """What was asked for; the contract's names win over the experiment file's."""
    experiment, activations = outcome.experiment, outcome.activations
    analysis = experiment.analysis
    named = {
        "model.id": activations.model,
        "model.revision": activations.details.get("revision", ""),
        "model.sha256": activations.details.get("sha256", ""),
        "model.n_layers": activations.n_layers,
        "model.dtype": activations.details.get("dtype", ""),
        "prompts.set": experiment.name,
        "prompts.sha256": experiment.prompts.fingerprint,
        "capture.sites": ",".join(activations.sites),
        "capture.position": activations.position,
        "analysis.test": analysis.test,
        "analysis.control": analysis.control,
        "analysis.alpha": analysis.alpha,
        "analysis.seed": experiment.seed,
        "code.version": made_by.version,
        "code.commit": made_by.commit,
    }
    named |= {f"prompts.n_{c}": n for c, n in experiment.prompts.counts.items()}
    if result is not None:
        named["contrast"] = result.contrast
    merged = experiment.leaves() | named
    del merged["seed"]  # is analysis.seed, and a parameter of `mlflow run`
    return {
        key: _cut(str(value), LONGEST_PARAM)
        for key, value in zip(_keys(merged), merged.values(), strict=True)
    }


def tags(
    outcome: Outcome,
    made_by: Provenance,
    result: ContrastResult | None,
    run_id: str,
    capture_run: str,
) -> dict[str, str]:
    """What scripts select runs by; the note is the run's page, its finding first."""
    if result is not None:
        note = summary_markdown(result)
    else:
        note = findings_markdown(outcome.experiment.question, outcome.results)
    named = {
        "aa.schema": SCHEMA,
        "aa.model": outcome.activations.model,
        "aa.prompts": outcome.experiment.name,
        "aa.capture": outcome.capture_key,
        "aa.capture_run": capture_run,
        "aa.proof": outcome.proven,
        "git.dirty": str(made_by.dirty).lower(),
        "mlflow.runColor": _colour(run_id),
        "mlflow.note.content": note,
    }
    if result is not None:
        named["aa.contrast"] = result.contrast
    if outcome.capture_folder is not None:
        named["aa.capture_uri"] = outcome.capture_folder.resolve().as_uri()
        named["aa.capture_digest"] = digest(outcome.capture_folder)
    return {name: _cut(text, LONGEST_TAG) for name, text in named.items()}


def calibration_tags(of: CalibratedContrast) -> dict[str, str]:
    """What a calibration run has of its own: contrast, verdict and page."""
    return {
        "aa.contrast": _cut(of.contrast, LONGEST_TAG),
        "aa.calibration": of.calibration.verdict,
        "mlflow.note.content": _cut(calibration_summary(of), LONGEST_TAG),
    }


def _keys(names: Iterable[str]) -> list[str]:
    """Names as MLflow takes them for keys; no two become one."""
    keys: list[str] = []
    for name in names:
        key = _key(name)
        if key in keys:
            key = f"{key[: LONGEST_KEY - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        keys.append(key)
    return keys


def _key(name: str) -> str:
    """A name with only the signs that MLflow takes in keys, not too long, no odd path."""
    key = re.sub(r"[^\w.\- :/]", "_", name)[:LONGEST_KEY]
    return key if posixpath.normpath(key) == key else key.replace("/", "_")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _colour(run_id: str) -> str:
    """A colour that a run keeps in every chart."""
    hue = int(hashlib.sha256(run_id.encode()).hexdigest()[:4], 16) / 0x10000
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.42, 0.65))
    return f"#{red:02x}{green:02x}{blue:02x}"
