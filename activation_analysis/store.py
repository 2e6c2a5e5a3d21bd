"""Captures on disk: safetensors, one tensor per layer, with a manifest of hashes written last.

    <folder>/residual.safetensors   layer_000, layer_001, ... each (n_prompts, width) float32
    <folder>/mlp.safetensors        ...
    <folder>/capture.json           prompts, token counts, position, model, details
    <folder>/manifest.json          SHA-256 of every file above; a folder without it is unfinished

Nothing is ever unpickled. A damaged file is named, not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from activation_analysis.activations import Activations
from activation_analysis.errors import StoreError
from activation_analysis.workspace import runs_folder

FORMAT = 1
MANIFEST = "manifest.json"
CAPTURE = "capture.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class DataStore:
    """Named captures under ``mlruns/store``, one folder each.

    Examples
    --------
    >>> DataStore.save_experiment({"positive": positive, "negative": negative}, "emotion_analysis")
    >>> data = DataStore.load_experiment("emotion_analysis")
    """

    @staticmethod
    def save_experiment(
        data: Mapping[str, Activations], name: str, *, root: str | os.PathLike[str] | None = None
    ) -> Path:
        """Write the recordings of an experiment, one per condition, and return their folder.

        A capture of the same name is replaced, once the new one is complete on disk.

        Parameters
        ----------
        data : what `ActivationCapture.capture_batch` returned, by condition
        name : letters, digits, ``.``, ``_`` and ``-``
        root : folder to save under, instead of ``mlruns/store``

        Raises
        ------
        StoreError
            If the name could leave the store, or a value is not a recording.
        """
        folder = _named_folder(name, root)
        for condition, activations in data.items():
            if not isinstance(activations, Activations):
                raise StoreError(
                    f"condition {condition!r} is a {type(activations).__name__}; save what "
                    f"ActivationCapture.capture_batch returned (an Activations)"
                )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            # Numbered folders: a condition's name is text, never a path.
            for i, activations in enumerate(data.values()):
                write_activations(partial / f"{i:02d}", activations)
            write_json(partial / "conditions.json", {"conditions": list(data)})
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    @staticmethod
    def load_experiment(
        name: str, *, root: str | os.PathLike[str] | None = None
    ) -> dict[str, Activations]:
        """Read back what `save_experiment` wrote, equal to what was saved.

        Raises
        ------
        StoreError
            If there is no such capture (the known names are listed), or a file is damaged.
        """
        folder = _named_folder(name, root)
        listing = folder / "conditions.json"
        if not listing.is_file():
            known = sorted(f.parent.name for f in folder.parent.glob("*/conditions.json"))
            raise StoreError(
                f"no saved experiment {name!r} in {folder.parent}; "
                f"known: {', '.join(known) or 'none yet'}"
            )
        conditions = json.loads(listing.read_text(encoding="utf-8"))["conditions"]
        return {c: read_activations(folder / f"{i:02d}") for i, c in enumerate(conditions)}


def _named_folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    if not SAFE_NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name a saved experiment; use up to 100 letters, digits, "
            f"'.', '_' and '-', starting with a letter or digit"
        )
    return (Path(root) if root is not None else runs_folder() / "store") / name


def write_activations(folder: Path, activations: Activations) -> None:
    """Write one recording into a new folder, the manifest last."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for site, layers in activations.values.items():
        tensors = {f"layer_{k:03d}": np.ascontiguousarray(v) for k, v in layers.items()}
        save_file(tensors, folder / f"{site}.safetensors", metadata={"site": site})
    write_json(
        folder / CAPTURE,
        {
            "format": FORMAT,
            "prompts": activations.prompts,
            "n_tokens": activations.n_tokens.tolist(),
            "position": activations.position,
            "model": activations.model,
            "n_layers": activations.n_layers,
            "sites": activations.sites,
            "details": dict(activations.details),
        },
    )
    write_manifest(folder)


def read_activations(folder: Path) -> Activations:
    """Read one recording, every file checked against the manifest.

    Raises
    ------
    StoreError
        If the folder is unfinished or a file is missing, truncated or altered; it is named.
    """
    from safetensors.numpy import load_file

    check_manifest(folder)
    capture = json.loads((folder / CAPTURE).read_text(encoding="utf-8"))
    if capture["format"] != FORMAT:
        raise StoreError(
            f"{folder} was written in format {capture['format']}, this version reads {FORMAT}; "
            f"record it again"
        )
    values = {}
    for site in capture["sites"]:
        tensors = load_file(folder / f"{site}.safetensors")
        values[site] = {int(n.removeprefix("layer_")): t for n, t in sorted(tensors.items())}
    return Activations(
        prompts=tuple(capture["prompts"]),
        n_tokens=np.array(capture["n_tokens"], dtype=np.int64),
        position=capture["position"],
        model=capture["model"],
        n_layers=capture["n_layers"],
        values=values,
        details=capture["details"],
    )


def write_manifest(folder: Path, extra: Mapping[str, object] | None = None) -> Path:
    """List every file below ``folder`` with its size and SHA-256; the last file written."""
    files = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": _sha256(file),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {**(extra or {}), "files": files})
    return folder / MANIFEST


def check_manifest(folder: Path) -> None:
    """Raise a StoreError that names each file that is not as the manifest says."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise StoreError(f"{folder} holds no {MANIFEST}: the capture is missing or unfinished")
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{manifest} is damaged ({error}); record the capture again") from error
    problems = []
    for name, stated in listed.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            problems.append(f"{name}: leaves the folder")
        elif not file.is_file():
            problems.append(f"{name}: missing")
        elif file.stat().st_size != stated["bytes"]:
            size = file.stat().st_size
            problems.append(f"{name}: {size} bytes, expected {stated['bytes']} (truncated?)")
        elif _sha256(file) != stated["sha256"]:
            problems.append(f"{name}: its bytes changed since it was written (SHA-256 differs)")
    if problems:
        raise StoreError(f"damaged capture in {folder}:\n" + "\n".join(problems))


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON through a temporary file, so that a reader never sees half of it."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, ensure_ascii=False, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
