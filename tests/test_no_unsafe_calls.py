"""No code of ours can run what a file says: nothing is unpickled, evaluated or given to a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    file
    for folder in ("activation_analysis", "scripts", "benchmarks", "experiments")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "pd.read_pickle",
    "pandas.read_pickle",
}
UNSAFE_OPTIONS = {"allow_pickle": True, "shell": True, "trust_remote_code": True}


def unsafe(tree: ast.AST) -> list[str]:
    """Line and name of everything in ``tree`` that could run foreign code."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] * (node.module.split(".")[0] in UNSAFE_MODULES)
            names += [a.name for a in node.names if f"{node.module}.{a.name}" in UNSAFE_CALLS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            is_pickling = called.endswith((".to_pickle", ".read_pickle"))
            names = [called] * (called in UNSAFE_CALLS or is_pickling)
            names += [
                f"{option.arg}={ast.unparse(option.value)}"
                for option in node.keywords
                if option.arg in UNSAFE_OPTIONS
                and not (isinstance(option.value, ast.Constant) and option.value.value is False)
            ]
        found += [f"{node.lineno}: {name}" for name in names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_unsafe_is_called(file):
    assert unsafe(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load('x')",
        "np.load(f, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(c, shell=True)",
        "subprocess.run(c, shell=flag)",
        "eval('1')",
        "frame.to_pickle('x')",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_check_sees(code):
    assert unsafe(ast.parse(code))
