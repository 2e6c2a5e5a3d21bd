"""Captures on disk: safetensors, one tensor per layer, with a manifest of hashes written last.

    <folder>/residual.safetensors   layer_000, layer_001, ... each (n_prompts, width) float32
    <folder>/mlp.safetensors        ...
    <folder>/capture.json           prompts, token counts, position, model, details
    <folder>/manifest.json          SHA-256 of every file above; a folder without it is unfinished

A saved experiment is a folder of such folders, one per condition, and ``conditions.json``, which
says what is where; replacing that one file replaces the experiment. Both JSON indexes carry a
checksum of themselves. Nothing is ever unpickled. A damaged file is named, not read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from activation_analysis.activations import SITES, Activations
from activation_analysis.errors import StoreError
from activation_analysis.workspace import runs_folder

FORMAT = 1
MANIFEST = "manifest.json"
CAPTURE = "capture.json"
CONDITIONS = "conditions.json"
LOCK = ".lock"
CHECKSUM = "checksum"  # of the JSON file that holds it, without this entry
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

        A capture of the same name is replaced at one stroke, once the new one is complete on
        disk: a reader finds the old one or the new one, whole.

        Parameters
        ----------
        data : what `ActivationCapture.capture_batch` returned, by condition
        name : letters, digits, ``.``, ``_`` and ``-``
        root : folder to save under, instead of ``mlruns/store``

        Raises
        ------
        StoreError
            If the name could leave the store, a value is not a recording, or the disk is full.
        """
        folder = _named_folder(name, root)
        _refuse_unstorable(data)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            # Numbered folders: a condition's name is text, never a path.
            stamp = secrets.token_hex(4)
            places = [f"{stamp}-{i:02d}" for i in range(len(data))]
            try:
                for place, activations in zip(places, data.values(), strict=True):
                    write_activations(folder / place, activations)
                listed = [
                    {"condition": c, "folder": p, "manifest": _sha256(folder / p / MANIFEST)}
                    for c, p in zip(data, places, strict=True)
                ]
                _write_checked(folder / CONDITIONS, {"format": FORMAT, "conditions": listed})
            except OSError as error:
                _remove(folder, lambda child: child in places)
                needed = sum(
                    v.nbytes for a in data.values() for ls in a.values.values() for v in ls.values()
                )
                raise StoreError(
                    f"cannot save {name!r} in {folder.parent}: {error}; "
                    f"it takes {needed / 1e6:.0f} MB, and what was saved before is untouched"
                ) from error
            _remove(folder, lambda child: child not in places)
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
        if not (folder / CONDITIONS).is_file():
            known = sorted(f.parent.name for f in folder.parent.glob(f"*/{CONDITIONS}"))
            raise StoreError(
                f"no saved experiment {name!r} in {folder.parent}; "
                f"known: {', '.join(known) or 'none yet'}"
            )
        with _locked(folder, shared=True):
            listed = _read_checked(folder / CONDITIONS).get("conditions", [])
            for entry in listed:
                manifest = folder / entry["folder"] / MANIFEST
                if not SAFE_NAME.fullmatch(entry["folder"]) or manifest.parent.is_symlink():
                    raise StoreError(f"{folder / CONDITIONS} names a folder outside of {folder}")
                if not manifest.is_file() or _sha256(manifest) != entry["manifest"]:
                    raise StoreError(
                        f"{manifest} is missing or its bytes changed since it was written; "
                        f"record the capture again"
                    )
            return {e["condition"]: read_activations(folder / e["folder"]) for e in listed}


def _named_folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name a saved experiment; use up to 100 letters, digits, "
            f"'.', '_' and '-', starting with a letter or digit"
        )
    folder = (Path(root) if root is not None else runs_folder() / "store") / name
    if folder.is_symlink():
        raise StoreError(f"{folder} is a symbolic link; saved experiments stay in {folder.parent}")
    return folder


def _refuse_unstorable(data: Mapping[str, Activations]) -> None:
    for condition, activations in data.items():
        if not isinstance(condition, str):
            raise StoreError(f"condition {condition!r} is a {type(condition).__name__}, not text")
        if not isinstance(activations, Activations):
            raise StoreError(
                f"condition {condition!r} is a {type(activations).__name__}; save what "
                f"ActivationCapture.capture_batch returned (an Activations)"
            )


@contextmanager
def _locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """One writer or any number of readers at a time."""
    # A file of its own, not the folder: network file systems lock only what is open for writing.
    file = folder / LOCK
    if shared and not file.exists():
        yield  # a copy that left the hidden file behind; nobody writes there
        return
    with file.open("rb" if shared else "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _remove(folder: Path, is_unwanted: Callable[[str], bool]) -> None:
    for child in folder.iterdir():
        if child.is_dir() and is_unwanted(child.name):
            shutil.rmtree(child, ignore_errors=True)


def write_activations(folder: Path, activations: Activations) -> None:
    """Write one recording into a new folder, the manifest last."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for site, layers in activations.values.items():
        tensors = {f"layer_{k:03d}": np.ascontiguousarray(v) for k, v in layers.items()}
        file = folder / f"{site}.safetensors"
        save_file(tensors, file, metadata={"site": site})
        _flush(file)
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

    listed = check_manifest(folder)
    if CAPTURE not in listed:
        raise StoreError(f"{folder} holds no recording: its {MANIFEST} lists no {CAPTURE}")
    capture = json.loads((folder / CAPTURE).read_text(encoding="utf-8"))
    if capture["format"] != FORMAT:
        raise StoreError(
            f"{folder} was written in format {capture['format']}, this version reads {FORMAT}; "
            f"record it again"
        )
    values = {}
    for site in capture["sites"]:
        if site not in SITES or f"{site}.safetensors" not in listed:
            raise StoreError(f"{folder / CAPTURE} names the site {site!r}, which was not stored")
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
    _write_checked(folder / MANIFEST, {**(extra or {}), "files": files})
    return folder / MANIFEST


def check_manifest(folder: Path) -> Mapping[str, object]:
    """What the manifest lists, by file name.

    Raises
    ------
    StoreError
        If the manifest is missing or damaged, or a file is not as it says; each is named.
    """
    if not (folder / MANIFEST).is_file():
        raise StoreError(f"{folder} holds no {MANIFEST}: the capture is missing or unfinished")
    files = _read_checked(folder / MANIFEST).get("files", {})
    problems = []
    for name, stated in files.items():
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
    return files


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON through a temporary file, so that a reader never sees half of it."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(_dumped(content))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def _dumped(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _write_checked(file: Path, content: Mapping[str, object]) -> None:
    write_json(file, {**content, CHECKSUM: hashlib.sha256(_dumped(content)).hexdigest()})


def _read_checked(file: Path) -> dict[str, Any]:
    """What `_write_checked` wrote, or a StoreError if one byte of it is another."""
    found = file.read_bytes()
    try:
        content = json.loads(found)
        stated = content.pop(CHECKSUM)
        whole = _dumped({**content, CHECKSUM: hashlib.sha256(_dumped(content)).hexdigest()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file} is damaged ({error}); record the capture again") from error
    if found != whole:
        raise StoreError(
            f"{file} is damaged (its checksum is {stated}, but its bytes say another); "
            f"record the capture again"
        )
    return content


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
