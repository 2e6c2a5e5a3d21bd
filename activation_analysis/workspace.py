"""Where things are: the project's root, its experiments and its `mlruns`, from any folder."""

from __future__ import annotations

from pathlib import Path

MARKER = "MLproject"


def workspace_root(start: Path | None = None) -> Path:
    """The folder that holds ``mlruns/`` and ``experiments/``.

    The nearest folder at or above ``start`` (the current folder) with an ``MLproject`` of this
    project; else the checkout that this package runs from; else ``start`` itself.
    """
    start = Path.cwd() if start is None else start.resolve()
    checkout = Path(__file__).resolve().parent.parent
    for folder in (start, *start.parents, checkout):
        if _is_ours(folder / MARKER):
            return folder
    return start


def _is_ours(file: Path) -> bool:
    try:
        return file.read_text(encoding="utf-8").lstrip().startswith("name: activation_analysis")
    except (OSError, UnicodeDecodeError):
        return False


def runs_folder(root: Path | None = None) -> Path:
    """``mlruns/`` of the workspace, made if it is not there."""
    folder = (root or workspace_root()) / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def experiment_roots(start: Path | None = None) -> list[Path]:
    """Folders whose subfolders are experiments: ``./experiments``, then the workspace's."""
    start = Path.cwd() if start is None else start
    roots = [start / "experiments", workspace_root(start) / "experiments"]
    return [root for root in dict.fromkeys(r.resolve() for r in roots) if root.is_dir()]
