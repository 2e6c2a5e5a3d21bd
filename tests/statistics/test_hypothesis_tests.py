"""TESTS: known answers, invariants, planted effects and refusals, over the whole dictionary."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import moments as moments_module
from activation_analysis.statistics.hypothesis_tests import (
    OMNIBUS_TESTS,
    PAIRED_TESTS,
    TEST_ALIASES,
    TESTS,
    canonical_test,
)

SCIPY = {
    "student": lambda a, b: stats.ttest_ind(a, b),
    "welch": lambda a, b: stats.ttest_ind(a, b, equal_var=False),
    "paired": lambda a, b: stats.ttest_rel(a, b),
    "one_sample": lambda a, b: stats.ttest_1samp(a, 0.0),
    "mannwhitney": lambda a, b: stats.mannwhitneyu(a, b),
    "wilcoxon": lambda a, b: in_the_sense_of_r(a, b),
    "brunnermunzel": lambda a, b: without_warning(stats.brunnermunzel, b, a),
    "f": lambda a, b: stats.f_oneway(a, b),
    "kruskal": lambda a, b: stats.kruskal(a, b),
    "glm_t": lambda a, b: stats.ttest_ind(a, b),
    "glm_f": lambda a, b: stats.f_oneway(a, b),
}
T_TESTS = ("student", "welch", "paired", "one_sample", "glm_t")
RANK_TESTS = ("mannwhitney", "wilcoxon", "brunnermunzel", "kruskal")
TWO_GROUP_TESTS = [test for test in TESTS if test not in ("one_sample", *PAIRED_TESTS)]
every_test = pytest.mark.parametrize("test", TESTS)


def in_the_sense_of_r(a, b):
    """scipy's signed ranks with V of a > b (scipy gives the smaller V), as R has it."""
    n = len(a)
    method = "exact" if n <= 50 else "asymptotic"
    greater = stats.wilcoxon(a, b, correction=True, method=method, alternative="greater")
    both = stats.wilcoxon(a, b, correction=True, method=method)
    return SimpleNamespace(statistic=greater.statistic, pvalue=both.pvalue)


def without_warning(reference, *samples):
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        return reference(*samples)


def result_of(test, a, b):
    """The test of two groups, or of the first alone where it is one of a single group."""
    return TESTS[test](a) if test == "one_sample" else TESTS[test](a, b)


def null_middle(test, n_a, n_b):
    """The statistic about which swapped groups mirror."""
    return {"mannwhitney": n_a * n_b / 2, "wilcoxon": n_a * (n_a + 1) / 4}.get(test, 0.0)


def assert_same_bits(found, expected, at=slice(None)):
    for name in ("statistic", "p_value", "df", "df2"):
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[at])


def column(values) -> np.ndarray:
    return np.array([float(v) for v in values])[:, None]


def one(test, a, b):
    """The single unit's statistic, p and df."""
    result = result_of(test, column(a), column(b))
    return result.statistic[0], result.p_value[0], result.df[0]


def groups(n_a=20, n_b=20, n_units=300, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_a, n_units)) + shift, rng.normal(size=(n_b, n_units))


# Known answers


@pytest.mark.parametrize(
    ("case", "test"),
    [
        *(("pingouin_a_b", test) for test in ("student", "welch", "paired")),
        *(("yuen_ci", test) for test in ("student", "welch")),
        *(("student_sleep", test) for test in ("welch", "paired")),
    ],
)
def test_t_tests_agree_with_r(oracle, case, test):
    # R t.test, through pingouin's and scipy's test suites and R's documentation of `sleep`.
    data = next(c for c in oracle("t_tests_r")["cases"] if c["id"] == case)
    t, p, df = one(test, data.get("a", data.get("g1")), data.get("b", data.get("g2")))
    expected = data[test]
    printed = 1e-4 if case == "student_sleep" else 1e-5  # R prints sleep to four decimals
    assert t == pytest.approx(expected["t"], abs=printed / 1.9)
    assert p == pytest.approx(expected["p2"], abs=1e-5 / 1.9)
    assert df == pytest.approx(expected["df"], abs=1e-3 / 1.9)


def test_sleep_agrees_to_full_precision(oracle):
    # R datasets::sleep (Student 1908), recomputed in full precision.
    data = next(c for c in oracle("t_tests_r")["cases"] if c["id"] == "student_sleep")
    full = data["recomputed_full_precision"]
    t, p, df = one("welch", data["g1"], data["g2"])
    assert [t, p, df] == pytest.approx(
        [full["welch_t"], full["welch_p"], full["welch_df"]], rel=1e-12
    )
    assert one("student", data["g1"], data["g2"])[1] == pytest.approx(full["student_p"], rel=1e-12)
    assert one("paired", data["g1"], data["g2"])[:2] == pytest.approx(
        (full["paired_t"], full["paired_p"]), rel=1e-12
    )


def test_welch_on_tiny_groups_agrees_with_r(oracle):
    # R t.test, in scipy's TestTTestIndMore.
    data = next(c for c in oracle("t_tests_r")["cases"] if c["id"] == "scipy_welch_small")
    for case in data["cases"]:
        t, p, _ = one("welch", case["a"], case["b"])
        assert (t, p) == pytest.approx((case["welch_t"], case["welch_p"]), rel=1e-12)


def test_t_tests_of_linspace_agree_with_scipys_reference(oracle):
    # scipy test_stats.py TestTTestInd.
    data = next(c for c in oracle("t_tests_r")["cases"] if c["id"] == "scipy_linspace")
    a, b, short = np.linspace(5, 105, 100), np.linspace(1, 100, 100), np.linspace(1, 100, 25)
    assert one("student", a, b)[:2] == pytest.approx((data["student_t"], data["student_p"]))
    assert one("welch", a, b)[1] == pytest.approx(data["welch_p"], rel=1e-12)
    assert one("welch", a, short)[:2] == pytest.approx(
        (data["welch_t_short"], data["welch_p_short"]), rel=1e-12
    )


@pytest.mark.parametrize("sizes", [(5, 5), (8, 8), (60, 60), (30, 30)])
@every_test
def test_every_test_agrees_with_scipy(test, sizes):
    a, b = groups(*sizes, shift=np.linspace(-4, 4, 300))
    found, expected = result_of(test, a, b), SCIPY[test](a, b)
    apart = (a.min(axis=0) > b.max(axis=0)) | (a.max(axis=0) < b.min(axis=0))
    # Where no value of one group lies within the other, scipy's W is infinite and its p 0 or NaN.
    units = ~apart if test == "brunnermunzel" else slice(None)
    np.testing.assert_allclose(
        found.statistic[units], expected.statistic[units], rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(found.p_value[units], expected.pvalue[units], rtol=1e-10, atol=0)
    if test in T_TESTS and test != "glm_t":
        np.testing.assert_allclose(found.df, np.broadcast_to(expected.df, 300), rtol=1e-10)


@pytest.mark.parametrize("test", TWO_GROUP_TESTS)
@pytest.mark.parametrize("sizes", [(3, 9), (8, 40), (9, 40), (40, 8), (25, 60)])
def test_unequal_groups_agree_with_scipy(test, sizes):
    a, b = groups(*sizes, shift=0.3)
    found, expected = result_of(test, a, b), SCIPY[test](a, b)
    units = np.isfinite(expected.statistic)
    np.testing.assert_allclose(
        found.statistic[units], expected.statistic[units], rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(found.p_value[units], expected.pvalue[units], rtol=1e-10, atol=0)


@pytest.mark.parametrize("test", [t for t in TESTS if t not in RANK_TESTS])
def test_tiny_p_values_are_not_rounded_to_zero(test):
    a, b = groups(60, 60, n_units=5, shift=10.0)
    p = result_of(test, a, b).p_value
    assert np.all((p > 0) & (p < 1e-40))


# Invariants


@every_test
def test_float32_with_a_large_offset_loses_nothing(test):
    a, b = (x.astype(np.float32) + np.float32(1e4) for x in groups(shift=0.5))
    found, expected = result_of(test, a, b), SCIPY[test](a.astype(float), b.astype(float))
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-9, atol=1e-12)


@every_test
def test_null_p_values_are_uniform(test):
    a, b = groups(25, 25, n_units=5_000)
    p = result_of(test, a, b).p_value
    # 0.023 is the 1 % critical value; the p-values of U and V are grids with steps of up to 3 %.
    assert stats.kstest(p, "uniform").statistic < (0.03 if test in RANK_TESTS else 0.023)


@every_test
def test_swapped_groups_mirror_the_statistic_and_keep_p(test):
    a, b = groups(shift=0.4)
    if test == "one_sample":
        there, back = result_of(test, a, b), result_of(test, -a, b)
    else:
        there, back = result_of(test, a, b), result_of(test, b, a)
    if test in OMNIBUS_TESTS:
        np.testing.assert_allclose(back.statistic, there.statistic, rtol=1e-10)
    else:
        middle = null_middle(test, *map(len, (a, b)))
        np.testing.assert_array_equal(there.statistic - middle, middle - back.statistic)
    np.testing.assert_allclose(there.p_value, back.p_value, rtol=1e-10)


@every_test
def test_shift_and_scale_change_nothing(test):
    a, b = groups(shift=0.4)
    shift = 0 if test == "one_sample" else -8
    plain, moved = result_of(test, a, b), result_of(test, a * 4 + shift, b * 4 + shift)
    np.testing.assert_allclose(moved.p_value, plain.p_value, rtol=1e-9)


def test_one_sample_of_moved_values_against_a_moved_mean_is_unchanged():
    a, _ = groups(shift=0.4)
    plain, moved = TESTS["one_sample"](a, 0.25), TESTS["one_sample"](a + 1024, 1024.25)
    np.testing.assert_allclose(moved.statistic, plain.statistic, rtol=1e-9, atol=1e-11)


@every_test
@pytest.mark.parametrize("bad", [np.nan, "constant"])
def test_a_bad_unit_leaves_every_other_number_bit_identical(test, bad):
    a, b = groups()
    clean = result_of(test, a, b)
    a, b = a.copy(), b.copy()
    if bad == "constant":
        a[:, 7] = b[:, 7] = 0.1
    else:
        a[3, 7] = bad
    found = result_of(test, a, b)
    others = np.arange(300) != 7
    for name in ("statistic", "p_value", "df", "df2"):
        if getattr(clean, name) is not None:
            assert np.isnan(getattr(found, name)[7])
            np.testing.assert_array_equal(
                getattr(found, name)[others], getattr(clean, name)[others]
            )


@every_test
def test_a_unit_has_the_same_numbers_alone_and_in_company(test):
    a, b = groups(37, 37, n_units=20)
    together = result_of(test, a, b)
    for j in range(20):
        alone = result_of(test, a[:, j : j + 1], b[:, j : j + 1])
        assert_same_bits(alone, together, slice(j, j + 1))


@every_test
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_of_blocks_changes_nothing(test, dtype, monkeypatch):
    a, b = (x.astype(dtype) for x in groups(37, 37, n_units=49, shift=0.3))
    whole = result_of(test, a, b)
    monkeypatch.setattr(moments_module, "BLOCK_VALUES", 1)  # 16 units a block, and one left over
    assert_same_bits(result_of(test, a, b), whole)


@every_test
def test_memory_layout_changes_nothing(test):
    a, b = groups()
    other = result_of(test, np.asfortranarray(a), b[::-1][::-1])
    assert_same_bits(other, result_of(test, a, b))


@every_test
def test_inputs_are_left_untouched(test):
    a, b = groups()
    before = a.copy(), b.copy()
    result_of(test, a, b)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


@pytest.mark.parametrize("test", [t for t in TESTS if t not in RANK_TESTS])
def test_an_infinite_value_makes_a_test_of_means_undefined(test):
    a, b = groups(n_units=3)
    a[0, 1] = np.inf
    p = result_of(test, a, b).p_value
    np.testing.assert_array_equal(np.isnan(p), [False, True, False])


@pytest.mark.parametrize("test", [t for t in TESTS if t != "wilcoxon"])
def test_degenerate_units_are_undefined_rather_than_certain(oracle, test):
    # scipy calls two different constants t = -inf, p = 0 (with a warning).
    for case in oracle("t_tests_r")["degenerate"]:
        statistic, p, _ = one(test, case["a"], case["b"])
        assert np.isnan(statistic)
        assert np.isnan(p)


@every_test
def test_no_units_make_no_numbers(test):
    assert result_of(test, np.empty((3, 0)), np.empty((3, 0))).p_value.shape == (0,)


# Planted effects


@every_test
def test_a_planted_effect_is_found(test):
    a, b = groups(30, 30)
    a[:, 42] += 3.0
    result = result_of(test, a, b)
    assert np.argmin(result.p_value) == 42
    assert np.argmax(result.statistic) == 42


def test_pairs_reveal_what_groups_hide():
    rng = np.random.default_rng(1)
    item = rng.normal(scale=10, size=(20, 50))
    a, b = item + 0.5 + rng.normal(scale=0.2, size=(20, 50)), item
    assert np.all(TESTS["paired"](a, b).p_value < 1e-5)
    assert np.all(TESTS["wilcoxon"](a, b).p_value < 1e-4)
    assert np.all(TESTS["student"](a, b).p_value > 0.3)


# Refusals


@pytest.mark.parametrize("test", [t for t in TESTS if t != "one_sample"])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(5), np.zeros((5, 1)), "expected \\(n_prompts, n_units\\)"),
        (np.zeros((5, 1, 2)), np.zeros((5, 1)), "(first group|group 1) has shape"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "2 and 3 units"),
        (np.zeros((1, 2)), np.zeros((5, 2)), "(first group|group 1) has 1 prompt"),
        (np.zeros((5, 2)), np.zeros((0, 2)), "(second group|group 2) has 0 prompt"),
        (np.full((5, 2), "x"), np.zeros((5, 2)), "expected real numbers"),
    ],
)
def test_unusable_groups_are_refused(test, a, b, message):
    with pytest.raises(ValueError, match=message):
        TESTS[test](a, b)


@pytest.mark.parametrize("test", PAIRED_TESTS)
def test_paired_tests_refuse_unequal_groups(test):
    with pytest.raises(ValueError, match="received 5 and 4 prompts; align"):
        TESTS[test](np.zeros((5, 2)), np.zeros((4, 2)))


@pytest.mark.parametrize("test", OMNIBUS_TESTS)
def test_omnibus_tests_refuse_a_single_group(test):
    with pytest.raises(ValueError, match="received 1 group; this compares two groups or more"):
        TESTS[test](np.zeros((5, 2)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(5), "expected \\(n_prompts, n_units\\)"),
        (np.zeros((1, 2)), "the first group has 1 prompt"),
        (np.full((5, 2), 1j), "expected real numbers"),
    ],
)
def test_one_sample_refuses_an_unusable_group(x, message):
    with pytest.raises(ValueError, match=message):
        TESTS["one_sample"](x)


def test_one_sample_refuses_a_second_group():
    with pytest.raises(ValueError, match="one number, or use a paired test"):
        TESTS["one_sample"](np.zeros((5, 2)), np.zeros((5, 2)))


def test_names_resolve_and_unknown_ones_are_refused():
    assert {canonical_test(alias) for alias in TEST_ALIASES} <= set(TESTS)
    assert canonical_test("ttest") == "student"
    with pytest.raises(ValueError, match=r"no test 'sign'; known: student, welch, .*glm_f"):
        canonical_test("sign")
