import json
from pathlib import Path

import pytest

ORACLES = Path(__file__).parents[2].parent / "shared" / "oracles"


@pytest.fixture(scope="session")
def oracle():
    """Certified or published numbers by file name, each with its source inside."""

    def read(name: str) -> dict:
        path = ORACLES / f"{name}.json"
        if not path.exists():
            pytest.skip(f"no reference numbers at {path}")
        return json.loads(path.read_text())

    return read
