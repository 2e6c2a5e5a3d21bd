"""Corrections for many tests against R's multtest, p.adjust and the papers' own examples."""

import gc

import numpy as np
import pytest

from activation_analysis.statistics.multiplicity import CONTROLS, adjust

every_control = pytest.mark.parametrize("control", CONTROLS)


@pytest.fixture(autouse=True)
def nothing_to_collect():
    """statsmodels 0.15 collects garbage at every call: slow where a suite has filled the heap."""
    gc.freeze()
    yield
    gc.unfreeze()


MULTTEST = {"bonferroni": "Bonferroni", "holm": "Holm", "fdr_bh": "BH", "fdr_by": "BY"}


@pytest.mark.parametrize("table", ["res1_10", "res2_6", "res3_10", "large_30"])
@every_control
def test_adjusted_p_agrees_with_r_multtest(oracle, control, table):
    # R package multtest, mt.rawp2adjp, in statsmodels' tests.
    data = oracle("multiple_testing")["R_multtest_mt.rawp2adjp"]
    rows = np.array(data["tables"][table])
    column = data["columns"].index(MULTTEST[control])
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows))
    found = adjust(rows[order, 0], control=control)
    np.testing.assert_allclose(found.p_adjusted, rows[order, column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("control", "name"), [("fdr_bh", "BH"), ("fdr_by", "BY")])
def test_adjusted_p_agrees_with_r_p_adjust(oracle, control, name):
    # R p.adjust, with a tie.
    data = oracle("multiple_testing")["R_p.adjust_with_tie"]
    found = adjust(data["p"], control=control).p_adjusted
    np.testing.assert_allclose(found, data[name], atol=data["atol"])


@pytest.mark.parametrize(
    ("control", "name"),
    [("fdr_bh", "BH"), ("fdr_by", "BY"), ("bonferroni", "bonf"), ("holm", "holm")],
)
def test_nan_leaves_the_family(oracle, control, name):
    # R p.adjust through pingouin's tests: NaN is no test, and stays NaN.
    plain, missing = (
        oracle("multiple_testing")[k] for k in ("R_p.adjust_pingouin", "NaN_policy_pingouin")
    )
    found = adjust(np.array(plain["p"]), control=control)
    np.testing.assert_allclose(found.p_adjusted, plain[name], rtol=1e-6)
    p, expected = (np.array([float(v) for v in missing[k]]) for k in ("p", name))
    found = adjust(p, control=control)
    np.testing.assert_allclose(found.p_adjusted, expected, rtol=1e-6)
    assert found.family_size == 4
    assert not found.rejected[1]


def test_benjamini_and_hochbergs_own_example(oracle):
    # Benjamini & Hochberg (1995), section 4.1.
    data = oracle("multiple_testing")["BH1995_TAPS"]
    found = adjust(data["p"], control="fdr_bh", alpha=data["q"])
    assert found.rejected.sum() == data["n_reject"]["bh"]
    np.testing.assert_allclose(found.p_adjusted, data["bh_adjusted"], atol=1e-6)
    assert adjust(data["p"], control="bonferroni").rejected.sum() == data["n_reject"]["bonferroni"]


def test_holm_stops_at_the_first_failure(oracle):
    # The trap of Holm's step-down done as Hochberg's step-up.
    data = oracle("multiple_testing")["holm_step_down_trap"]
    found = adjust(data["p"], control="holm", alpha=data["alpha"])
    assert found.rejected.tolist() == data["holm_reject"]


@every_control
def test_adjusted_p_agrees_with_statsmodels(control):
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(3).uniform(size=5000).round(4) ** 2  # with ties
    expected = multipletests(p, method=control)
    found = adjust(p, control=control)
    np.testing.assert_allclose(found.p_adjusted, expected[1], rtol=1e-12)
    np.testing.assert_array_equal(found.rejected, expected[0])


@every_control
def test_a_tiny_p_value_does_not_underflow(control):
    p = np.full(6000, 0.99)
    p[0] = 1.138569e-56  # statsmodels issue 7465
    assert 1e-60 < adjust(p, control=control).p_adjusted[0] < 1e-50


@every_control
def test_order_shape_and_bounds_are_kept(control):
    p = np.random.default_rng(0).uniform(size=(7, 11)) ** 3
    found = adjust(p, control=control)
    assert found.p_adjusted.shape == found.rejected.shape == (7, 11)
    assert np.all((found.p_adjusted >= p) & (found.p_adjusted <= 1))
    assert np.all(np.diff(found.p_adjusted.ravel()[np.argsort(p.ravel())]) >= 0)
    np.testing.assert_array_equal(found.rejected, found.p_adjusted <= 0.05)


@every_control
def test_null_families_are_controlled(control):
    rng = np.random.default_rng(1)
    hits = [adjust(p, control=control).rejected.any() for p in rng.uniform(size=(1000, 40))]
    assert np.mean(hits) < 0.07


@every_control
def test_a_planted_p_value_survives(control):
    p = np.random.default_rng(2).uniform(0.05, 1, size=10_000)
    p[123] = 1e-9
    assert np.flatnonzero(adjust(p, control=control).rejected).tolist() == [123]


@every_control
def test_edges_are_allowed(control):
    assert adjust([0.0, -0.0, 1.0], control=control).rejected.tolist() == [True, True, False]
    for empty in ([], [np.nan, np.nan]):
        found = adjust(empty, control=control)
        assert found.family_size == 0
        assert not found.rejected.any()


def test_what_is_no_p_value_is_refused():
    with pytest.raises(ValueError, match=r"1 of 3 p-values lie outside 0\.\.1, first 2\.3"):
        adjust([0.1, 2.3, 0.4])
    with pytest.raises(ValueError, match="no control 'fdr'; known: fdr_bh, fdr_by"):
        adjust([0.1], control="fdr")
    with pytest.raises(ValueError, match="alpha is 5"):
        adjust([0.1], alpha=5)
