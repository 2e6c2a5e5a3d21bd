"""Matched prompts are tested as what they are: pairs, or blocks of a repeated-measures design."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from activation_analysis.analyses import effects
from activation_analysis.experiment import Experiment
from activation_analysis.study_designs import asked, design_of

N_ITEMS, N_UNITS = 14, 5


@pytest.fixture(params=["item {}", "{}"], ids=["names", "numbers"])
def triples(request, tmp_path):
    """Triples by item; items that are called by numbers are items all the same."""
    rows = [
        f"{c},{c} text {i},{request.param.format(i)}"
        for c in ("a", "b", "c")
        for i in range(N_ITEMS)
    ]
    path = tmp_path / "p.csv"
    path.write_text("condition,prompt,item\n" + "\n".join(rows) + "\n")
    return Experiment.from_prompts(path, "a | b | c")


def responses(rng, effect=0.0):
    """Activations of a triple design whose items differ a lot, (3 * N_ITEMS, N_UNITS)."""
    item = np.tile(np.arange(N_ITEMS), 3)
    condition = np.repeat([0.0, 1.0, -1.0], N_ITEMS)
    noise = rng.normal(size=(3 * N_ITEMS, N_UNITS))
    return 3 * rng.normal(size=(N_ITEMS, N_UNITS))[item] + noise + effect * condition[:, None]


def test_the_omnibus_test_of_triples_is_that_of_repeated_measures(triples):
    x = responses(np.random.default_rng(0), effect=0.7)
    omnibus = asked(triples)[0]
    design = design_of(triples, omnibus)
    found = effects.tested([x[rows] for rows in design.rows], design)
    table = triples.prompts.table
    for unit in range(N_UNITS):
        long = pd.DataFrame(
            {"y": x[:, unit], "item": table["item"], "condition": table["condition"]}
        )
        expected = AnovaRM(long, "y", "item", within=["condition"]).fit().anova_table
        assert found.statistic[unit] == pytest.approx(expected["F Value"].iloc[0], rel=1e-9)
        assert found.p_value[unit] == pytest.approx(expected["Pr > F"].iloc[0], rel=1e-7)


def test_every_pair_of_triples_is_a_paired_t(triples):
    x = responses(np.random.default_rng(1), effect=0.7)
    pairs = asked(triples)[1:]
    assert len(pairs) == 3
    for contrast in pairs:
        design = design_of(triples, contrast)
        first, second = (x[rows] for rows in design.rows)
        found = effects.tested([first, second], design)
        expected = stats.ttest_rel(first, second)
        np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-9)
        np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-7)


def test_blocked_nulls_stay_null_and_effects_hidden_by_items_are_found(triples):
    rng = np.random.default_rng(2)
    design = design_of(triples, asked(triples)[0])

    def p_values(effect):
        drawn = [responses(rng, effect) for _ in range(400)]
        return np.concatenate(
            [effects.tested([x[r] for r in design.rows], design).p_value for x in drawn]
        )

    null = np.mean(p_values(0.0) <= 0.05)
    assert abs(null - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(p_values(1.0) <= 0.05) > 0.85
