"""Everything that one contrast leaves behind, as a folder that stands by itself.

layer_profile.png  summary.md  top_units.csv     at the root, where MLflow compares runs
tables/*.parquet   figures/*.png
activations/       the capture (`store`)         prompts/<experiment>/  what was asked
calibration.log    the run's own false positives
env/               versions, command, diff
manifest.json      SHA-256 of all of it, last: a folder without it is unfinished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from activation_analysis.activations import Activations
from activation_analysis.experiment import Experiment
from activation_analysis.provenance import Provenance
from activation_analysis.report.calibration import calibration_summary
from activation_analysis.report.summary import summary_markdown
from activation_analysis.results import ContrastResult
from activation_analysis.results.calibration import CalibratedContrast
from activation_analysis.store import copy_capture, write_activations, write_manifest


class Proof(Protocol):
    """What was checked of a model before it was recorded."""

    def summary(self) -> str: ...
    def to_json(self) -> str: ...


def write_result(folder: Path, result: ContrastResult) -> list[str]:
    """Tables, figures and the summary of one contrast; returns what could not be drawn."""
    from activation_analysis.figures import draw_all, save

    figures, tables = folder / "figures", folder / "tables"
    figures.mkdir(parents=True, exist_ok=True)
    tables.mkdir(exist_ok=True)
    failed = []
    for name, figure in draw_all(result, on_error=lambda n, e: failed.append(f"{n}: {e}")):
        try:
            save(figure, figures / f"{name}.png")
        except Exception as error:  # text that cannot be set only shows when it is drawn
            failed.append(f"{name}: {error}")
            (figures / f"{name}.png").unlink(missing_ok=True)
    if (figures / "layer_profile.png").is_file():
        shutil.copyfile(figures / "layer_profile.png", folder / "layer_profile.png")

    (folder / "summary.md").write_text(summary_markdown(result), encoding="utf-8")
    result.top_units.table().to_csv(folder / "top_units.csv", index=False)
    result.layer_table().to_parquet(tables / "layer_profile.parquet", index=False)
    result.top_units.table().to_parquet(tables / "top_units.parquet", index=False)
    result.balance.to_parquet(tables / "balance.parquet", index=False)
    if result.calibration is not None:
        result.calibration.table().to_parquet(tables / "calibration.parquet", index=False)
        log = "".join(f"{line}\n" for line in result.calibration.lines)
        (folder / "calibration.log").write_text(log, encoding="utf-8")
    for site, stat_map in result.maps.items():
        stat_map.table().to_parquet(tables / f"units_{site}.parquet", index=False)
    return failed


def write_calibration(folder: Path, of: CalibratedContrast) -> list[str]:
    """Tables, figures and the page of a calibration; returns what could not be drawn."""
    from activation_analysis.figures import CALIBRATION_FIGURES, save

    figures, tables = folder / "figures", folder / "tables"
    figures.mkdir(parents=True, exist_ok=True)
    tables.mkdir(exist_ok=True)
    failed = []
    for name, draw in CALIBRATION_FIGURES.items():
        try:
            save(draw(of), figures / f"{name}.png")
        except Exception as error:  # a figure is no reason to lose the numbers
            failed.append(f"{name}: {error}")
            (figures / f"{name}.png").unlink(missing_ok=True)
    (folder / "summary.md").write_text(calibration_summary(of), encoding="utf-8")
    of.calibration.table().to_csv(folder / "calibration.csv", index=False)
    of.calibration.layer_table().to_parquet(tables / "calibration_layers.parquet", index=False)
    of.calibration.p_value_table().to_parquet(tables / "calibration_p_values.parquet", index=False)
    return failed


def write_inputs(
    folder: Path, experiment: Experiment, activations: Activations, made_by: Provenance
) -> None:
    """The experiment as it ran, its prompts with their token counts, and what it ran on."""
    prompts = folder / "prompts" / experiment.name
    prompts.mkdir(parents=True, exist_ok=True)
    (prompts / "prompts.jsonl").write_text(experiment.prompts.to_jsonl(), encoding="utf-8")
    (prompts / "experiment.toml").write_text(
        experiment.to_toml(prompts="prompts.jsonl"), encoding="utf-8"
    )
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    tokens = experiment.prompts.table.assign(n_tokens=activations.n_tokens)
    tokens.to_parquet(tables / "prompts.parquet", index=False)

    env = folder / "env"
    env.mkdir(exist_ok=True)
    (env / "requirements.txt").write_text(made_by.requirements(), encoding="utf-8")
    about = {
        "code_version": made_by.version,
        "commit": made_by.commit,
        "dirty": made_by.dirty,
        "command": made_by.command,
        "python": made_by.python,
        "machine": made_by.machine,
        "capture": dict(activations.details),
    }
    (env / "run.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf-8")
    if made_by.diff:
        (env / "git.diff").write_text(made_by.diff, encoding="utf-8")


def write_capture(folder: Path, activations: Activations, stored: Path | None = None) -> None:
    """The activations themselves, with their own manifest; a copy of the stored capture, if any."""
    if stored is None:
        write_activations(folder / "activations", activations)
    else:
        copy_capture(stored, folder / "activations")


def write_capture_log(folder: Path, proof: Proof | None, notes: Sequence[str]) -> None:
    """What was proved of the model before it was recorded, and what was said meanwhile."""
    env = folder / "env"
    env.mkdir(exist_ok=True)
    lines = [*([] if proof is None else [proof.summary()]), *notes]
    (env / "capture.log").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if proof is not None:
        (env / "proof.json").write_text(proof.to_json(), encoding="utf-8")


def seal(folder: Path, *, run_id: str, schema: str, proof: str = "") -> Path:
    """Write the manifest of the whole folder, after which nothing is added; returns it."""
    return write_manifest(folder, {"run_id": run_id, "schema": schema, "proof": proof})
