#!/usr/bin/env python
"""Run an experiment, or analyse again what an earlier run recorded.

    python scripts/run_experiments.py --experiment math --model gpt2
    python scripts/run_experiments.py --experiment math --load

The first records the model and tracks the run; with --load the newest tracked run of that
experiment (and model, if one is named) is analysed again and no model is loaded. Names may be
shortened: math is math_vs_nonmath. Everything else: activation-analysis --help.
"""

from __future__ import annotations

import argparse
import sys

from activation_analysis import load_experiment
from activation_analysis.cli import main as activation_analysis
from activation_analysis.errors import InputError, TrackingError
from activation_analysis.workspace import experiment_roots


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", default="math", help="name, or the beginning of one")
    parser.add_argument("--model", default="", help="alias, hub id, folder or .gguf file")
    parser.add_argument("--load", action="store_true", help="analyse what was recorded before")
    args = parser.parse_args()
    if not args.load:
        return activation_analysis(["run", args.experiment, "--model", args.model])
    try:
        run_id = newest_run(args.experiment, args.model)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return activation_analysis(["analyze", run_id])


def newest_run(experiment: str, model: str) -> str:
    """The id of the newest complete run of an experiment."""
    from activation_analysis.tracking import list_runs

    name = load_experiment(experiment, experiment_roots()).name
    wanted = {"prompts": name} | ({"model": model} if model else {})
    # Of several contrasts the parent, which has them all.
    runs = [run for run in list_runs(**wanted) if run.parent_id is None]
    if not runs:
        of_model = f" with model {model!r}" if model else ""
        raise TrackingError(
            f"no complete run of {name!r}{of_model} to load; record one first: "
            f"python scripts/run_experiments.py --experiment {experiment}"
        )
    return runs[0].run_id


if __name__ == "__main__":
    sys.exit(main())
