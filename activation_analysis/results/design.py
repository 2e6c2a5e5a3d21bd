"""What a design can find, and how its labels were shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.results.wording import many, percent

EXCHANGED = {  # what a relabelling does, by its kind
    "free": "any prompt may take any other's place",
    "within": "prompts exchange within their group",
    "whole": "whole groups exchange",
    "signs": "the two prompts of an item exchange",
}


@dataclass(frozen=True)
class Power:
    """What the design at hand can detect under the stated control."""

    n: tuple[int, int]
    alpha: float  # per unit, where the control tests an effect of the minimum detectable size
    minimum_detectable_d: float  # abs(d) found in 80 % of studies at that alpha
    power_at_half: float  # power for abs(d) = 0.5 at that alpha
    power_at_half_uncorrected: float  # the same for one unit chosen beforehand
    control: str = "bonferroni"
    effect: str = "d"  # or "d_z", of pairs

    @property
    def sentence(self) -> str:
        """What the design can find, for a reader."""
        assumed = ", if 5 % of the units respond" if self.control.startswith("fdr") else ""
        return (
            f"{self.effect} = {self.minimum_detectable_d:.2f} is found in 80 % of studies, "
            f"{self.effect} = 0.5 in {percent(self.power_at_half)} ({self.control}{assumed})"
        )

    def metrics(self) -> dict[str, float]:
        return {
            "minimum_detectable_d": self.minimum_detectable_d,
            "power_at_d_0.5": self.power_at_half,
        }


@dataclass(frozen=True)
class PermutationSummary:
    """What a family-wise permutation test of a contrast shuffled, and how far chance reached."""

    n_permutations: int  # relabellings used; all of them, the observed one included, if exact
    exact: bool
    n_possible: int  # relabellings that the design allows
    n_ties: int  # that share each two-sided statistic: with labels of equal size, their opposite
    exchangeable: str  # "free", "within", "whole" or "signs"
    null_max: np.ndarray  # (n_permutations,) largest of each relabelling, over the whole family
    critical: float  # what a unit must reach in a single step
    is_statistic: bool  # both are abs(statistic); else -log10 of its parametric p
    is_abs_t: bool  # the statistic is a t
    tail_shape: float  # of the generalised Pareto tail; NaN where none was fitted
    tail_fit_p: float  # its goodness of fit
    tail_passed: bool

    @property
    def smallest_p(self) -> float:
        """No p-value can be smaller."""
        return (self.n_ties if self.exact else 1) / (self.n_permutations + (not self.exact))

    def metrics(self) -> dict[str, float]:
        return {"n_permutations": self.n_permutations, "max_t_critical": self.critical}

    @property
    def sentence(self) -> str:
        """How labels were shuffled, for a reader."""
        how = EXCHANGED[self.exchangeable]
        used = "all of them" if self.exact else f"{self.n_permutations:,} drawn"
        return (
            f"{many(self.n_possible)} relabellings are possible ({how}); {used}: "
            f"no p below {self.smallest_p:.2g}"
        )
