"""What a check of prompts found, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from activation_analysis.results.design import Power
from activation_analysis.results.surface import SurfaceBaseline


@dataclass(frozen=True)
class Finding:
    """One thing that is off, in one sentence."""

    kind: str  # "duplicates", "near_duplicates", "templates", "imbalance", "few_prompts", ...
    message: str


@dataclass(frozen=True)
class ContrastCheck:
    """What the prompts of one contrast allow."""

    contrast: str  # as it is written
    sides: tuple[str, ...]  # two, or the conditions of an omnibus contrast
    balance: pd.DataFrame = field(repr=False)  # a row a measure, as `contrast_balance` has it
    excused: frozenset[str]  # measures that the test takes out, or that are expected to differ
    baseline: SurfaceBaseline | None  # None where nothing can be held out
    test: str
    relabellings: str  # how many, and what is exchanged; "" where there is no design
    power: Power | None  # None where there is no design
    notes: tuple[str, ...]  # worth knowing, not wrong


@dataclass(frozen=True)
class PromptCheck:
    """Everything that a check of an experiment's prompts found."""

    name: str
    counts: Mapping[str, int]  # prompts of every condition
    contrasts: tuple[ContrastCheck, ...]
    findings: tuple[Finding, ...]
    n_compared: int  # prompts that were searched for templates and near-duplicates
    sampled: bool = False  # whether these are some of many, drawn at random

    @property
    def passed(self) -> bool:
        return not self.findings

    def table(self) -> pd.DataFrame:
        """The balance of all contrasts, a row a contrast and measure."""
        parts = [c.balance.assign(contrast=c.contrast) for c in self.contrasts]
        whole = pd.concat(parts, ignore_index=True)
        return whole[["contrast", *(c for c in whole if c != "contrast")]]

    def summary(self) -> dict[str, object]:
        """All but the balance, as JSON can hold it."""
        return {
            "name": self.name,
            "counts": dict(self.counts),
            "passed": self.passed,
            "findings": [{"kind": f.kind, "message": f.message} for f in self.findings],
            "contrasts": [_summary(contrast) for contrast in self.contrasts],
        }


def _summary(checked: ContrastCheck) -> dict[str, object]:
    baseline, power = checked.baseline, checked.power
    return {
        "contrast": checked.contrast,
        "test": checked.test,
        "relabellings": checked.relabellings,
        "surface_baseline": baseline and {**baseline.metrics(), "meaning": baseline.meaning},
        "power": power and {**power.metrics(), "control": power.control},
        "notes": list(checked.notes),
    }
