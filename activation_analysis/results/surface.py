"""How far words alone tell the sides of a contrast apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEARLY_PERFECT = 0.95
SHOWN_CUES = 3


@dataclass(frozen=True)
class SurfaceBaseline:
    """Cross-validated accuracy of a decoder that sees which words and marks a prompt has."""

    classes: tuple[str, ...]
    accuracy: float  # balanced: mean over classes; mean over shuffles
    lowest: float  # of the shuffles
    highest: float
    n_prompts: int
    n_folds: int
    telling: tuple[tuple[str, ...], ...]  # of each class: words that speak for it most
    cues: tuple[str, ...] = ()  # words that occur too unevenly for chance, with their counts

    @property
    def chance(self) -> float:
        return 1 / len(self.classes)

    @property
    def _chance_deviation(self) -> float:
        """What guessing reaches in 95 % of such sets lies within 1.96 of it around chance.

        A fifth more than the binomial's: folds share what they learn from (measured on random
        labels of real prompts).
        """
        return float(1.2 * np.sqrt(self.chance * (1 - self.chance) / self.n_prompts))

    def beats_chance(self, *, by: float) -> bool:
        """Whether the accuracy lies so far above chance, and beyond what guessing reaches."""
        return self.accuracy - self.chance > max(by, 1.96 * self._chance_deviation)

    @property
    def meaning(self) -> str:
        """What the accuracy says about maps of activations."""
        beyond = (self.accuracy - self.chance) / self._chance_deviation
        if self.accuracy >= NEARLY_PERFECT:
            return (
                "words alone give the conditions away, so a unit that responds to them may respond "
                "to wording or topic and nothing deeper"
            )
        if beyond > 1.96:
            return "part of any difference in activations may be wording"
        matched = (
            "words of one prompt mislead about another, as where a set is matched word by word"
            if beyond < -1.96
            else "words together do not tell the conditions apart"
        )
        if self.cues:
            return f"{matched}, but some are uneven: {', '.join(self.cues[:SHOWN_CUES])}"
        return f"{matched}, and none is uneven beyond chance"

    @property
    def sentence(self) -> str:
        """The accuracy and what it means, for a reader."""
        return (
            f"a bag-of-words decoder tells {_listed(self.classes)} apart with "
            f"{100 * self.accuracy:.0f} % balanced accuracy (chance {100 * self.chance:.0f} %): "
            f"{self.meaning}"
        )

    def metrics(self) -> dict[str, float]:
        return {"surface_accuracy": self.accuracy, "surface_chance": self.chance}


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
