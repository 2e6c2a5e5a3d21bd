"""GGUF files, converted once into a safetensors folder that loads in seconds.

Reading a GGUF file de-quantises every tensor (10-60 s). The result is written to the user's
cache folder under the file's SHA-256, with its tokenizer, and is an ordinary model folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
from pathlib import Path

from activation_analysis.errors import ModelError
from activation_analysis.progress import stage

FORMAT = 1  # bump when the conversion changes: old folders are then ignored


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/activation_analysis``, or the same below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "activation_analysis"


def converted(file: Path, digest: str) -> Path:
    """The safetensors folder of a GGUF file, made on first use.

    Parameters
    ----------
    file : the ``.gguf`` file
    digest : its SHA-256, the key of the cache

    Raises
    ------
    ModelError
        If transformers cannot read the file.
    """
    folder = cache_folder() / "gguf" / f"{digest}-{FORMAT}"
    if (folder / "complete.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, then finds the work done
            if not (folder / "complete.json").is_file():
                _convert(file, digest, folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep the converted copy of {file.name} under {folder.parent}: {error}; "
            f"it takes about 4 bytes per weight, and XDG_CACHE_HOME moves it elsewhere"
        ) from error
    return folder


def _convert(file: Path, digest: str, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")  # the lock's holder alone writes here
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        # transformers 5.23 draws bars of its own for GGUF that no switch of its turns off.
        with (
            stage(f"Converting {file.name} (first use only)"),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            _write_model(file, partial)
        (partial / "complete.json").write_text(
            json.dumps({"source": file.name, "sha256": digest, "format": FORMAT})
        )
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_model(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # readers of files raise anything at all
        raise ModelError(
            f"cannot read {file} as a GGUF model: {error}\n"
            f"transformers reads the GGUF architectures listed in its documentation; "
            f"use the model's safetensors folder instead"
        ) from error
    # A model read from GGUF keeps a quantisation entry and then refuses save_pretrained.
    config = quantised.config
    del config.quantization_config
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
