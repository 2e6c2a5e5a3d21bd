"""Who may import whom: DESIGN.md's table, read from the code. Imports inside functions count."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import activation_analysis

PACKAGE = Path(activation_analysis.__file__).parent
HEAVY = ("torch", "transformers", "mlflow", "matplotlib", "scipy", "statsmodels")
HEAVY += ("openpyxl", "datasets")

# Everything at the root that is not named below is a noun, and knows nouns only.
# room or module -> what of ours it may import beside nouns and itself, and which libraries
NOUN_LIBRARIES = {"numpy", "pandas", "rich"}
# A format with a library of its own is read by one noun, which loads it when such a file comes.
FORMAT_LIBRARIES = {"prompt_workbooks": {"openpyxl"}, "prompt_datasets": {"pyarrow", "datasets"}}
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "word_frequency": (set(), {"numpy", "wordfreq"}),  # an extra
    "statistics": (set(), {"numpy", "scipy", "statsmodels", "threadpoolctl", "torch"}),
    "store": (set(), {"numpy", "safetensors"}),
    "models": (
        {"store", "provenance"},
        {
            "numpy",
            "pandas",
            "torch",
            "transformers",
            "accelerate",
            "huggingface_hub",
            "tokenizers",
            "safetensors",
            "gguf",
        },
    ),
    "analyses": ({"statistics"}, {"numpy", "pandas"}),
    "study_designs": ({"analyses"}, {"numpy", "pandas"}),
    "study_calibration": ({"analyses", "study_designs"}, {"numpy"}),
    "surface_baseline": ({"statistics"}, {"numpy"}),
    "prompt_findings": ({"analyses", "surface_baseline"}, {"numpy", "pandas"}),
    "prompt_check": (
        {"analyses", "prompt_findings", "study_designs", "surface_baseline"},
        {"numpy"},
    ),
    "checking": (
        {
            "figures",
            "models",
            "pipeline",
            "power_arguments",
            "prompt_check",
            "study_designs",
            "word_frequency",
        },
        {"numpy"},
    ),
    "stats": ({"statistics", "analyses"}, {"numpy", "pandas"}),
    "figures": (set(), {"numpy", "pandas", "matplotlib"}),
    "report": ({"figures", "store", "provenance"}, {"numpy", "pandas", "jinja2", "pyarrow"}),
    "provenance": (set(), set()),
    "acquisition": ({"models", "analyses", "store", "pipeline"}, {"numpy", "safetensors"}),
    "pipeline": (
        {
            "acquisition",
            "models",
            "analyses",
            "provenance",
            "store",
            "study_calibration",
            "study_designs",
            "surface_baseline",
        },
        {"numpy", "pandas"},
    ),
    "plan": ({"models", "pipeline"}, set()),
    "contract": ({"pipeline", "provenance", "report", "store"}, {"numpy", "pandas"}),
    "tracking": (
        {"contract", "pipeline", "provenance", "figures", "report", "store"},
        {"mlflow", "numpy", "pandas"},
    ),
    "compare": ({"statistics", "contract", "tracking"}, {"numpy", "pandas"}),
}
UNBOUND = {
    "__init__",
    "__main__",
    "cli",
    "command_options",
    "command_parser",
    "commands",
    "terminal",
    "terminal_check",
    "terminal_tokens",
    "terminal_power",
    "power_arguments",
}  # they may import all of ours
KNOW_NOTHING_OF_OURS = {"statistics"}


@cache
def imports() -> dict[str, set[tuple[str, str]]]:
    """Room or root module -> (place, imported name) of every import in it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE)
        room = inside.parts[0].removesuffix(".py")
        found.setdefault(room, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            place = f"{inside.as_posix()}:{getattr(node, 'lineno', 0)}"
            found[room] |= {(place, name) for name in _imported(node)}
    return found


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, "imports name their module in full"
    if node.module == "activation_analysis":
        return {f"activation_analysis.{alias.name}" for alias in node.names}
    return {node.module}


def ours(room: str) -> list[tuple[str, str]]:
    """What ``room`` imports of ours: (place, room that it imports from)."""
    parts = [(place, name.split(".")) for place, name in imports()[room]]
    return [(place, p[1]) for place, p in parts if p[0] == "activation_analysis" and len(p) > 1]


def libraries(room: str) -> list[tuple[str, str]]:
    tops = [(place, name.split(".")[0]) for place, name in imports()[room]]
    standard = sys.stdlib_module_names | {"activation_analysis"}
    return [(place, top) for place, top in tops if top not in standard]


@pytest.mark.parametrize("room", sorted(imports()))
def test_a_room_imports_only_what_it_may(room):
    if room in UNBOUND:
        return
    of_a_noun = NOUN_LIBRARIES | FORMAT_LIBRARIES.get(room, set())
    named, libraries_allowed = ROOMS.get(room, (set(), of_a_noun))
    strangers = set(ROOMS) | UNBOUND
    broken = [
        f"{place} imports {other}"
        for place, other in ours(room)
        if other != room
        and (room in KNOW_NOTHING_OF_OURS or (other in strangers and other not in named))
    ]
    broken += [
        f"{place} imports {library}"
        for place, library in libraries(room)
        if library not in libraries_allowed
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        ("mlflow", {"tracking"}),
        ("matplotlib", {"figures"}),
        ("statsmodels", {"statistics"}),
        ("scipy", {"statistics"}),
        ("accelerate", {"models"}),
        ("openpyxl", {"prompt_workbooks"}),
        ("datasets", {"prompt_datasets"}),
        ("pyarrow", {"prompt_datasets", "report"}),
        ("huggingface_hub", {"models"}),
        ("transformers", {"models", "plan"}),
    ],
)
def test_a_heavy_library_has_few_importers(library, importers):
    found = {room for room in imports() if library in dict(map(reversed, libraries(room)))}
    assert found <= importers


@pytest.mark.parametrize("module", ["activation_analysis", "activation_analysis.cli"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
