"""Named experiments: the recordings of each condition in a folder of their own.

``conditions.json`` says what is where; replacing that one file replaces the experiment.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from activation_analysis.activations import Activations, RaggedActivations
from activation_analysis.errors import StoreError
from activation_analysis.store.content import FORMAT
from activation_analysis.store.locks import locked
from activation_analysis.store.manifests import MANIFEST, read_checked, sha256, write_checked
from activation_analysis.store.recordings import read_activations, write_activations
from activation_analysis.workspace import runs_folder

CONDITIONS = "conditions.json"
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
        data: Mapping[str, Activations | RaggedActivations],
        name: str,
        *,
        root: str | os.PathLike[str] | None = None,
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
        with locked(folder):
            # Numbered folders: a condition's name is text, never a path.
            stamp = secrets.token_hex(4)
            places = [f"{stamp}-{i:02d}" for i in range(len(data))]
            try:
                for place, activations in zip(places, data.values(), strict=True):
                    write_activations(folder / place, activations)
                listed = [
                    {"condition": c, "folder": p, "manifest": sha256(folder / p / MANIFEST)}
                    for c, p in zip(data, places, strict=True)
                ]
                write_checked(folder / CONDITIONS, {"format": FORMAT, "conditions": listed})
            except (OSError, StoreError) as error:
                kept = _listed_folders(folder)  # the old ones, unless the last step failed
                _remove(folder, lambda child: child not in kept)
                if isinstance(error, StoreError):
                    raise
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
    ) -> dict[str, Activations | RaggedActivations]:
        """Read back what `save_experiment` wrote, into memory, equal to what was saved.

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
        with locked(folder, shared=True):
            listed = read_checked(folder / CONDITIONS).get("conditions", [])
            for entry in listed:
                manifest = folder / entry["folder"] / MANIFEST
                if not SAFE_NAME.fullmatch(entry["folder"]) or manifest.parent.is_symlink():
                    raise StoreError(f"{folder / CONDITIONS} names a folder outside of {folder}")
                if not manifest.is_file() or sha256(manifest) != entry["manifest"]:
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


def _refuse_unstorable(data: Mapping[str, Activations | RaggedActivations]) -> None:
    for condition, activations in data.items():
        if not isinstance(condition, str):
            raise StoreError(f"condition {condition!r} is a {type(condition).__name__}, not text")
        if not isinstance(activations, Activations | RaggedActivations):
            raise StoreError(
                f"condition {condition!r} is a {type(activations).__name__}; save what "
                f"ActivationCapture.capture_batch returned (an Activations)"
            )


def _listed_folders(folder: Path) -> set[str]:
    if not (folder / CONDITIONS).is_file():
        return set()
    return {entry["folder"] for entry in read_checked(folder / CONDITIONS)["conditions"]}


def _remove(folder: Path, is_unwanted: Callable[[str], bool]) -> None:
    for child in folder.iterdir():
        if child.is_dir() and is_unwanted(child.name):
            shutil.rmtree(child, ignore_errors=True)
