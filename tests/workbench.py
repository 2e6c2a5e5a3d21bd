"""Prompts, recordings and stores that the tests of pipeline, tracking and command line share."""

from __future__ import annotations

import csv
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from activation_analysis.activations import Activations
from activation_analysis.errors import PromptError
from activation_analysis.experiment import Experiment
from activation_analysis.prompts import read_prompts

ROOT = Path(__file__).resolve().parent.parent
LAYERS, WIDTH = 4, 25
WORDS = ("sea", "sky", "winter", "letter", "friend", "stone", "river", "window", "lamp", "road")


def problems(paths, **options) -> list[str]:
    """What `read_prompts` finds wrong, a line each."""
    with pytest.raises(PromptError) as caught:
        read_prompts(paths, **options)
    return str(caught.value).split("\n")


def prompts_of(condition: str, n: int) -> list[str]:
    """Short texts, all different, of the same length in every condition."""
    return [
        f"{condition} {WORDS[i % 10]} {WORDS[(i // 10 + i + 1) % 10]} {i:03d}" for i in range(n)
    ]


def write_prompts(
    path: Path, conditions: Mapping[str, int] | Sequence[str], **columns: Sequence[str]
) -> Path:
    """A CSV file with so many prompts of each condition (9 where only names are given)."""
    counts = conditions if isinstance(conditions, Mapping) else dict.fromkeys(conditions, 9)
    rows = [(c, text) for c, n in counts.items() for text in prompts_of(f"c{len(c)}", n)]
    rows = [(c, f"{text} {i:03d}") for i, (c, text) in enumerate(rows)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["condition", "prompt", *columns])
        for i, row in enumerate(rows):
            writer.writerow([*row, *(values[i] for values in columns.values())])
    return path


def synthetic_recording(
    experiment: Experiment,
    *,
    planted: Mapping[tuple[str, int], float] | None = None,
    condition: str = "",
    sites: Sequence[str] = ("residual", "mlp"),
    seed: int = 0,
) -> Activations:
    """Normal noise at every unit; ``planted[site, layer]`` is added to one condition."""
    rng = np.random.default_rng(seed)
    prompts = experiment.prompts
    values = {
        site: {
            k: rng.standard_normal((len(prompts), WIDTH)).astype(np.float32) for k in range(LAYERS)
        }
        for site in sites
    }
    if planted:
        rows = prompts.rows_of(condition)
        for (site, layer), shift in planted.items():
            values[site][layer][rows] += shift
    return Activations(
        prompts=prompts.texts,
        n_tokens=rng.integers(5, 9, len(prompts)),
        position="last",
        model="synthetic/noise",
        n_layers=LAYERS,
        values=values,
        details={"sha256": "0" * 64, "dtype": "float32", "revision": ""},
    )


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what an outer run or a user's settings would add."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTEST_"))}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m activation_analysis ...`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "activation_analysis", *arguments],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@cache
def fresh_store(folder: Path) -> Path:
    """An empty MLflow database, made by two processes at once; copying it takes no time."""
    file = folder / "fresh" / "mlflow.db"
    code = (
        "from activation_analysis import tracking; tracking.connect(); "
        "print(tracking.connection.mlflow_experiment())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=clean_environment(MLFLOW_TRACKING_URI=f"sqlite:///{file}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1, answers
    connection = sqlite3.connect(file)
    with connection:  # a copy's own experiment keeps its artifacts beside the copy
        connection.execute("delete from experiments where name = 'activation_analysis'")
    connection.close()
    return file


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_until(condition, *, seconds: float = 60, process: subprocess.Popen | None = None) -> bool:
    """Whether it came true in time, and before the process ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real tracking server on a free port of this machine; yields its URL."""
    port = free_port()
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", str(folder / "served"), "--workers", "1"),
            ],
            cwd=folder,
            env=clean_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        up = wait_until(lambda: answers(f"{url}/health"), process=server)
        assert up, (folder / "server.log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
