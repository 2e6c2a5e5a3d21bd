"""What a sealed capture says of itself: capture.json, and a manifest that covers every byte.

format, key, defining       which capture this is, and everything that defines its values
model, n_layers, details    what was recorded from
positions, sites            in the order they were asked for
prompts, n_tokens           every prompt, in the original order
row_of_prompt               prompt -> stored row; equal prompts are stored once
shards                      the stored rows of each shard
n_kept, tokens, offsets     of each stored row's tokens, where the position ``all`` was recorded
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from activation_analysis.activations import SITES
from activation_analysis.errors import StoreError
from activation_analysis.store.identity import capture_key
from activation_analysis.store.manifests import (
    MANIFEST,
    problem_with,
    read_manifest,
    refuse_damaged,
    sha256,
    stated_of,
    write_checked,
    write_json,
)
from activation_analysis.store.shards import StoredTensor, address_of, read_header, shard_name

FORMAT = 2
CAPTURE = "capture.json"
SAID = {  # by every capture.json
    *("key", "defining", "model", "n_layers", "details", "positions", "sites"),
    *("prompts", "n_tokens", "row_of_prompt", "shards"),
}
ALL = "all"  # the position that keeps every token


@dataclass(frozen=True)
class CaptureContent:
    """What was recorded, beside the numbers. Lists, or arrays of whole numbers."""

    prompts: Sequence[str]  # (n_prompts,) in the original order
    n_tokens: Sequence[int]  # (n_prompts,) special tokens included
    row_of_prompt: Sequence[int]  # (n_prompts,) stored row
    positions: Sequence[str]
    sites: Sequence[str]
    model: str
    n_layers: int  # blocks in the whole model
    details: Mapping[str, str] = field(default_factory=dict)
    tokens: Sequence[Sequence[str]] | None = None  # (n_rows,) of (n_kept,): for "all"
    offsets: Sequence[Sequence[Sequence[int]]] | None = None  # (n_rows,) of (n_kept, 2) characters


@dataclass(frozen=True)
class SealedCapture:
    """A sealed folder whose indexes and shard headers agree; no activation was read."""

    folder: Path
    content: Mapping[str, Any]  # capture.json
    headers: Sequence[Mapping[str, StoredTensor]]  # one per shard
    digests: Sequence[Mapping[str, str]]  # tensor -> SHA-256, one per shard


def seal_folder(
    folder: Path,
    content: CaptureContent,
    shards: Sequence[Sequence[int]],
    entries: Sequence[Mapping[str, Any]],
    *,
    key: str | None = None,
    defining: Mapping[str, object] | None = None,
) -> None:
    """Write capture.json and the manifest beside finished shards.

    Parameters
    ----------
    shards : the stored rows of each shard
    entries : what `write_shard` returned for each
    key, defining : of a capture that is found by its key

    Raises
    ------
    StoreError
        If the shards and ``content`` do not fit each other.
    """
    written = _as_json(content, shards, key, defining)
    headers = [read_header(folder / shard_name(i))[0] for i in range(len(shards))]
    problems = _misfits(written, headers)
    if problems:
        raise StoreError(f"{folder} cannot be sealed:\n" + "\n".join(problems))
    write_json(folder / CAPTURE, written)
    files = {CAPTURE: stated_of(folder / CAPTURE)}
    files |= {shard_name(i): dict(entry) for i, entry in enumerate(entries)}
    write_checked(folder / MANIFEST, {"format": FORMAT, "files": files})


def _as_json(
    content: CaptureContent,
    shards: Sequence[Sequence[int]],
    key: str | None,
    defining: Mapping[str, object] | None,
) -> dict[str, Any]:
    said = asdict(content)
    tokens, offsets = said.pop("tokens"), said.pop("offsets")
    written = {"format": FORMAT, "key": key, "defining": dict(defining or {})}
    written |= {name: said[name] for name in ("model", "n_layers", "details")}
    written |= {name: list(said[name]) for name in ("positions", "sites", "prompts")}
    written |= {name: [int(n) for n in said[name]] for name in ("n_tokens", "row_of_prompt")}
    written["shards"] = [[int(row) for row in shard] for shard in shards]
    if tokens is not None:
        written["n_kept"] = [len(kept) for kept in tokens]
        written["tokens"] = [list(kept) for kept in tokens]
        written["offsets"] = [
            [[int(start), int(end)] for start, end in kept] for kept in offsets or []
        ]
    return written


def read_content(folder: Path) -> dict[str, Any]:
    """capture.json of a sealed folder, checked against the manifest.

    Raises
    ------
    StoreError
        If either is missing or damaged, of another format, or edited.
    """
    listed = read_manifest(folder)["files"]
    if CAPTURE not in listed:
        raise StoreError(f"{folder} holds no recording: its {MANIFEST} lists no {CAPTURE}")
    problem = problem_with(folder, CAPTURE, listed[CAPTURE])
    if not problem and sha256(folder / CAPTURE) != listed[CAPTURE]["sha256"]:
        problem = "its bytes changed since it was written (SHA-256 differs)"
    refuse_damaged(folder, [f"{CAPTURE}: {problem}"] * bool(problem))
    content = json.loads((folder / CAPTURE).read_bytes())
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{folder} was written in format {content.get('format')}, this version reads {FORMAT}; "
            f"record it again"
        )
    lacking = SAID - set(content)
    if lacking:
        raise StoreError(f"{folder / CAPTURE} does not say {', '.join(sorted(lacking))}")
    if content["key"] is not None and content["key"] != capture_key(content["defining"]):
        raise StoreError(f"{folder / CAPTURE}: its key is not that of what it says it holds")
    return content


def open_sealed(folder: Path) -> SealedCapture:
    """Check indexes, sizes and headers of a sealed folder; every problem is named at once.

    Raises
    ------
    StoreError
        If the folder is unfinished, or a file is missing, truncated, altered or out of place.
    """
    content = read_content(folder)
    listed = read_manifest(folder)["files"]
    headers, digests, problems = [], [], []
    for i in range(len(content["shards"])):
        name = shard_name(i)
        if name not in listed:
            problems.append(f"{name}: not in {MANIFEST}")
            continue
        problem = problem_with(folder, name, listed[name])
        if not problem:
            try:
                header, digest = read_header(folder / name)
            except StoreError as error:
                problem = str(error)
            else:
                stated = listed[name].get("tensors", {})
                if digest != listed[name].get("header") or set(header) != set(stated):
                    problem = "its header changed since it was written (SHA-256 differs)"
                headers.append(header)
                digests.append(stated)
        problems += [f"{name}: {problem}"] * bool(problem)
    refuse_damaged(folder, problems or _misfits(content, headers))
    return SealedCapture(folder, content, headers, digests)


def _misfits(
    content: Mapping[str, Any], headers: Sequence[Mapping[str, StoredTensor]]
) -> list[str]:
    """What capture.json and the shards' headers say differently; empty if they agree."""
    shards, prompts = content["shards"], content["prompts"]
    n_rows = sum(map(len, shards))
    problems = []
    for name in ("n_tokens", "row_of_prompt"):
        if len(content[name]) != len(prompts):
            problems.append(f"{name} has {len(content[name])} entries for {len(prompts)} prompts")
    if not set(content["row_of_prompt"]) <= set(range(n_rows)):
        problems.append(f"row_of_prompt names a row beyond the {n_rows} that are stored")
    if sorted(row for shard in shards for row in shard) != list(range(n_rows)):
        problems.append("shards does not hold every row once")
    if ALL in content["positions"] and not _describes_tokens(content, n_rows):
        problems.append("tokens and offsets do not describe every kept token of every row")
    if problems:
        return problems
    for site in set(content["sites"]) - set(SITES):
        problems.append(f"it names the site {site!r}, which was not stored")
    asked = {(position, site) for position in content["positions"] for site in content["sites"]}
    for i, header in enumerate(headers):
        unlike = _widths(header) != _widths(headers[0])
        if unlike or not {address_of(name)[:2] for name in header} <= asked:
            problems.append(f"{shard_name(i)}: holds other layers than {CAPTURE} and shard 0 say")
        for name, tensor in header.items():
            counts = content["n_kept"] if address_of(name)[0] == ALL else [1] * n_rows
            expected = sum(counts[row] for row in shards[i])
            if tensor.shape[0] != expected:
                problems.append(
                    f"{shard_name(i)}: {name} has {tensor.shape[0]} rows, not {expected}"
                )
    stored = {address_of(name)[:2] for header in headers for name in header}
    for position, site in sorted(asked - stored) if stored else []:
        problems.append(f"it names the site {site!r} at {position!r}, which was not stored")
    return problems


def _describes_tokens(content: Mapping[str, Any], n_rows: int) -> bool:
    counts = content.get("n_kept")
    return counts is not None and all(
        len(content[name]) == n_rows and list(map(len, content[name])) == counts
        for name in ("tokens", "offsets")
    )


def _widths(header: Mapping[str, StoredTensor]) -> dict[str, tuple[str, int]]:
    return {name: (tensor.dtype.str, tensor.shape[1]) for name, tensor in header.items()}
