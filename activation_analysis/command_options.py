"""Every option of the command line: what it is called, what it means, and which setting it sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable

OVERRIDES = {
    "columns": "columns",
    "wide": "wide",
    "encoding": "encoding",
    "model": "model.id",
    "revision": "model.revision",
    "device": "model.device",
    "dtype": "model.dtype",
    "sites": "recording.sites",
    "layers": "recording.layers",
    "position": "recording.position",
    "batch_tokens": "recording.batch_tokens",
    "skip_first": "recording.skip_first",
    "layout": "recording.layout",
    "upload_mb": "recording.upload_mb",
    "max_memory": "model.max_memory",
    "offload_folder": "model.offload_folder",
    "test": "univariate.test",
    "control": "univariate.control",
    "alpha": "univariate.alpha",
    "top_n": "univariate.top_n",
    "nuisance": "univariate.nuisance",
    "groups": "univariate.groups",
    "n_permutations": "univariate.n_permutations",
    "calibration": "univariate.calibration",
    "seed": "seed",
}
FLAGS = {
    "truncate": "recording.truncate",
    "chat": "recording.chat",
    "control_tokens": "recording.control_tokens",
    "stream": "recording.stream",
}

PROMPT_OPTIONS = {
    "columns": "what the files call prompt, condition, item, ...: prompt=text,condition=label",
    "wide": "columns that are conditions, such as formal,informal: a row is an item",
    "encoding": "of files without a byte order mark, such as cp1252 (default: utf-8)",
}
MODEL_OPTIONS = {
    "model": "embedded alias, hub id, local folder or .gguf file (default: smollm2-135m)",
    "revision": "branch, tag or commit of a hub id",
    "device": "auto, cpu, cuda, cuda:N or mps",
    "dtype": "auto, float32, bfloat16 or float16",
    "max-memory": "limits such as 0=20GiB,cpu=8GiB; what does not fit goes to CPU, then disk",
    "offload-folder": "where weights go that fit into no memory",
}
POSITION_OPTIONS = {
    "position": "which tokens speak for a prompt: last, first, mean, max, word_final, span "
    "(marked [[so]]) or all",
    "skip-first": "leave out so many places at the beginning (attention sinks)",
}
RECORDING_OPTIONS = POSITION_OPTIONS | {
    "sites": "residual,attention,mlp,neuron,head or some of them",
    "layers": "block indices such as 0,5,11 (default: all)",
    "batch-tokens": "tokens per forward pass (default: what is fastest and fits into memory)",
    "layout": "auto, packed (prompts share a row, kept apart) or padded",
    "upload-mb": "a larger capture stays in mlruns/captures; its address and digest are logged",
}
TEXT_FLAGS = {
    "truncate": "cut prompts longer than the model's context",
    "chat": "send every prompt as a user turn of the model's chat template",
    "control-tokens": "strings such as <|im_end|> in prompts are control tokens, not text",
}
ANALYSIS_OPTIONS = {
    "test": "auto (paired or blocked where prompts have items, else welch), welch, student, "
    "mannwhitney, brunnermunzel, paired, wilcoxon, f, kruskal, glm_t or glm_f",
    "control": "fdr_bh, fdr_by, fdr_tsbky, bonferroni, holm or max_t (permutation)",
    "alpha": "error rate over the whole family of units",
    "top-n": "discriminative units to list",
    "nuisance": "what to adjust for: tokens, words, characters or columns (with --test glm_t)",
    "groups": "auto: a column 'group' binds prompts together; ignore: it does not",
    "n-permutations": "random relabellings of control max_t (default: 1000)",
    "calibration": "relabellings that check the run's own false positives; 0: none",
    "seed": "seed of everything random",
}


def overrides(args: argparse.Namespace) -> list[str]:
    """The options that were given, as ``table.option=value``; an empty value was not given."""
    given = {key: getattr(args, name, "") for name, key in OVERRIDES.items()}
    changes = [f"{key}={value}" for key, value in given.items() if value]
    changes += [f"{key}=true" for name, key in FLAGS.items() if getattr(args, name, False)]
    return changes + list(getattr(args, "set", None) or [])


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write it as 0.5") from None


def port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 1 to 65535")
    return int(text)


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count: a whole number from 1 on")
    return int(text)


def rows(text: str) -> list[int]:
    """Prompt numbers as they are spelled, ranges opened up."""
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        ends = (first, last) if dash else (first, first)
        if not all(end.isdecimal() and int(end) for end in ends) or int(ends[0]) > int(ends[1]):
            raise argparse.ArgumentTypeError(
                f"{text!r} names no prompts; write numbers from 1 on, as in 1,5,7-9"
            )
        rows += range(int(ends[0]), int(ends[1]) + 1)
    return list(dict.fromkeys(rows))


POWER_OPTIONS: dict[str, tuple[Callable[[str], object], str]] = {
    "effect": (number, "true effect to be found: Cohen's d, d_z of pairs (default: 0.5)"),
    "units": (count, "units tested (default: 115200, smollm2-135m at all sites)"),
    "control": (
        str,
        "none, bonferroni, holm, fdr_bh, fdr_by, fdr_tsbky or max_t (default: the "
        "experiment's, else fdr_bh)",
    ),
    "alpha": (number, "error rate over all units (default: the experiment's, else 0.05)"),
    "power": (number, "share of the responding units to be found (default: 0.8)"),
    "responding": (number, "share of the units that respond, for fdr (default: 0.05)"),
    "groups": (count, "groups per condition (templates, authors) that the prompts come in"),
    "icc": (number, "correlation of prompts of one group (default: 0.3)"),
    "threshold-t": (number, "the |t| that a max_t permutation test of a run asked for"),
}
