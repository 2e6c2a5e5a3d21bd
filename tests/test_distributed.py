"""Runs by several real processes, as `accelerate launch` starts them; gloo between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from workbench import clean_environment, free_port, fresh_store, write_prompts

from activation_analysis import tracking

LAUNCHED = Path(__file__).with_name("launched.py")
N_PROMPTS = {"sea": 20, "land": 21}


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """A folder with prompts, an empty MLflow store and no captures."""
    store = fresh_store(tmp_path_factory.getbasetemp())
    (tmp_path / "mlflow.db").write_bytes(store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    write_prompts(tmp_path / "p.csv", N_PROMPTS)
    return tmp_path


def launched(
    place: Path, model: Path, n: int, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of n processes on this machine's processor."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(n)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--multi_gpu", "--main_process_port", str(free_port())] if n > 1 else []
    command = [str(LAUNCHED), "run", "p.csv", "--model", str(model), "--sites", "mlp,residual"]
    return subprocess.run(
        [*launch, *command, "--position", "mean", "--batch-tokens", "40", *options],
        cwd=place,
        env=clean_environment(
            MLFLOW_TRACKING_URI=f"sqlite:///{place / 'mlflow.db'}",
            ACTIVATION_ANALYSIS_CAPTURES=str(place / f"captures-{environment.pop('AT', n)}"),
            SHARDS=str(place / "shards"),
            PYTHONPATH=str(LAUNCHED.parent.parent),
            **environment,
        ),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def capture_in(place: Path, at: object) -> dict[str, bytes]:
    """Every file of the one capture, the lock left out."""
    (folder,) = (place / f"captures-{at}").iterdir()
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != ".lock"}


def shards_written(place: Path) -> list[int]:
    """In the order written, since the last call."""
    file = place / "shards"
    numbers = [int(line) for line in file.read_text().split()] if file.exists() else []
    file.unlink(missing_ok=True)
    return numbers


def units_of(run: tracking.TrackedRun) -> pd.DataFrame:
    return pd.read_parquet(tracking.local_artifacts(run) / "tables" / "units_mlp.parquet")


def test_any_number_of_processes_gives_the_same_bytes_and_one_run(place, saved_gpt2):
    captures, tables = [], []
    for n in (1, 2, 3):
        answer = launched(place, saved_gpt2, n)
        assert answer.returncode == 0, answer.stderr
        captures.append(capture_in(place, n))
        written = shards_written(place)
        assert sorted(written) == list(range(len(written)))  # every one once
        assert len(written) > 3
        runs = tracking.list_runs()
        assert len(runs) == n  # one more
        tables.append(
            pd.read_parquet(tracking.local_artifacts(runs[0]) / "tables/units_mlp.parquet")
        )
    assert captures[0] == captures[1] == captures[2]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)


def test_a_process_that_dies_ends_the_others_and_any_number_goes_on(place, saved_gpt2):
    answer = launched(place, saved_gpt2, 3, AT="broken", DIES="1")
    assert answer.returncode != 0
    assert "another process of this run ended" in answer.stderr
    assert "what is finished is kept" in answer.stderr
    assert tracking.list_runs() == []
    before = shards_written(place)
    assert before
    answer = launched(place, saved_gpt2, 2, AT="broken")
    assert answer.returncode == 0, answer.stderr
    assert "were finished before and kept" in answer.stderr
    after = shards_written(place)
    assert not set(before) & set(after)
    assert len(tracking.list_runs()) == 1
    answer = launched(place, saved_gpt2, 1, AT="whole")
    assert answer.returncode == 0, answer.stderr
    assert sorted(shards_written(place)) == sorted(before + after)
    assert capture_in(place, "broken") == capture_in(place, "whole")


def test_streams_of_several_processes_merge(place, saved_gpt2):
    tables = []
    for n in (1, 2):
        answer = launched(place, saved_gpt2, n, "--stream")
        assert answer.returncode == 0, answer.stderr
        tables.append(units_of(tracking.list_runs()[0]))
        assert not any((place / f"captures-{n}").glob("*"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-6, atol=1e-9)


def test_a_mistake_is_told_once(place, saved_gpt2):
    answer = launched(place, saved_gpt2, 2, "--layers", "99")
    assert answer.returncode != 0
    assert answer.stderr.count("error: no layer 99") == 1
