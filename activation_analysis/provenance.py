"""What made a run: versions, commit, command, and whether the tree was clean."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "accelerate",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "safetensors",
    "scipy",
    "statsmodels",
    "tokenizers",
    "torch",
    "transformers",
)
LONGEST_DIFF = 1_000_000  # characters


@dataclass(frozen=True)
class Provenance:
    """Where the code that ran came from, and on what it ran."""

    version: str
    commit: str  # "" outside a git checkout
    dirty: bool
    diff: str
    command: str
    python: str
    machine: str
    packages: dict[str, str] = field(default_factory=dict)

    def requirements(self) -> str:
        """The versions that were installed, as a constraints file."""
        return "".join(f"{name}=={version}\n" for name, version in self.packages.items())


def code_version() -> str:
    try:
        return metadata.version("activation_analysis")
    except metadata.PackageNotFoundError:
        return "unknown"


def provenance() -> Provenance:
    """Ask git and the installed packages; never fails for want of git."""
    checkout = Path(__file__).resolve().parent.parent
    # Not the commit of whatever repository the package happens to be installed below.
    in_checkout = (checkout / "MLproject").is_file()
    commit = _git(checkout, "rev-parse", "HEAD") if in_checkout else ""
    changed = bool(_git(checkout, "status", "--porcelain")) if commit else False
    return Provenance(
        version=code_version(),
        commit=commit.strip(),
        dirty=changed,
        diff=_git(checkout, "diff", "HEAD")[:LONGEST_DIFF] if changed else "",
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _git(folder: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return answer.stdout
