#!/usr/bin/env python
"""Write docs/experiments.md and its figures from tracked runs, one run an experiment.

    python scripts/experiments_page.py --run     # run every experiment first (10 minutes)
    python scripts/experiments_page.py           # from the newest complete run of each

Nothing on the page is typed in: the findings, the accuracy of the bag-of-words decoder and the
curves come from the store. An experiment without a complete run is named and left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd

from activation_analysis.cli import main as activation_analysis
from activation_analysis.experiment import Experiment, list_experiments, read_experiment
from activation_analysis.figures.gallery import save
from activation_analysis.figures.overview import overview
from activation_analysis.options import ModelOptions
from activation_analysis.tracking import TrackedRun, list_runs

ROOT = Path(__file__).resolve().parent.parent
DPI = 100


@dataclass(frozen=True)
class Section:
    """What the page says of one experiment."""

    experiment: Experiment
    run: TrackedRun
    finding: str
    surface: str


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="run every experiment first")
    parser.add_argument("--model", default=ModelOptions().id)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    folders = list_experiments([ROOT / "experiments"])
    if args.run:
        failed = [n for n in folders if activation_analysis(["run", n, "--model", args.model])]
        if failed:
            print(f"error: did not run: {', '.join(failed)}", file=sys.stderr)
            return 1
    sections, missing = [], []
    for name, folder in folders.items():
        experiment = read_experiment(folder)
        run = first_contrast(experiment, args.model)
        if run is None:
            missing.append(name)
            continue
        sections.append(section_of(experiment, run))
        draw(run, args.docs / "images" / f"experiment_{name}.png")
    for name in missing:
        print(f"left out, no complete run of model {args.model!r}: {name}", file=sys.stderr)
    (args.docs / "experiments.md").write_text(page(sections), encoding="utf-8")
    return 1 if missing else 0


def first_contrast(experiment: Experiment, model: str) -> TrackedRun | None:
    """The newest complete run of the experiment's first contrast, on its prompts as they are."""
    wanted = {"prompts": experiment.name, "model": model, "kind": "experiment"}
    for run in list_runs(**wanted):
        same = run.params.get("prompts.sha256") == experiment.prompts.fingerprint
        if same and run.tags.get("aa.contrast") == experiment.contrasts[0].expression:
            return run
    return None


def section_of(experiment: Experiment, run: TrackedRun) -> Section:
    """The first and the surface sentence of the run's own summary."""
    summary = Path(artifact(run, "summary.md")).read_text(encoding="utf-8")
    finding, _, rest = summary.partition("\n\n")
    surface = re.search(r"^Surface baseline: (.*)$", rest, re.MULTILINE)
    return Section(experiment, run, finding, surface[1] if surface else "no surface baseline.")


def draw(run: TrackedRun, path: Path) -> None:
    layers = pd.read_parquet(artifact(run, "tables/layer_profile.parquet"))
    accuracy = run.metrics.get("surface_accuracy", float("nan"))
    chance = run.metrics.get("surface_chance", float("nan"))
    save(overview(layers, accuracy=accuracy, chance=chance), path, dpi=DPI)


def artifact(run: TrackedRun, path: str) -> str:
    """A local copy of one of the run's artifacts."""
    return mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path=path)


def page(sections: list[Section]) -> str:
    """The whole page as Markdown."""
    model = sections[0].run.params["model.id"] if sections else ""
    parts = [
        "# The experiments and what they find\n\n"
        "Written by `scripts/experiments_page.py` from tracked runs of the embedded model "
        f"(`{model}`, every site, last token). Each experiment's own README says how its prompts "
        "were made and what it cannot show. *Words alone* is the cross-validated accuracy of a "
        "decoder that sees which words a prompt has and nothing else; the dashed line is chance. "
        "Where it is near 100 %, a map may show wording or topic and nothing deeper; where it is "
        "at chance, which words occur does not explain a map, though their order may. Of several "
        "contrasts the first is shown.",
        table(sections),
    ]
    for one in sections:
        name = one.experiment.name
        parts.append(
            f"## {name}\n\n[{one.experiment.question}](../experiments/{name}/README.md)\n\n"
            f"![profiles over layers](images/experiment_{name}.png)\n\n"
            f"{one.finding} Words alone: {one.surface}"
        )
    return "\n\n".join(parts) + "\n"


def table(sections: list[Section]) -> str:
    """One row an experiment: what was tested, how much differs, what words alone tell."""
    rows = [
        "| experiment | contrast | prompts | test | units that differ | words alone (chance) |",
        "|---|---|---|---|---|---|",
    ]
    for one in sections:
        metrics, params = one.run.metrics, one.run.params
        found = sum(v for k, v in metrics.items() if k.startswith("n_significant/"))
        tested = re.search(r"of ([\d,]+) units", one.finding)
        n_tested = int(tested[1].replace(",", "")) if tested else 0
        contrast = one.experiment.contrasts[0].expression.replace("|", "\\|")
        test = re.search(r"differ \(([\w\\]+),", one.finding)
        rows.append(
            f"| [{one.experiment.name}](#{one.experiment.name}) | {contrast} "
            f"| {sum(int(v) for k, v in params.items() if k.startswith('prompts.n_'))} "
            f"| {test[1] if test else params['analysis.test']} "
            f"| {found:,.0f} of {n_tested:,} ({100 * found / max(n_tested, 1):.0f} %) "
            f"| {100 * metrics.get('surface_accuracy', float('nan')):.0f} % "
            f"({100 * metrics.get('surface_chance', float('nan')):.0f} %) |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
