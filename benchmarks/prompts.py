"""Prompts of stated lengths, made of the experiments' own sentences."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


def sentences() -> list[str]:
    """Every prompt of every experiment."""
    found = []
    for file in sorted(EXPERIMENTS.glob("*/prompts.csv")):
        with file.open(encoding="utf-8", newline="") as stream:
            found += [row["prompt"] for row in csv.DictReader(stream)]
    return found


def prompts_of_lengths(tokenizer, lengths: np.ndarray, *, seed: int = 0) -> list[str]:
    """One text of about so many tokens for each of ``lengths``, no two with the same beginning."""
    rng = np.random.default_rng(seed)
    known = sentences()
    texts = []
    for number, length in enumerate(lengths):
        text = f"{number}"
        while len(tokenizer(text)["input_ids"]) < length:
            text += " " + known[rng.integers(len(known))]
        ids = tokenizer(text)["input_ids"][:length]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def with_prefix(tokenizer, n: int, *, prefix: int, own: int, seed: int = 1) -> list[str]:
    """``n`` texts that begin with the same ``prefix`` tokens and go on with about ``own`` each."""
    shared = prompts_of_lengths(tokenizer, np.array([prefix]), seed=seed)[0].rstrip()
    rest = prompts_of_lengths(tokenizer, np.full(n, own), seed=seed + 1)
    return [f"{shared}. {text}" for text in rest]
