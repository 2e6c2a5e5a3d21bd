"""Hub ids: cached models need no network, absent ones say how to get them, new ones arrive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fake_hub
import huggingface_hub
import pytest

from activation_analysis.errors import ModelError
from activation_analysis.models import loading
from activation_analysis.models.capture import ActivationCapture
from activation_analysis.models.embedded import file_sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(saved_gpt2, tmp_path) -> Path:
    """A Hugging Face home with org/tiny and org/pickled, laid out as huggingface_hub does."""
    hub = tmp_path / "home" / "hub"
    tiny, pickled = (
        hub / f"models--org--{name}" / "snapshots" / COMMIT for name in ("tiny", "pickled")
    )
    blobs = tiny.parent.parent / "blobs"
    for folder in (tiny, pickled, blobs):
        folder.mkdir(parents=True)
    for file in saved_gpt2.iterdir():
        blob = blobs / file_sha256(file)
        shutil.copy(file, blob)
        (tiny / file.name).symlink_to(os.path.relpath(blob, tiny))
    (pickled / "pytorch_model.bin").write_bytes(b"")
    for snapshot in (tiny, pickled):
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text(COMMIT)
    return tmp_path / "home"


def run(code: str, **environment: str) -> dict:
    """What a fresh interpreter prints as JSON, without this one's hub settings."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**known, "NO_PROXY": "*", "no_proxy": "*", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RECORD = """
    import json, socket
    from activation_analysis.errors import ModelError
    from activation_analysis.models.capture import ActivationCapture
    from activation_analysis.models.loading import resolve

    answer = {}
    def record(name):
        recorded = ActivationCapture(name, progress=False).capture_batch(["The sea"], ["mlp"])
        answer[name] = {"sum": float(recorded.matrix().sum()), **recorded.details}
    def refused(name, **options):
        try:
            resolve(name, **options)
        except ModelError as error:
            answer[name] = str(error)
"""
OFFLINE = f"""{RECORD}
    asked = answer["asked"] = []
    def refuse(self, address):
        asked.append(str(address))
        raise ConnectionRefusedError("no network in this test")
    socket.socket.connect = socket.socket.connect_ex = refuse

    record("org/tiny")
    refused("org/absent")
    refused("org/pickled")
    print(json.dumps(answer))
"""
ONLINE = f"""{RECORD}
    record("org/tiny")
    record("org/served")
    answer["served"] = answer.pop("org/served")
    refused("org/absent")
    refused("org/served", revision="elsewhere")
    print(json.dumps(answer))
"""


def expected_sum(saved_gpt2) -> float:
    capture = ActivationCapture(saved_gpt2, progress=False)
    return float(capture.capture_batch(["The sea"], ["mlp"]).matrix().sum())


def test_a_cached_model_is_recorded_offline_without_one_socket_call(hub_cache, saved_gpt2):
    answer = run(OFFLINE, HF_HOME=str(hub_cache), HF_HUB_OFFLINE="1")
    assert answer["asked"] == []
    tiny = answer["org/tiny"]
    assert tiny["sum"] == pytest.approx(expected_sum(saved_gpt2), rel=1e-4)
    assert tiny["revision"] == COMMIT
    assert tiny["sha256"] == file_sha256(saved_gpt2 / "model.safetensors")
    assert answer["org/absent"] == (
        "'org/absent' is not in the local cache and the hub is offline:\n"
        "    on a machine with network: hf download org/absent\n"
        "    then copy its folder here and name the folder, "
        "or use the embedded model: --model smollm2-135m"
    )
    assert "pickled weights (.bin, .pt) can run code" in answer["org/pickled"]


def test_a_new_model_is_fetched_and_a_cached_one_is_not_asked_for(hub_cache, saved_gpt2):
    with fake_hub.serving(saved_gpt2) as hub:
        answer = run(ONLINE, HF_HOME=str(hub_cache), HF_ENDPOINT=hub.endpoint)
    assert answer["org/tiny"]["revision"] == COMMIT
    assert not [path for path in hub.asked if "org/tiny" in path]
    served = answer["served"]
    assert served["sum"] == pytest.approx(expected_sum(saved_gpt2), rel=1e-4)
    assert served["revision"] == fake_hub.COMMIT
    assert served["sha256"] == file_sha256(saved_gpt2 / "model.safetensors")
    assert answer["org/absent"].startswith("no model 'org/absent' on the hub or here\n")
    assert answer["org/served"] == (
        "model 'org/served' has no branch, tag or commit 'elsewhere' on the hub"
    )


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def test_an_unreachable_hub_is_one_clear_message(empty_cache, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionRefusedError("[Errno 111]")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"cannot be reached \(ConnectionRefusedError\); to get"):
        loading.resolve("org/absent")


def test_a_silent_hub_is_not_waited_for(empty_cache, monkeypatch):
    monkeypatch.setattr(loading, "HUB_PATIENCE", 0.05)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(0.5))
    with pytest.raises(ModelError, match="the hub did not answer in 0 s; to get it:"):
        loading.resolve("org/absent")


def test_a_half_downloaded_model_is_not_taken_for_whole(empty_cache, saved_gpt2, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = empty_cache / "models--org--half" / "snapshots" / COMMIT
    shutil.copytree(saved_gpt2, snapshot)
    (empty_cache / "models--org--half" / "refs").mkdir()
    (empty_cache / "models--org--half" / "refs" / "main").write_text(COMMIT)
    assert loading.resolve("org/half").revision == COMMIT
    assert loading.resolve("org/half", revision=COMMIT).local
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is not in the local cache"):
        loading.resolve("org/half")
