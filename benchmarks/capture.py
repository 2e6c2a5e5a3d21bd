"""Time of a capture over the time of the bare forward pass, arms interleaved in one run.

    python -m benchmarks.capture                       # 400 prompts, one thread and two
    python -m benchmarks.capture --prompts 80 --threads 2 --rounds 5
    python -m benchmarks.capture --peers               # other tools, where they are installed

The bare forward: the base model without its head, prompts sorted by length, padded on the right,
1024 tokens a batch, no cache, no hook, nothing kept. Every round runs every arm once, in an order
drawn anew; a ratio is taken within its round, and the median over rounds is shown with its range.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.prompts import prompts_of_lengths, with_prefix

POSITIONS = ("last", "mean")
BARE = "bare forward, 1024 tokens"
GOALS = {  # arm -> goal for one thread, for two
    "ours": (0.85, 0.95),
    "ours, padded (no packing)": (1.05, 1.05),
    "ours, one middle layer": (0.60, 0.60),
}
PREFIX_GOAL = 0.40
Arms = Mapping[str, Callable[[], object]]


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.memory:
        print(_peak_of(args.memory, args.prompts))
        return
    print(f"{machine()}\n")
    for threads in args.threads:
        for line in _speed(threads, args.prompts, args.rounds, peers=args.peers, only=args.only):
            print(line, flush=True)
    if args.peers:
        for line in _wrong(args.prompts):
            print(line, flush=True)
    if not args.no_memory:
        for line in _memory(args.prompts, peers=args.peers):
            print(line, flush=True)


def machine() -> str:
    """What ran: processor, cores, versions."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def interleaved(arms: Arms, rounds: int, *, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of every arm in every round, the order drawn anew for each."""
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name in order.sample(list(arms), len(arms)):
            began = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: Mapping[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Median, smallest and largest ratio of two arms, taken within rounds."""
    found = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
    return statistics.median(found), min(found), max(found)


def bare_forward(model, ids: list[list[int]], budget: int) -> None:
    """The base model over sorted, right-padded batches; nothing is kept."""
    import torch

    from activation_analysis.models.batching import pad_right, token_batches

    lengths = np.array([len(row) for row in ids])
    with torch.inference_mode():
        for batch in token_batches(lengths, budget):
            padded, _ = pad_right([ids[i] for i in batch])
            model.base_model(input_ids=torch.from_numpy(padded), use_cache=False)


def _speed(
    threads: int, n_prompts: int, rounds: int, *, peers: bool, only: Sequence[str] = ()
) -> list[str]:
    import torch

    torch.set_num_threads(threads)
    capture, texts = _capture_and_texts(n_prompts)
    tokens = capture.tokens(texts)
    capture.capture_batch(texts[:8], ["mlp"])  # proves the model, warms up
    shared = with_prefix(capture.tokenizer, max(n_prompts // 4, 10), prefix=60, own=20)
    middle = capture.n_layers // 2

    def ours(texts=texts, **options):
        return lambda: capture.capture_positions(texts, positions=POSITIONS, **options)

    arms = {
        BARE: lambda: bare_forward(capture.model, tokens.ids, 1024),
        "bare forward, 256 tokens": lambda: bare_forward(capture.model, tokens.ids, 256),
        "ours": ours(),
        "ours, into the store": lambda: _stored(capture, texts),
        "ours, padded (no packing)": ours(layout="padded"),
        "ours, one middle layer": ours(layers=[middle]),
    }
    if only:
        arms = {name: arm for name, arm in arms.items() if name == BARE or name in only}
    if peers:
        from benchmarks.peers import peer_arms

        arms |= peer_arms(capture, texts)
    seconds = interleaved(arms, rounds)
    told = [
        f"## {threads} thread{'s' * (threads > 1)}, {n_prompts} prompts of "
        f"{tokens.n_tokens.min()}-{tokens.n_tokens.max()} tokens "
        f"({tokens.n_tokens.sum():,} in all), every site, positions {' and '.join(POSITIONS)}, "
        f"{rounds} rounds\n",
        "| arm | time / bare forward (median, range) | goal |",
        "|---|---|---|",
    ]
    for name in arms:
        median, low, high = ratios(seconds, name, BARE)
        goal = GOALS.get(name)
        told.append(
            f"| {name} | {median:.2f} ({low:.2f}-{high:.2f}) | "
            f"{f'<= {goal[threads > 1]:.2f}' if goal else ''} |"
        )
    alone = {
        "shared": ours(shared),
        "recomputed": lambda: _without_sharing(capture, shared),
    }
    capture.capture_positions(shared, layers=[0])  # proves that prefixes may be shared
    prefix = interleaved(alone, rounds)
    median, low, high = ratios(prefix, "shared", "recomputed")
    told.append(
        f"| a 60-token prefix shared by {len(shared)} prompts of 20 more, over recomputing it | "
        f"{median:.2f} ({low:.2f}-{high:.2f}) | <= {PREFIX_GOAL:.2f} |"
    )
    share = capture.proof.seconds / statistics.median(seconds["ours"])
    told.append(f"| the proof at load, over ours | {share:.3f} | < 0.05 |")
    return [*told, ""]


def _capture_and_texts(n_prompts: int):
    from activation_analysis.models.capture import ActivationCapture

    capture = ActivationCapture("smollm2-135m", device="cpu", progress=False)
    lengths = np.random.default_rng(0).integers(8, 121, n_prompts)
    return capture, prompts_of_lengths(capture.tokenizer, lengths)


def _without_sharing(capture, texts: list[str]) -> None:
    """The same capture, each prompt read from its first token."""
    proven = capture._proven
    capture._proven = replace(proven, holds=proven.holds - {"prefix"})
    try:
        capture.capture_positions(texts, positions=POSITIONS)
    finally:
        capture._proven = proven


def _stored(capture, texts: list[str]) -> None:
    from activation_analysis.models.request import Request
    from activation_analysis.models.stored_capture import store_capture

    with tempfile.TemporaryDirectory() as folder:
        request = Request(positions=POSITIONS)
        store_capture(capture, capture.tokens(texts), request, root=Path(folder))


def _wrong(n_prompts: int) -> list[str]:
    """How many prompts each peer records otherwise than plain transformers does, one at a time."""
    from benchmarks.peers import TOLERANCE, wrong_prompts

    counts = wrong_prompts(*_capture_and_texts(n_prompts))
    told = [
        f"## Prompts recorded wrongly, of {n_prompts}: residual off by more than {TOLERANCE:g}\n",
        "| arm | prompts |",
        "|---|---|",
    ]
    return [*told, *(f"| {name} | {count} |" for name, count in counts.items()), ""]


def _memory(n_prompts: int, *, peers: bool) -> list[str]:
    """Peak memory of every arm, each in a process of its own, over model and result."""
    names = ["nothing", "ours", "ours, into the store", "bare forward, 1024 tokens"]
    if peers:
        from benchmarks.peers import installed

        names += installed()
    told = [f"## Peak memory over the loaded model, {n_prompts} prompts, MB\n"]
    told += ["| arm | over the model | of that the result |", "|---|---|---|"]
    for name in names:
        command = [sys.executable, "-m", "benchmarks.capture", "--memory", name]
        command += ["--prompts", str(n_prompts)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        over, result = answer.stdout.split()[-2:]
        told.append(f"| {name} | {over} | {result} |")
    return [*told, ""]


def _peak_of(name: str, n_prompts: int) -> str:
    """Megabytes that an arm adds to the loaded model at its peak, and those of its result."""
    capture, texts = _capture_and_texts(n_prompts)
    tokens = capture.tokens(texts)
    capture.capture_batch(texts[:2], ["mlp"], layers=[0])
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    result = None
    if name == "ours":
        result = capture.capture_positions(texts, positions=POSITIONS)
    elif name == "ours, into the store":
        _stored(capture, texts)
    elif name == BARE:
        bare_forward(capture.model, tokens.ids, 1024)
    elif name != "nothing":
        from benchmarks.peers import peer_arm

        result = peer_arm(name, capture, texts)()
    over = _resident("VmHWM") - before
    return f"{over:.0f} {_megabytes(result):.0f}"


def _megabytes(result: object) -> float:
    if not isinstance(result, dict):
        return 0.0
    arrays = [
        values
        for recorded in result.values()
        if hasattr(recorded, "values")
        for layers in recorded.values.values()
        for values in layers.values()
    ]
    return sum(a.nbytes for a in arrays) / 1e6


def _resident(entry: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(entry))) * 1.024e-3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="other tools too")
    parser.add_argument("--only", nargs="+", default=(), help="these arms beside the bare forward")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
