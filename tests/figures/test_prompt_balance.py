"""The figure of a check: what is too large is red, what is declared is hollow, nothing is cut."""

import pandas as pd
import pytest

from activation_analysis.figures.gallery import save
from activation_analysis.figures.prompt_balance import prompt_balance
from activation_analysis.figures.style import FIRST
from activation_analysis.results import ContrastCheck, PromptCheck, SurfaceBaseline


def checked(*, n_contrasts=1, baseline=True):
    rows = [("words", 0.02), ("characters", 0.4), ("punctuation", 3.1), ("digits", float("inf"))]
    balance = pd.DataFrame(
        [
            {
                "covariate": name, "mean_first": 1.0, "sd_first": 1.0, "mean_second": 2.0,
                "sd_second": 1.0, "smd": smd, "limit": 0.25, "flagged": abs(smd) > 0.25, "pair": "",
            }
            for name, smd in rows
        ]
    )  # fmt: skip
    surface = SurfaceBaseline(("a", "b"), 0.7, 0.65, 0.74, 120, 10, (("x",), ("y",)))
    one = ContrastCheck(
        contrast="a $x_{ - b", sides=("a", "b"), balance=balance,
        excused=frozenset({"punctuation"}), baseline=surface if baseline else None,
        test="welch", relabellings="", power=None, notes=(),
    )  # fmt: skip
    return PromptCheck("set", {"a": 60, "b": 60}, (one,) * n_contrasts, (), 120)


@pytest.mark.parametrize("shape", [{}, {"n_contrasts": 3}, {"baseline": False}])
def test_it_draws_without_a_warning(shape, tmp_path):
    fig = prompt_balance(checked(**shape))
    assert save(fig, tmp_path / "balance.png").stat().st_size > 5000


def test_what_is_too_large_is_red_and_what_is_declared_is_hollow():
    points = [line for line in prompt_balance(checked()).axes[0].lines if line.get_marker() == "o"]
    fills = [point.get_markerfacecolor() for point in points]
    assert fills == ["#222222", FIRST, "white", FIRST]
    assert max(abs(point.get_xdata()[0]) for point in points) <= 1.5
