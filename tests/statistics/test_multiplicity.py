"""Corrections for many tests against R's multtest, p.adjust and the papers' own examples."""

import itertools

import numpy as np
import pytest

from activation_analysis.statistics.multiplicity import CONTROLS, adjust, reject

every_control = pytest.mark.parametrize("control", CONTROLS)


MULTTEST = {"bonferroni": "Bonferroni", "holm": "Holm", "fdr_bh": "BH", "fdr_by": "BY"}


@pytest.mark.parametrize("table", ["res1_10", "res2_6", "res3_10", "large_30"])
@pytest.mark.parametrize("control", MULTTEST)
def test_adjusted_p_agrees_with_r_multtest(oracle, control, table):
    # R package multtest, mt.rawp2adjp, in statsmodels' tests.
    data = oracle("multiple_testing")["R_multtest_mt.rawp2adjp"]
    rows = np.array(data["tables"][table])
    column = data["columns"].index(MULTTEST[control])
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows))
    found = adjust(rows[order, 0], control=control)
    np.testing.assert_allclose(found.p_adjusted, rows[order, column], rtol=1e-14)


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
    # Benjamini, Krieger & Yekutieli (2006) on the same data; adjusted p as GraphPad Prism has it.
    found = adjust(data["p"], control="fdr_tsbky", alpha=data["q"])
    assert found.rejected.sum() == data["n_reject"]["bky_two_stage"]
    np.testing.assert_allclose(found.p_adjusted, data["bky_adjusted_prism"], atol=1e-4)


def test_two_stages_agree_with_prism_where_nothing_is_rejected(oracle):
    data = oracle("multiple_testing")["bky_prism_no_reject"]
    found = adjust(data["p"], control="fdr_tsbky").p_adjusted
    np.testing.assert_allclose(found, data["adj_alpha_0.05"], rtol=1e-14)


def test_two_stages_are_definition_6(oracle):
    # fdrfun's bky_test.m: definition 7 of the same paper rejects three of these.
    data = oracle("multiple_testing")["bky_discrepancy_case"]
    found = adjust(data["p"], control="fdr_tsbky", alpha=data["q"])
    assert found.rejected.sum() == data["n_reject_BKY_two_stage_def6"]


def test_holm_stops_at_the_first_failure(oracle):
    # The trap of Holm's step-down done as Hochberg's step-up.
    data = oracle("multiple_testing")["holm_step_down_trap"]
    found = adjust(data["p"], control="holm", alpha=data["alpha"])
    assert found.rejected.tolist() == data["holm_reject"]


@pytest.mark.parametrize("power", [1, 2, 8])  # up to most of the family rejected
@every_control
def test_adjusted_p_agrees_with_statsmodels(control, power):
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(3).uniform(size=5000).round(4) ** power  # with ties
    expected = multipletests(p, method=control)
    found = adjust(p, control=control)
    np.testing.assert_allclose(found.p_adjusted, expected[1], rtol=1e-12)
    np.testing.assert_array_equal(found.rejected, expected[0])


def test_two_stages_reject_all_where_the_first_does():
    # statsmodels 0.15 says so too.
    p = np.linspace(1e-4, 0.04, 50)
    found = adjust(p, control="fdr_tsbky")
    assert found.rejected.all()
    np.testing.assert_array_equal(found.p_adjusted, adjust(p).p_adjusted * 1.05)


def holm_by_definition(p, alpha):
    """Smallest first, stop at the first failure."""
    rejected = np.zeros(len(p), dtype=bool)
    for i, unit in enumerate(np.argsort(p)):
        if p[unit] * (len(p) - i) > alpha:
            break
        rejected[unit] = True
    return rejected


def step_up_by_definition(p, alpha):
    """All up to the largest i with p_(i) <= i alpha / m, by trying every i."""
    for i in range(len(p), 0, -1):
        if np.sum(p <= i * alpha / len(p)) >= i:
            return p <= i * alpha / len(p)
    return np.zeros(len(p), dtype=bool)


def two_stages_by_definition(p, alpha):
    first = step_up_by_definition(p, alpha / (1 + alpha))
    if not first.any() or first.all():
        return first
    return step_up_by_definition(p, alpha / (1 + alpha) * len(p) / (len(p) - first.sum()))


BY_DEFINITION = {
    "bonferroni": lambda p, alpha: p <= alpha / len(p),
    "holm": holm_by_definition,
    "fdr_bh": step_up_by_definition,
    "fdr_by": lambda p, alpha: step_up_by_definition(p, alpha / sum(1 / np.arange(1, len(p) + 1))),
    "fdr_tsbky": two_stages_by_definition,
}


@every_control
def test_rejections_are_those_of_the_definition(control):
    rng = np.random.default_rng(5)
    for m, alpha in itertools.product(range(1, 13), (0.01, 0.05, 0.3, 0.9)):
        for p in rng.uniform(size=(40, m)) ** rng.integers(1, 5, size=(40, 1)):
            expected = BY_DEFINITION[control](p, alpha)
            np.testing.assert_array_equal(adjust(p, control, alpha).rejected, expected)


@every_control
def test_the_mask_alone_is_the_same_mask(control):
    rng = np.random.default_rng(6)
    for power, alpha in itertools.product((1, 2, 6), (0.01, 0.05, 0.5)):
        p = rng.uniform(size=(3, 400)).round(3) ** power
        p[0, 7] = np.nan
        np.testing.assert_array_equal(reject(p, control, alpha), adjust(p, control, alpha).rejected)
    assert not reject([0.9, np.nan, 0.8], control).any()
    assert reject([], control).shape == (0,)


@every_control
def test_a_missing_p_value_leaves_the_others_bit_identical(control):
    p = np.random.default_rng(7).uniform(size=2000) ** 3
    found = adjust(np.insert(p, 1234, np.nan), control)
    np.testing.assert_array_equal(np.delete(found.p_adjusted, 1234), adjust(p, control).p_adjusted)
    assert np.isnan(found.p_adjusted[1234])
    assert found.family_size == 2000


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
    assert np.all(found.p_adjusted <= 1)
    if control != "fdr_tsbky":  # whose estimate of the true nulls may take p below itself
        assert np.all(found.p_adjusted >= p)
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
    with pytest.raises(ValueError, match="no control 'max_t'; known: fdr_bh, fdr_by, fdr_tsbky"):
        reject([0.1], control="max_t")


def test_too_few_permutations_for_the_family_are_refused():
    p = np.full(1000, 1 / 1000)
    with pytest.raises(ValueError, match="one unit of 1,000 needs"):
        adjust(p, n_permutations=999)
    assert adjust(p, n_permutations=19_999).rejected.all()


def test_bh_agrees_with_tilestats(oracle):
    data = oracle("multiple_testing")["tilestats_BH"]
    np.testing.assert_allclose(adjust(data["p"]).p_adjusted, data["adj"], atol=data["atol"])


@pytest.mark.parametrize("control", CONTROLS)
def test_a_tiny_p_among_many_large_ones_stays_tiny_and_above_zero(control):
    # statsmodels issue 7465: 6000 p-values of .99 and one of 1.1e-56.
    p = np.full(6000, 0.99)
    p[0] = 1.138569e-56
    assert 1e-60 < adjust(p, control=control).p_adjusted[0] < 1e-50
