"""F, linear contrasts and regressions: certified answers, statsmodels, invariants, refusals."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from activation_analysis.statistics import moments as moments_module
from activation_analysis.statistics.anova import one_way_f
from activation_analysis.statistics.effect_size import cohens_d
from activation_analysis.statistics.hypothesis_tests import glm_f, glm_t, student_t, welch_t
from activation_analysis.statistics.linear_model import (
    adjusted_f,
    contrast_effect_size,
    contrast_t,
    indicators,
    linear_model,
    weighted_t,
)
from activation_analysis.statistics.moments import moments

NIST_ANOVA = (
    *("SiRstv", "AtmWtAg"),
    *(f"SmLs0{k}" for k in range(1, 10)),
)


def column(values) -> np.ndarray:
    return np.array([float(v) for v in values])[:, None]


def samples(*sizes, n_units=40, shifts=None, seed=0):
    rng = np.random.default_rng(seed)
    shifts = shifts or [0.2 * k for k in range(len(sizes))]
    return [rng.normal(s, 1, size=(n, n_units)) for n, s in zip(sizes, shifts, strict=True)]


def covariate(n, k=2, seed=9):
    return np.random.default_rng(seed).normal(size=(n, k)) + 3


def regressed(groups, nuisance=None):
    """statsmodels' fit of one unit after another on means of groups and covariates."""
    sizes = [len(g) for g in groups]
    design = np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]
    if nuisance is not None:
        design = np.hstack([design, nuisance])
    return [sm.OLS(unit, design).fit() for unit in np.vstack(groups).T]


def assert_same_bits(found, expected, at=slice(None)):
    for name in ("statistic", "p_value", "df", "df2"):
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[at])


# Known answers


def certified(oracle, dataset):
    """NIST's groups, from tables of value -> count, and its certified numbers."""
    data = oracle("nist_anova")["datasets"][dataset]
    tables = [np.array(g).T for g in data["groups"]]
    return data, [np.repeat(values, counts.astype(int))[:, None] for values, counts in tables]


# The certified digits assume decimal values: at 13 constant leading digits, doubles hold them
# to 7e-5; at 7, to 7e-11.
def attainable(dataset):
    return {"7": 1e-4, "8": 1e-4, "9": 1e-4}.get(dataset[-1] if "SmLs" in dataset else "", 1e-10)


@pytest.mark.parametrize("dataset", NIST_ANOVA)
def test_f_reproduces_nists_certified_values(oracle, dataset):
    # NIST StRD one-way ANOVA, all eleven sets.
    data, groups = certified(oracle, dataset)
    for found in (one_way_f(*groups), one_way_f(*map(moments, groups)), glm_f(*groups)):
        assert found.statistic[0] == pytest.approx(data["F"], rel=attainable(dataset))
        assert (found.df[0], found.df2[0]) == (data["df_between"], data["df_within"])


def test_students_t_squared_is_nists_f(oracle):
    # AtmWtAg has two groups and seven constant leading digits.
    data, groups = certified(oracle, "AtmWtAg")
    assert student_t(*groups).statistic[0] ** 2 == pytest.approx(data["F"], rel=1e-10)


@pytest.mark.parametrize("dataset", NIST_ANOVA)
def test_regression_on_conditions_reproduces_nists_f(oracle, dataset):
    data, groups = certified(oracle, dataset)
    y, labels = np.vstack(groups), indicators([len(g) for g in groups])
    design = np.hstack([np.ones((len(y), 1)), labels])
    by_regression = linear_model(y, design, np.eye(design.shape[1])[1:])
    for found in (adjusted_f(groups, None), by_regression):
        assert found.statistic[0] == pytest.approx(data["F"], rel=attainable(dataset))


LONGLEY = {  # NIST StRD linear regression, Longley: coefficient and its standard error
    "const": (-3482258.63459582, 890420.383607373),
    "GNPDEFL": (15.0618722713733, 84.9149257747669),
    "GNP": (-0.358191792925910e-01, 0.334910077722432e-01),
    "UNEMP": (-2.02022980381683, 0.488399681651699),
    "ARMED": (-1.03322686717359, 0.214274163161675),
    "POP": (-0.511041056535807e-01, 0.226073200069370),
    "YEAR": (1829.15146461355, 455.478499142212),
}


def longley():
    data = sm.datasets.longley.load_pandas().data
    return data[["TOTEMP"]].to_numpy(), sm.add_constant(data.drop(columns="TOTEMP"))


@pytest.mark.parametrize("name", LONGLEY)
def test_linear_model_reproduces_nists_longley(name):
    y, design = longley()
    found = linear_model(y, design.to_numpy(), (design.columns == name).astype(float))
    coefficient, error = LONGLEY[name]
    assert found.statistic[0] == pytest.approx(coefficient / error, rel=1e-7)
    assert found.df[0] == 9


def test_linear_model_reproduces_nists_f_of_longley():
    y, design = longley()
    found = linear_model(y, design.to_numpy(), np.eye(7)[1:])
    assert found.statistic[0] == pytest.approx(330.285339234588, rel=1e-8)
    assert (found.df[0], found.df2[0]) == (6, 9)


def test_plant_growth_agrees_with_r():
    # R datasets::PlantGrowth, summary(aov(weight ~ group)): F = 4.846, p = 0.0159.
    control = [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14]
    first = [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69]
    second = [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26]
    found = one_way_f(*map(column, (control, first, second)))
    assert found.statistic[0] == pytest.approx(4.846, abs=5e-4)
    assert found.p_value[0] == pytest.approx(0.0159, abs=5e-5)
    # summary(lm(weight ~ group)): t of trt1 = -1.331, of trt2 = 1.772.
    three = list(map(column, (control, first, second)))
    one, two = (contrast_t(three, w, equal_variance=True) for w in ((-1, 1, 0), (-1, 0, 1)))
    assert (one.statistic[0], two.statistic[0]) == pytest.approx((-1.331, 1.772), abs=5e-4)


def test_f_of_several_groups_agrees_with_scipy():
    groups = samples(5, 9, 14, n_units=200)
    found, expected = one_way_f(*groups), stats.f_oneway(*groups)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-10)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)


WEIGHTS = [(1, -1, 0), (0.5, 0.5, -1), (-3, 1, 2)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("k", [None, 1, 3])
def test_a_contrast_of_conditions_agrees_with_statsmodels(weights, k):
    groups = samples(7, 12, 16)
    nuisance = None if k is None else covariate(35, k)
    found = weighted_t(groups, weights, nuisance)
    fits = regressed(groups, nuisance)
    tests = [fit.t_test(np.append(weights, np.zeros(k or 0))) for fit in fits]
    np.testing.assert_allclose(found.statistic, [t.tvalue.item() for t in tests], rtol=1e-9)
    np.testing.assert_allclose(found.p_value, [np.ravel(t.pvalue)[0] for t in tests], rtol=1e-9)
    np.testing.assert_array_equal(found.df, fits[0].df_resid)
    if k is None:
        pooled = contrast_t(groups, weights, equal_variance=True)
        np.testing.assert_allclose(pooled.statistic, found.statistic, rtol=1e-11)


@pytest.mark.parametrize("k", [1, 3])
def test_conditions_beside_covariates_agree_with_statsmodels(k):
    groups, nuisance = samples(7, 12, 16), covariate(35, k)
    found = glm_f(*groups, nuisance=nuisance)
    differences = np.hstack([[[1, -1, 0], [0, 1, -1]], np.zeros((2, k))])
    expected = [fit.f_test(differences) for fit in regressed(groups, nuisance)]
    np.testing.assert_allclose(found.statistic, [e.fvalue for e in expected], rtol=1e-9)
    np.testing.assert_allclose(found.p_value, [e.pvalue for e in expected], rtol=1e-9)
    assert (found.df[0], found.df2[0]) == (2, 35 - 3 - k)


def test_two_conditions_beside_covariates_agree_with_statsmodels():
    groups, nuisance = samples(9, 14), covariate(23, 2)
    expected = [fit.t_test([1, -1, 0, 0]) for fit in regressed(groups, nuisance)]
    found = glm_t(*groups, nuisance)
    np.testing.assert_allclose(found.statistic, [e.tvalue.item() for e in expected], rtol=1e-9)
    assert found.df[0] == 23 - 2 - 2


def test_satterthwaites_contrast_agrees_with_its_definition():
    # With weight on two conditions only, it is Welch's t between those, as scipy has it.
    groups = samples(7, 12, 16)
    found = contrast_t(groups, (0, 1, -1))
    expected = stats.ttest_ind(groups[1], groups[2], equal_var=False)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-11)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-11)
    # With equal sizes and one weight split, statsmodels' HC2 errors are the unpooled ones.
    found = contrast_t(groups, (0.5, 0.5, -1)).statistic
    fits = [fit.get_robustcov_results("HC2") for fit in regressed(groups)]
    robust = [fit.t_test([0.5, 0.5, -1]).tvalue.item() for fit in fits]
    np.testing.assert_allclose(found, robust, rtol=1e-9)


@pytest.mark.parametrize("contrast", [(0, 1, 0, 0), (1, 0, -2, 0), (0, 1, 1, -1)])
def test_linear_model_agrees_with_statsmodels(contrast):
    design = np.hstack([np.ones((30, 1)), covariate(30, 3)])
    y = samples(30, n_units=20)[0] + 5
    found = linear_model(y, design, contrast)
    expected = [sm.OLS(unit, design).fit().t_test(list(contrast)) for unit in y.T]
    np.testing.assert_allclose(found.statistic, [e.tvalue.item() for e in expected], rtol=1e-9)
    np.testing.assert_allclose(found.p_value, [e.pvalue.item() for e in expected], rtol=1e-9)


def test_linear_model_without_intercept_agrees_with_statsmodels():
    design, y = covariate(30, 3), samples(30, n_units=20)[0] + 5
    rows = np.array([[1, 0, 0], [0, 1, -1]])
    found = linear_model(y, design, rows)
    expected = [sm.OLS(unit, design).fit().f_test(rows) for unit in y.T]
    np.testing.assert_allclose(found.statistic, [e.fvalue for e in expected], rtol=1e-9)
    np.testing.assert_allclose(found.p_value, [e.pvalue for e in expected], rtol=1e-9)
    assert (found.df[0], found.df2[0]) == (2, 27)


def test_a_rank_deficient_design_answers_what_it_can():
    # An intercept beside both indicators: differences are estimable, and as in the full design.
    groups = samples(9, 14)
    y, labels = np.vstack(groups), indicators([9, 14])
    deficient = np.hstack([np.ones((23, 1)), labels, 1 - labels])
    found = linear_model(y, deficient, (0, 1, -1))
    expected = student_t(*groups)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-10)
    np.testing.assert_array_equal(found.df, 21)
    with warnings.catch_warnings(action="ignore"):  # statsmodels warns of the rank
        fits = [sm.OLS(unit, deficient).fit().t_test([0, 1, -1]) for unit in y.T]
    np.testing.assert_allclose(found.statistic, [e.tvalue.item() for e in fits], rtol=1e-9)


# Invariants


def test_f_is_the_square_of_students_t():
    a, b = samples(9, 14, n_units=300)
    t, f = student_t(a, b), one_way_f(a, b)
    np.testing.assert_allclose(f.statistic, t.statistic**2, rtol=1e-12)
    np.testing.assert_allclose(f.p_value, t.p_value, rtol=1e-11)


def test_without_covariates_regression_is_student_and_f():
    a, b, c = samples(9, 14, 11)
    assert_same_bits(glm_t(a, b), student_t(a, b))
    assert_same_bits(glm_f(a, b, c), one_way_f(a, b, c))
    np.testing.assert_allclose(
        weighted_t([a, b], (1, -1), None).statistic, student_t(a, b).statistic, rtol=1e-11
    )
    np.testing.assert_allclose(
        adjusted_f([a, b, c], None).statistic, one_way_f(a, b, c).statistic, rtol=1e-11
    )


def test_a_contrast_of_two_conditions_is_welch_and_student_bit_for_bit():
    a, b = samples(9, 14, n_units=300)
    assert_same_bits(contrast_t([a, b], (1, -1)), welch_t(a, b))
    assert_same_bits(contrast_t([a, b], (1, -1), equal_variance=True), student_t(a, b))
    np.testing.assert_array_equal(contrast_effect_size([a, b], (1, -1)), cohens_d(a, b))


def test_a_contrast_of_moments_is_that_of_values():
    groups = samples(9, 14, 11)
    assert_same_bits(
        contrast_t([moments(g) for g in groups], (1, -0.5, -0.5)),
        contrast_t(groups, (1, -0.5, -0.5)),
    )


def test_effect_size_of_a_contrast_is_in_pooled_standard_deviations():
    groups = samples(9, 14, 11)
    found = contrast_effect_size(groups, (1, -0.5, -0.5))
    means = [g.mean(axis=0) for g in groups]
    pooled = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups) / (34 - 3)
    expected = (means[0] - means[1] / 2 - means[2] / 2) / np.sqrt(pooled)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def f_of_model(groups, _):
    y, labels = np.vstack(groups), indicators([len(g) for g in groups])
    return linear_model(y, np.hstack([np.ones((len(y), 1)), labels]), np.eye(3)[1:])


ADJUSTED = {
    "contrast_t": lambda groups, _: contrast_t(groups, (1, -2, 1)),
    "pooled": lambda groups, _: contrast_t(groups, (1, -2, 1), equal_variance=True),
    "weighted_t": lambda groups, nuisance: weighted_t(groups, (1, -2, 1), nuisance),
    "adjusted_f": adjusted_f,
    "linear_model": f_of_model,
    "one_way_f": lambda groups, _: one_way_f(*groups),
}
every_model = pytest.mark.parametrize("model", ADJUSTED)


@every_model
def test_a_unit_has_the_same_numbers_alone_and_in_company(model):
    groups, nuisance = samples(37, 90, 30, n_units=12), covariate(157)
    together = ADJUSTED[model](groups, nuisance)
    for j in range(12):
        alone = ADJUSTED[model]([g[:, j : j + 1] for g in groups], nuisance)
        assert_same_bits(alone, together, slice(j, j + 1))


@every_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_of_blocks_and_the_layout_change_nothing(model, dtype, monkeypatch):
    groups, nuisance = samples(37, 90, 30, n_units=49), covariate(157)
    groups = [g.astype(dtype) for g in groups]
    whole = ADJUSTED[model](groups, nuisance)
    assert_same_bits(ADJUSTED[model]([np.asfortranarray(g) for g in groups], nuisance), whole)
    monkeypatch.setattr(moments_module, "BLOCK_VALUES", 1)  # 16 units a block, and one left over
    assert_same_bits(ADJUSTED[model](groups, nuisance), whole)


@every_model
@pytest.mark.parametrize("bad", [np.nan, np.inf, "constant"])
def test_a_bad_unit_leaves_every_other_number_bit_identical(model, bad):
    groups, nuisance = samples(9, 14, 11), covariate(34)
    clean = ADJUSTED[model](groups, nuisance)
    for g in groups:
        g[:, 7] = 0.1 if bad == "constant" else g[:, 7]
    if bad != "constant":
        groups[1][3, 7] = bad
    found = ADJUSTED[model](groups, nuisance)
    others = np.arange(40) != 7
    assert np.isnan([found.statistic[7], found.p_value[7], found.df[7]]).all()
    np.testing.assert_array_equal(found.statistic[others], clean.statistic[others])
    np.testing.assert_array_equal(found.p_value[others], clean.p_value[others])


@every_model
def test_shift_and_scale_change_nothing(model):
    groups, nuisance = samples(9, 14, 11), covariate(34)
    plain = ADJUSTED[model](groups, nuisance)
    moved = ADJUSTED[model]([4 * g + 1e4 for g in groups], nuisance)
    np.testing.assert_allclose(moved.statistic, plain.statistic, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("model", ["weighted_t", "adjusted_f"])
def test_what_a_covariate_explains_changes_nothing(model):
    groups, nuisance = samples(9, 14, 11), covariate(34)
    plain = ADJUSTED[model](groups, nuisance)
    by_covariate = np.split(nuisance @ [[5.0], [-3.0]], [9, 23])
    moved = ADJUSTED[model]([g + c for g, c in zip(groups, by_covariate, strict=True)], nuisance)
    np.testing.assert_allclose(moved.statistic, plain.statistic, rtol=1e-9, atol=1e-11)
    # So does a covariate that says the same twice, or never varies.
    twice = np.hstack([nuisance, nuisance[:, :1] * 2, np.ones((34, 1))])
    np.testing.assert_allclose(
        ADJUSTED[model](groups, twice).statistic, plain.statistic, rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("model", ADJUSTED)
def test_null_p_values_are_uniform(model):
    rng = np.random.default_rng(11)
    nuisance = covariate(75)
    # Every unit follows the covariates; unadjusted tests see units that do not.
    drift = nuisance if model in ("weighted_t", "adjusted_f") else np.zeros((75, 2))
    y = rng.normal(size=(75, 4000)) + drift @ rng.normal(size=(2, 4000))
    p = ADJUSTED[model](np.split(y, [25, 50]), nuisance).p_value
    assert stats.kstest(p, "uniform").statistic < 0.026  # 1 % critical value


# Planted effects


@every_model
def test_a_planted_effect_is_found(model):
    groups, nuisance = samples(20, 20, 20, shifts=[0.0] * 3), covariate(60)
    groups[1][:, 13] -= 2.0
    result = ADJUSTED[model](groups, nuisance)
    assert np.argmin(result.p_value) == 13
    assert np.argmax(result.statistic) == 13


def test_a_confound_is_not_found_once_adjusted_for():
    rng = np.random.default_rng(2)
    length = np.concatenate([rng.normal(1, 1, 40), rng.normal(0, 1, 40)])
    y = length[:, None] * 2 + rng.normal(size=(80, 500))
    a, b = np.split(y, 2)
    assert np.mean(glm_t(a, b).p_value < 0.05) > 0.9
    assert np.mean(glm_t(a, b, length).p_value < 0.05) < 0.08


# Refusals


def test_covariates_that_determine_the_condition_are_refused():
    groups = samples(5, 6)
    with pytest.raises(ValueError, match=r"determine"):
        glm_t(*groups, np.repeat([0.0, 1.0], [5, 6]))
    with pytest.raises(ValueError, match=r"determine"):
        glm_f(*groups, nuisance=np.repeat([0.0, 1.0], [5, 6]))


@pytest.mark.parametrize(
    ("nuisance", "message"),
    [
        (
            np.zeros((10, 1)),
            r"nuisance has shape \(10, 1\); expected one row per prompt, \(11, k\)",
        ),
        (np.zeros((11, 1, 1)), r"expected one row per prompt"),
        (np.full((11, 1), np.nan), r"nuisance holds NaN or inf"),
    ],
)
def test_unusable_covariates_are_refused(nuisance, message):
    with pytest.raises(ValueError, match=message):
        glm_t(*samples(5, 6), nuisance)


@pytest.mark.parametrize("weights", [(1, 1, -1), (0, 0, 0), (1, -1), (1, -1, np.nan)])
def test_weights_that_are_no_contrast_are_refused(weights):
    for method in (contrast_t, contrast_effect_size, lambda g, w: weighted_t(g, w, None)):
        with pytest.raises(ValueError, match="are no contrast of 3 groups; one each"):
            method(samples(5, 6, 7), weights)


def test_a_contrast_that_the_design_cannot_tell_is_refused():
    y = samples(20)[0]
    labels = indicators([10, 10])
    design = np.hstack([np.ones((20, 1)), labels, 1 - labels])
    with pytest.raises(ValueError, match="the contrast is not estimable"):
        linear_model(y, design, (0, 1, 0))


@pytest.mark.parametrize(
    ("design", "contrast", "message"),
    [
        (np.ones((19, 2)), (1, 0), "design has shape"),
        (np.ones((20, 2)), (1, 0, 0), "contrast \\(3,\\) for 20 prompts"),
        (np.eye(20), np.eye(20)[0], "20 prompts and a design of rank 20 leave no error"),
        (np.ones((20, 1)), (0,), "weighs no coefficient"),
        (np.full((20, 1), np.nan), (1,), "NaN or inf"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(design, contrast, message):
    with pytest.raises(ValueError, match=message):
        linear_model(samples(20)[0], design, contrast)
