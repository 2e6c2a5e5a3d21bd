"""ActivationStats gives the numbers that the pipeline's functions give."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from activation_analysis.activations import Activations
from activation_analysis.analyses import univariate
from activation_analysis.results import StatMap
from activation_analysis.statistics.hypothesis_tests import CONTRAST_TESTS, PAIRED_TESTS
from activation_analysis.statistics.permutation import max_t, unit_permutation
from activation_analysis.stats import ActivationStats

OFFERED = ["ttest", *CONTRAST_TESTS, "permutation"]


def recording(n=20, seed=0, shift=0.0, **changes) -> Activations:
    rng = np.random.default_rng(seed)
    fields = {
        "prompts": tuple(f"{seed}: prompt {i}" for i in range(n)),
        "n_tokens": np.full(n, 5),
        "position": "last",
        "model": "synthetic",
        "n_layers": 2,
        "values": {
            site: {k: (rng.normal(size=(n, 30)) + shift).astype(np.float32) for k in (0, 1)}
            for site in ("residual", "mlp")
        },
    }
    return Activations(**{**fields, **changes})


def groups(seed=0, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(18, 40)) + shift, rng.normal(size=(18, 40))


# compute_contrast


@pytest.mark.parametrize("test", OFFERED)
def test_every_documented_test_makes_a_map(test):
    a, b = groups()
    found = ActivationStats.compute_contrast(a, b, test=test)
    assert isinstance(found, StatMap)
    for name in ("statistic", "p_value", "df", "effect_size", "hedges_g", "mean_difference"):
        assert getattr(found, name).shape == (40,)
    assert np.all(found.excluded == "")
    assert np.all((found.p_value > 0) & (found.p_value <= 1))


def test_ttest_is_students_and_the_default():
    a, b = groups()
    found = ActivationStats.compute_contrast(a, b)
    expected = stats.ttest_ind(a, b)
    assert found.test == "student"
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-10)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)
    assert found.p_adjusted is None


def test_permutation_gives_both_p_values():
    a, b = groups()
    found = ActivationStats.compute_contrast(a, b, test="permutation", n_permutations=200, seed=3)
    expected = max_t(a, b, n_permutations=200, rng=np.random.default_rng(3))
    alone = unit_permutation([a, b], n_permutations=200, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(found.p_value, alone.p_value)
    np.testing.assert_array_equal(found.p_adjusted, expected.p_value)
    assert (found.control, found.family_size, found.test) == ("max_t", 40, "permutation")
    np.testing.assert_array_equal(found.statistic, ActivationStats.compute_contrast(a, b).statistic)


def test_recordings_arrays_and_tensors_give_the_same_numbers():
    import torch

    one, two = recording(shift=0.5).at("mlp"), recording(seed=1).at("mlp")
    from_recordings = ActivationStats.compute_contrast(one, two, test="welch")
    for convert in (np.asarray, lambda x: torch.tensor(x, requires_grad=True)):
        a, b = convert(one.matrix()), convert(two.matrix())
        found = ActivationStats.compute_contrast(a, b, test="welch")
        np.testing.assert_array_equal(found.p_value, from_recordings.p_value)
        assert found.units is None
    assert from_recordings.units.site == "mlp"
    assert "layer" in from_recordings.table()
    half = torch.tensor(one.matrix()).bfloat16()
    assert np.isfinite(ActivationStats.compute_contrast(half, half.flip(0)).effect_size).all()


def test_a_bad_unit_is_excluded_with_its_reason():
    a, b = groups()
    clean = ActivationStats.compute_contrast(a, b)
    a[0, 0], a[0, 1], a[:, 2], b[:, 2] = np.nan, np.inf, 0.1, 0.3
    for test in OFFERED:
        found = ActivationStats.compute_contrast(a, b, test=test)
        assert found.excluded[:4].tolist() == ["nan", "inf", "constant", ""]
        assert np.all(np.isnan(found.p_value[:3]))
    found = ActivationStats.compute_contrast(a, b)
    np.testing.assert_array_equal(found.p_value[3:], clean.p_value[3:])


# compute_layer_wise_stats


@pytest.mark.parametrize("test", CONTRAST_TESTS)
def test_layer_wise_stats_are_the_pipelines(test):
    one, two = recording(shift=0.6), recording(seed=1)
    found = ActivationStats.compute_layer_wise_stats(one, two, test=test, control="holm", seed=4)
    together = recording(
        n=40,
        values={
            site: {k: np.concatenate([one.values[site][k], two.values[site][k]]) for k in (0, 1)}
            for site in one.sites
        },
    )
    rows = np.arange(20), np.arange(20, 40)
    maps = univariate.contrast_maps(together, *rows, test=test, control="holm")
    halves = univariate.split_halves(
        *rows,
        blocks=np.arange(40) % 20 if test in PAIRED_TESTS else None,
        rng=np.random.default_rng(4),
    )
    expected = univariate.layer_profiles(
        maps,
        selection=univariate.half_effects(together, halves),
        family=univariate.simes_family(univariate.every_p_value([maps]), 0.05),
    )
    assert list(found) == list(one.sites)
    for site in found:
        assert found[site].table().equals(expected[site].table())


def test_layer_wise_stats_find_the_planted_layer():
    one, two = recording(), recording(seed=1)
    one.values["mlp"][1][:, :6] += 3
    found = ActivationStats.compute_layer_wise_stats(one, two, control="bonferroni", alpha=0.01)
    assert found["mlp"].n_significant.tolist() == [0, 6]
    assert found["residual"].n_significant.sum() == 0


# multiple_comparison_correction


def test_correction_rejects_and_adjusts():
    found = ActivationStats.multiple_comparison_correction(
        [0.01, 0.04, np.nan, 0.5], method="bonferroni", alpha=0.05
    )
    np.testing.assert_allclose(found.p_adjusted, [0.03, 0.12, np.nan, 1.0])
    assert found.rejected.tolist() == [True, False, False, False]
    assert ActivationStats.multiple_comparison_correction([0.01]).control == "fdr_bh"


# compute_rsa_similarity


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_rsa_compares_geometry_and_not_units(metric):
    x = np.random.default_rng(0).normal(size=(12, 50))
    similarity = ActivationStats.compute_rsa_similarity
    assert similarity(x, x[:, ::-1], metric=metric) == pytest.approx(1)
    assert similarity(x, np.repeat(x, 2, axis=1), metric=metric) == pytest.approx(1)
    unrelated = np.random.default_rng(1).normal(size=(12, 80))
    assert abs(similarity(x, unrelated, metric=metric)) < 0.4


def test_rsa_of_recordings_needs_the_same_prompts():
    one = recording()
    assert ActivationStats.compute_rsa_similarity(one.at("mlp"), one.at("mlp")) == pytest.approx(1)
    assert ActivationStats.compute_rsa_similarity(one.at("mlp"), one.at("residual")) < 0.5
    with pytest.raises(ValueError, match="different prompts"):
        ActivationStats.compute_rsa_similarity(one.at("mlp"), recording(seed=1).at("mlp"))
    with pytest.raises(ValueError, match="acts1 has 5 prompts and acts2 has 6"):
        ActivationStats.compute_rsa_similarity(np.ones((5, 3)), np.ones((6, 3)))


# summarize_contrast


def test_a_summary_counts_and_lists_the_strongest():
    a, b = groups()
    a[:, 7] += 5
    a[0, 8] = np.nan
    contrast = ActivationStats.compute_contrast(a, b)
    found = ActivationStats.summarize_contrast(contrast, top_n=5)
    assert (found.n, found.n_units, found.n_tested, found.n_excluded) == ((18, 18), 40, 39, 1)
    assert found.n_significant == (contrast.p_value <= 0.05).sum()
    assert found.top["index"][0] == 7
    assert len(found.top) == 5
    assert np.all(np.diff(found.top["effect_size"].abs()) <= 0)
    assert found.max_abs_d == abs(contrast.effect_size[7])
    assert len(ActivationStats.summarize_contrast(contrast, top_n=1000).top) == 39


def test_a_summary_of_several_sites_ranks_them_together():
    both = recording(n=40)
    both.values["mlp"][1][:20, 3] += 5
    maps = univariate.contrast_maps(both, range(20), range(20, 40))
    found = ActivationStats.summarize_contrast(maps, top_n=3)
    assert found.top.loc[0, ["site", "layer", "index"]].tolist() == ["mlp", 1, 3]
    assert (found.n_units, found.n_significant, found.control) == (120, 1, "fdr_bh")


# Refusals


def test_an_unknown_test_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"no test 't'; known: ttest, student.*permutation"):
        ActivationStats.compute_contrast(*groups(), test="t")


def test_several_sites_at_once_are_refused():
    with pytest.raises(ValueError, match="name one"):
        ActivationStats.compute_contrast(recording(), recording(seed=1))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "other"}, "model: 'synthetic' and 'other'"),
        ({"position": "mean"}, "position: 'last' and 'mean'"),
        ({"values": {"mlp": {0: np.ones((20, 30)), 1: np.ones((20, 30))}}}, "sites"),
        (
            {"values": {s: {0: np.ones((20, 30))} for s in ("residual", "mlp")}},
            "layers",
        ),
        (
            {"values": {s: {k: np.ones((20, 9)) for k in (0, 1)} for s in ("residual", "mlp")}},
            "units per layer",
        ),
    ],
)
def test_recordings_that_do_not_match_are_refused(changes, what):
    with pytest.raises(ValueError, match=f"differ in {what}"):
        ActivationStats.compute_layer_wise_stats(recording(), recording(seed=1, **changes))


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match="expected \\(n_prompts, n_units\\)"):
        ActivationStats.compute_contrast([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(ValueError, match="expected real numbers"):
        ActivationStats.compute_contrast([["a"], ["b"]], [[1.0], [2.0]])


def test_statistics_load_nothing_heavy():
    code = (
        "import sys, activation_analysis.stats; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'matplotlib', 'statsmodels') "
        "if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
