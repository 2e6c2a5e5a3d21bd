"""RDMs and their comparison."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from activation_analysis.statistics.dissimilarity import COMPARISONS, METRICS, compare, rdm

every_metric = pytest.mark.parametrize("metric", METRICS)
every_comparison = pytest.mark.parametrize("metric", COMPARISONS)


def patterns(n=12, n_units=40, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_units))


@every_metric
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rdm_agrees_with_scipy(metric, dtype):
    x = (patterns() + 3).astype(dtype)
    np.testing.assert_allclose(rdm(x, metric), pdist(x.astype(float), metric), atol=1e-12)


@every_metric
def test_rdm_does_not_mind_the_order_of_units_nor_duplicates(metric):
    x = patterns()
    np.testing.assert_allclose(rdm(x[:, ::-1], metric), rdm(x, metric), atol=1e-12)
    assert rdm(np.vstack([x[0], x[0], x[1]]), metric)[0] == pytest.approx(0, abs=1e-12)
    assert np.all(rdm(x, metric) >= 0)


def test_correlation_ignores_a_prompts_offset_and_gain():
    x = patterns()
    moved = x * np.linspace(0.5, 3, 12)[:, None] + 1e4
    np.testing.assert_allclose(rdm(moved, "correlation"), rdm(x, "correlation"), atol=1e-9)


def test_comparisons_agree_with_scipy():
    x, y = rdm(patterns(seed=1)), rdm(patterns(seed=2))
    x = x.round(1)  # with ties
    assert compare(x, y, "pearson") == pytest.approx(stats.pearsonr(x, y).statistic)
    assert compare(x, y, "spearman") == pytest.approx(stats.spearmanr(x, y).statistic)
    assert compare(x, y, "cosine") == pytest.approx(x @ y / np.sqrt(x @ x * (y @ y)))
    assert compare(y, -y, "tau_a") == pytest.approx(stats.kendalltau(y, -y).statistic)


@pytest.mark.parametrize(
    ("metric", "scipys"), [("rho_a", stats.spearmanr), ("tau_a", stats.kendalltau)]
)
def test_a_comparisons_average_over_random_orders_of_ties(metric, scipys):
    # Schuett et al. (2023): rho-a and tau-a are expectations over ties broken at random.
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, size=30).astype(float), rng.normal(size=30)
    broken = [scipys(x + rng.uniform(-0.1, 0.1, 30), y).statistic for _ in range(3000)]
    assert compare(x, y, metric) == pytest.approx(np.mean(broken), abs=0.005)


@every_comparison
def test_same_geometry_is_one_and_unrelated_is_about_zero(metric):
    x = rdm(patterns(20))
    assert compare(x, 2 * x, metric) == pytest.approx(1)
    if metric != "cosine":  # dissimilarities are positive, so their cosine is never near zero
        unrelated = [compare(x, rdm(patterns(20, seed=s)), metric) for s in range(1, 40)]
        assert abs(np.mean(unrelated)) < 0.03


@every_comparison
def test_planted_categories_are_found(metric):
    shared = np.random.default_rng(0).normal(size=(2, 40))
    member = np.repeat([0, 1], 10)
    model = rdm(np.eye(2)[member], "euclidean")
    with_it, without = (
        compare(rdm(effect * shared[member] + patterns(20)), model, metric) for effect in (2, 0)
    )
    assert with_it > without + 0.1


def test_ties_give_no_advantage_by_default():
    # Schuett et al. (2023): a model that ties what it should tell apart scores no higher.
    truth = rdm(patterns(10))
    lumped = np.where(truth > np.median(truth), 1.0, 0.0)
    assert compare(truth, lumped) < compare(truth, lumped, "spearman")
    assert compare(truth, truth) == pytest.approx(compare(truth, truth, "spearman"))


def test_flat_rdms_have_no_order():
    for metric in set(COMPARISONS) - {"cosine"}:
        assert np.isnan(compare(np.full(6, 0.1), np.arange(6.0), metric))


def test_unusable_patterns_are_refused():
    x = patterns()
    x[3] = 0.1
    with pytest.raises(ValueError, match=r"prompts 3 \(1 in all\) have a pattern without"):
        rdm(x)
    x[0, :2] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 40 units hold NaN or inf"):
        rdm(x)
    with pytest.raises(ValueError, match=r"patterns have shape \(40,\)"):
        rdm(x[0])
    with pytest.raises(ValueError, match="no metric 'l1'; known: correlation, cosine"):
        rdm(x, "l1")


def test_unusable_rdms_are_refused():
    with pytest.raises(ValueError, match="same number of pairs"):
        compare(np.arange(6), np.arange(10))
    with pytest.raises(ValueError, match="three or more"):
        compare(np.arange(1), np.arange(1))
    with pytest.raises(ValueError, match="holds NaN"):
        compare(np.arange(3), [0, np.nan, 1])
    with pytest.raises(ValueError, match="no comparison 'kendall'; known: rho_a"):
        compare(np.arange(3), np.arange(3), "kendall")
