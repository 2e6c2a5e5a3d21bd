"""The arithmetic of the benchmarks; no test asserts a time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from workbench import ROOT, clean_environment

from benchmarks import capture as benchmark
from benchmarks import peers


def test_every_arm_runs_once_a_round_in_an_order_drawn_anew():
    order = []
    arms = {name: lambda name=name: order.append(name) for name in "abcde"}
    seconds = benchmark.interleaved(arms, 4)
    rounds = [order[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == list("abcde") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abcde", 4)


def test_ratios_are_taken_within_their_round():
    seconds = {"ours": [1.0, 9.0, 4.0], "bare": [2.0, 10.0, 8.0]}
    assert benchmark.ratios(seconds, "ours", "bare") == (0.5, 0.5, 0.9)


def test_the_megabytes_of_a_result_are_counted():
    class Recorded:
        values = {"mlp": {0: np.zeros((250, 1000), np.float32)}}  # noqa: RUF012

    assert benchmark._megabytes({"last": Recorded(), "mean": Recorded()}) == pytest.approx(2.0)
    assert benchmark._megabytes(None) == 0


def test_pads_that_speak_are_counted_and_masked_ones_are_not(monkeypatch):
    from tiny_models import SENTENCES, n_hooks, tiny_model, tiny_tokenizer

    from activation_analysis.models.capture import ActivationCapture

    capture = ActivationCapture(tiny_model("llama"), tokenizer=tiny_tokenizer(), progress=False)
    texts = [*SENTENCES, "Hi"]
    usual = "output_hidden_states, batches of 16 in order"
    arms = ["hooks, one prompt at a time", usual, f"{usual}, masked"]
    monkeypatch.setattr(peers, "installed", lambda: arms)
    longest = max(len(ids) for ids in capture.tokenizer(texts)["input_ids"])
    padded = sum(len(ids) < longest for ids in capture.tokenizer(texts)["input_ids"])
    assert peers.wrong_prompts(capture, texts) == {arms[0]: 0, usual: padded, arms[2]: 0}
    assert n_hooks(capture.model) == 0


def test_the_command_explains_itself():
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.capture", "--help"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the bare forward" in answer.stdout.lower()
    assert "--peers" in answer.stdout
