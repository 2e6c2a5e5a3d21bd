"""Which capture is which: a key from all that defines its values, and the folder it names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from activation_analysis.errors import StoreError
from activation_analysis.workspace import runs_folder

KEY = re.compile(r"[0-9a-f]{64}")
N_DIGITS = 32  # of the key in a folder's name; the whole key is compared when it is opened

CAPTURES = "ACTIVATION_ANALYSIS_CAPTURES"  # names a folder on a larger disk, say


def capture_key(defining: Mapping[str, object]) -> str:
    """SHA-256 of everything that defines a capture's values, in whatever order it is given.

    Parameters
    ----------
    defining : text, numbers, booleans, None, lists and dictionaries of them
        The digests of weights, configuration and tokenizer, the token ids, sites, layers,
        positions, dtype, device, attention backend, library and code versions, ...
        1, 1.0, "1" and True are four different things, as are [] and {}; a tuple is a list.

    Raises
    ------
    StoreError
        If a value is none of these, since its text might not say all of it.
    """
    _refuse_ambiguous(defining, "defining")
    text = json.dumps(defining, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_ambiguous(value: object, place: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise StoreError(f"{place} has the key {key!r}, a {type(key).__name__}; use text")
            _refuse_ambiguous(inner, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _refuse_ambiguous(inner, f"{place}[{i}]")
    elif not (value is None or type(value) in (str, int, bool) or _is_finite(value)):
        raise StoreError(
            f"{place} is {value!r}, a {type(value).__name__}, which cannot define a capture; use "
            f"text, finite numbers, booleans, None, lists and dictionaries"
        )


def _is_finite(value: object) -> bool:
    return type(value) is float and value - value == 0


def captures_folder() -> Path:
    """Where captures are kept: in ``mlruns/captures``, or as the environment's `CAPTURES` says."""
    named = os.environ.get(CAPTURES)
    return Path(named).expanduser() if named else runs_folder() / "captures"


def capture_folder(key: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the capture with this key; it need not be there.

    Raises
    ------
    StoreError
        If ``key`` is not one that `capture_key` returned, or a link lies in its place.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise StoreError(f"{key!r} is no capture's key; use what capture_key returned")
    folder = (Path(root) if root is not None else captures_folder()) / key[:N_DIGITS]
    refuse_link(folder)
    return folder


def refuse_link(folder: Path) -> None:
    """A StoreError if a folder, or anything in it, is a symbolic link."""
    if folder.is_symlink():
        raise StoreError(f"{folder} is a symbolic link; captures stay in {folder.parent}")
    links = (
        [child.name for child in folder.iterdir() if child.is_symlink()] if folder.exists() else []
    )
    if links:
        raise StoreError(
            f"{folder} holds symbolic links ({', '.join(sorted(links))}), which a capture has "
            f"none of; remove them"
        )


def refuse_other(folder: Path, found: object, key: str) -> None:
    """A StoreError if the key found in a folder is not the whole key that it was opened with."""
    if found != key:
        raise StoreError(
            f"{folder} holds another capture (key {found}, not {key}); move it away to record "
            f"this one"
        )
