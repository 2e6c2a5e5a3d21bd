"""Time and memory of `activation-analysis check` on many prompts, beside one bare reading of them.

    python -m benchmarks.check                    # a million prompts of 100 characters
    python -m benchmarks.check --prompts 100000 --rounds 3

Every round runs, each in a process of its own: Python's csv reader over the file and nothing else,
and the command as a user types it. The ratio is taken within the round; memory is the peak of the
process. The goal for a million: under 500 MB and 60 s.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [a + b + c for a in "bdfgklmnprstvz" for b in ("a", "en", "or", "ist") for c in ("", "ly")]
GOAL_MB, GOAL_SECONDS = 500, 60
BARE = "import csv, sys\nfor row in csv.reader(open(sys.argv[1], newline='')): pass\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.csv"
        write_prompts(path, args.prompts)
        print(f"{args.prompts:,} prompts, {path.stat().st_size / 1e6:.0f} MB")
        taken, ratios, peaks = [], [], []
        for _ in range(args.rounds):
            bare, _ = measured([sys.executable, "-c", BARE, str(path)])
            check = [sys.executable, "-m", "activation_analysis", "check", str(path)]
            seconds, peak = measured(check)
            taken.append(seconds)
            ratios.append(seconds / bare)
            peaks.append(peak)
            print(f"  {seconds:.1f} s, {seconds / bare:.1f} times a bare reading, {peak:.0f} MB")
    print(
        f"median {statistics.median(taken):.1f} s (goal {GOAL_SECONDS}), "
        f"{statistics.median(ratios):.1f} times a bare reading, "
        f"at most {max(peaks):.0f} MB (goal {GOAL_MB})"
    )


def write_prompts(path: Path, n_prompts: int) -> None:
    """Two conditions of made-up sentences, about 100 characters each."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["condition", "prompt", "topic"])
        for row in range(n_prompts):
            words = draw.choices(WORDS, k=draw.randint(17, 27))
            writer.writerow(["ab"[row % 2], " ".join(words).capitalize() + ".", f"t{row % 7}"])


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a process of its own."""
    code = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    unit = 1e-6 if sys.platform == "darwin" else 1.024e-3
    return time.perf_counter() - began, int(run.stdout) * unit


if __name__ == "__main__":
    main()
