"""Rank tests: published answers, ties, zeros, exactness, and ranks of every kind of number."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from activation_analysis.statistics.hypothesis_tests import TESTS, mann_whitney_u
from activation_analysis.statistics.permutation import max_t
from activation_analysis.statistics.rank_tests import signed_rank_tail
from activation_analysis.statistics.ranks import midranks, rank_sums, upper_tail


def column(values) -> np.ndarray:
    return np.array([float(v) for v in values])[:, None]


def one(test, *samples):
    """The single unit's statistic, p and df."""
    result = TESTS[test](*map(column, samples))
    return result.statistic[0], result.p_value[0], result.df[0]


def groups(n_a=20, n_b=20, n_units=300, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_a, n_units)) + shift, rng.normal(size=(n_b, n_units))


# Mann-Whitney


def test_mann_whitney_agrees_with_r(oracle):
    # R wilcox.test, in scipy's TestMannWhitneyU.
    data = oracle("mann_whitney_r")
    basic, gh9184, example = data["basic"], data["gh9184"], data["doc_example"]
    assert one("mannwhitney", basic["x"], basic["y"])[:2] == pytest.approx(
        (basic["U"], basic["exact"]["two-sided"]), rel=1e-12
    )
    assert one("mannwhitney", gh9184["x"], gh9184["y"])[:2] == pytest.approx(
        (gh9184["U"], gh9184["exact"]["two-sided"]), rel=1e-12
    )
    assert one("mannwhitney", example["males"], example["females"])[:2] == pytest.approx(
        (example["U_males"], example["exact_two_sided"]), rel=1e-12
    )


def test_mann_whitney_with_ties_agrees_with_r(oracle):
    # R wilcox.test(exact = FALSE, correct = TRUE), in scipy's TestMannWhitneyU.
    data = oracle("mann_whitney_r")
    for case in data["inf_and_ties_asymptotic_cc_two_sided"]:
        assert one("mannwhitney", case["x"], case["y"])[:2] == pytest.approx(
            (case["U"], case["p"]), rel=1e-11
        )
    tied = data["tie_correct_asymptotic_two_sided"]
    y = np.array([1.0, 2, 3, 4, 5])
    rows = (y + np.array(s) * 0.01 for s in ([0, -1, 0, -1, 0], [0] * 5, [0, 1, 0, 1, 0]))
    for row, k in zip(rows, (1, 3, 5), strict=True):
        assert one("mannwhitney", tied["x"], row)[:2] == pytest.approx(
            (tied["U"][k], tied["p"][k]), rel=1e-11
        )
    middle = data["U_equals_mean"][2]
    assert one("mannwhitney", middle["x"], middle["y"])[:2] == (middle["U"], middle["two-sided"])


def test_the_normal_approximation_is_to_be_had_for_any_size(oracle):
    # R wilcox.test(exact = FALSE), in scipy's TestMannWhitneyU; z without continuity is max-T's.
    data = oracle("mann_whitney_r")
    tied = data["tie_correct_asymptotic_two_sided"]
    y = np.array([1.0, 2, 3, 4, 5])
    steps = ([-1] * 5, [0, -1, 0, -1, 0], [0, 0, -1, 0, 0], [0] * 5)
    rows = [y + np.array(s) * 0.01 for s in (*steps, *(-np.array(s) for s in steps[2::-1]))]
    for row, u, p in zip(rows, tied["U"], tied["p"], strict=True):
        found = mann_whitney_u(column(tied["x"]), column(row), exact_up_to=0)
        assert (found.statistic[0], found.p_value[0]) == pytest.approx((u, p), rel=1e-11)
    example, gh9184 = data["doc_example"], data["gh9184"]
    with_continuity = [
        (example["males"], example["females"], example["asymptotic_cc"]),
        (gh9184["x"], gh9184["y"], gh9184["asymptotic_cc"]),
        (data["basic"]["x"], data["basic"]["y"], data["basic"]["asymptotic"]),
    ]
    for x, y, p in with_continuity:
        found = mann_whitney_u(column(x), column(y), exact_up_to=0)
        assert found.p_value[0] == pytest.approx(_two_sided(p), rel=1e-9)
    without = [
        (example["males"], example["females"], example["asymptotic_nocc"]),
        (gh9184["x"], gh9184["y"], gh9184["asymptotic_nocc"]),
        (data["basic"]["y"], data["basic"]["x"], data["swapped_no_continuity"]),
    ]
    for x, y, p in without:
        z = max_t(column(x), column(y), "mannwhitney", n_permutations=1).statistic[0]
        assert 2 * ndtr(-abs(z)) == pytest.approx(_two_sided(p), rel=1e-9)


def _two_sided(p):
    return p["two-sided"] if isinstance(p, dict) else p


def test_exact_u_distribution_agrees_with_mann_and_whitneys_tables(oracle):
    # Mann & Whitney (1947), tables of P(U <= u), printed to three decimals.
    for n, table in oracle("mann_whitney_r")["exact_cdf_tables_mann_whitney_1947"].items():
        for m, cdf in table.items():
            tail = upper_tail(int(m), int(n[1:]))
            assert tail[::-1][: len(cdf)] == pytest.approx(cdf, abs=0.0006)


@pytest.mark.parametrize("decimals", [0, 1])
def test_mann_whitney_with_ties_agrees_with_scipy_unit_by_unit(decimals):
    a, b = groups(7, 12, shift=0.5)
    a, b = a.round(decimals), b.round(decimals)
    found = TESTS["mannwhitney"](a, b)
    # scipy's method="auto" lets one tied unit switch all, so it is asked for one at a time.
    expected = [stats.mannwhitneyu(a[:, j], b[:, j]) for j in range(a.shape[1])]
    np.testing.assert_array_equal(found.statistic, [e.statistic for e in expected])
    np.testing.assert_allclose(found.p_value, [e.pvalue for e in expected], rtol=1e-10)


# Wilcoxon


def test_wilcoxon_agrees_with_r():
    # Hollander & Wolfe (1973), 29f, depression scores: R's example(wilcox.test), paired, greater:
    # V = 40, p = 0.01953.
    x = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    y = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    v, p, df = one("wilcoxon", x, y)
    assert v == 40
    assert p == pytest.approx(2 * 10 / 512, rel=1e-14)
    assert np.isnan(df)


def test_wilcoxon_agrees_with_jasp(oracle):
    data = oracle("mann_whitney_r")["wilcoxon_signed_rank_jasp"]
    v, _, _ = one("wilcoxon", data["x"], data["y"])
    assert v == data["W"]
    # Rank-biserial correlation: (V - mean) / mean over the pairs that differ.
    mean = 12 * 13 / 4 if all(np.subtract(data["x"], data["y"])) else 11 * 12 / 4
    assert (v - mean) / mean == pytest.approx(data["rbc_two_sided"], abs=5e-4)


def test_signed_rank_distribution_is_that_of_all_signs():
    ranks = np.arange(1, 9)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=8)]
    expected = [np.mean(np.array(sums) >= v) for v in range(37)]
    np.testing.assert_array_equal(signed_rank_tail(8), expected)


@pytest.mark.parametrize("n", [5, 12, 50, 51, 80])
@pytest.mark.parametrize("decimals", [None, 0, 1])
def test_wilcoxon_with_ties_and_zeros_agrees_with_scipy_unit_by_unit(n, decimals):
    a, b = groups(n, n, n_units=40, shift=0.4)
    if decimals is not None:
        a, b = a.round(decimals), b.round(decimals)
    found = TESTS["wilcoxon"](a, b)
    for j in range(40):
        d = a[:, j] - b[:, j]
        plain = n <= 50 and d.all() and len(np.unique(np.abs(d))) == n
        method = "exact" if plain else "asymptotic"
        expected = stats.wilcoxon(d, correction=True, method=method)
        greater = stats.wilcoxon(d, correction=True, method=method, alternative="greater")
        assert found.statistic[j] == greater.statistic
        # scipy's correction overshoots to p < 1 where V is its mean exactly; R's stops at 0.
        if found.p_value[j] < 1:
            assert found.p_value[j] == pytest.approx(expected.pvalue, rel=1e-10)


def test_wilcoxon_of_pairs_that_never_differ_is_undefined():
    a, _ = groups(n_units=2)
    b = a.copy()
    b[:, 1] -= 1.0
    p = TESTS["wilcoxon"](a, b).p_value
    np.testing.assert_array_equal(np.isnan(p), [True, False])


# Kruskal-Wallis


def test_kruskal_wallis_agrees_with_r():
    # Hollander & Wolfe (1973), 116, mucociliary efficiency: R's example(kruskal.test) prints
    # chi-squared = 0.77143, df = 2, p = 0.68.
    normal, obstructive = [2.9, 3.0, 2.5, 2.6, 3.2], [3.8, 2.7, 4.0, 2.4]
    asbestosis = [2.8, 3.4, 3.7, 2.2, 2.0]
    h, p, df = one("kruskal", normal, obstructive, asbestosis)
    assert h == pytest.approx(0.77143, abs=5e-6)
    assert p == pytest.approx(0.68, abs=5e-4)
    assert df == 2


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_kruskal_wallis_of_several_groups_agrees_with_scipy(decimals):
    rng = np.random.default_rng(3)
    samples = [
        rng.normal(k / 5, 1, size=(n, 200)).round(decimals) for k, n in enumerate((4, 9, 15))
    ]
    found, expected = TESTS["kruskal"](*samples), stats.kruskal(*samples)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-9)


def test_kruskal_wallis_is_the_square_of_mann_and_whitneys_z():
    a, b = groups(13, 29, shift=0.3)
    found = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic")
    np.testing.assert_allclose(TESTS["kruskal"](a, b).p_value, found.pvalue, rtol=1e-9)


def test_null_kruskal_wallis_is_uniform():
    samples = np.random.default_rng(5).normal(size=(4, 20, 4000))
    p = TESTS["kruskal"](*samples).p_value
    assert stats.kstest(p, "uniform").statistic < 0.03  # chi-square is an approximation


# Brunner-Munzel


def test_brunner_munzel_agrees_with_r(oracle):
    # R lawstat on Munzel & Hauschke (2003).
    data = oracle("mann_whitney_r")["brunner_munzel"]
    new, active = (np.repeat(data["levels"], data[f"counts_{g}"]) for g in ("new", "active"))
    w, p, df = one("brunnermunzel", active, new)
    assert abs(w) == pytest.approx(data["statistic"], rel=1e-11)
    assert p == pytest.approx(data["p"], rel=1e-10)
    assert df == pytest.approx(data["df"], rel=1e-10)


def test_brunner_munzel_agrees_with_its_authors_example():
    # Pain scores of Brunner & Munzel (2000), Table 1: R lawstat prints W = 3.1375, df = 17.683,
    # p = 0.005786.
    y = [1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1]
    n = [3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4]
    w, p, df = one("brunnermunzel", n, y)
    assert (w, df) == pytest.approx((3.1375, 17.683), abs=5e-4)
    assert p == pytest.approx(0.005786, abs=5e-7)


@pytest.mark.parametrize("decimals", [0, 1])
def test_brunner_munzel_with_ties_agrees_with_scipy(decimals):
    a, b = (x.round(decimals) for x in groups(11, 25, n_units=100, shift=0.3))
    found, expected = TESTS["brunnermunzel"](a, b), stats.brunnermunzel(b, a)
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)


def test_complete_separation_is_as_improbable_as_it_is():
    a, b = groups(4, 6, n_units=2, shift=[50.0, -50.0])
    found = TESTS["brunnermunzel"](a, b)
    np.testing.assert_allclose(found.p_value, 2 / 210, rtol=1e-14)  # choose(10, 4) orders
    np.testing.assert_array_equal(np.sign(found.statistic), [1, -1])
    np.testing.assert_allclose(2 * stats.t.sf(abs(found.statistic), found.df), 2 / 210)


def test_brunner_munzel_stands_unequal_spread_where_mann_whitney_does_not():
    rng = np.random.default_rng(7)
    a, b = rng.normal(scale=4, size=(20, 4000)), rng.normal(size=(60, 4000))
    assert np.mean(TESTS["mannwhitney"](a, b).p_value < 0.05) > 0.09
    assert np.mean(TESTS["brunnermunzel"](a, b).p_value < 0.05) < 0.065


# Ranks


def awkward(dtype, decimals):
    """Ties, neighbours in the last bit, both zeros, infinities and NaN of both signs."""
    rng = np.random.default_rng(1)
    with np.errstate(invalid="ignore"):
        x = (3 * rng.normal(size=(23, 400))).round(decimals).astype(dtype)
    if x.dtype.kind == "f":
        x[2, ::7], x[3, ::5] = np.inf, -np.inf
        x[4, ::11], x[5, ::13] = np.nan, -np.nan
        x[6, ::2], x[7, ::2] = 0.0, -0.0
        x[9] = np.nextafter(x[8], dtype(np.inf))
        x[10, ::3] = np.nextafter(x[8, ::3], dtype(-np.inf))
    return x


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_])
def test_ranks_are_scipys_whatever_the_values(dtype, decimals):
    x = awkward(dtype, decimals)
    expected = stats.rankdata(x, axis=0, nan_policy="propagate")
    np.testing.assert_array_equal(midranks(x), expected)
    sums = rank_sums(x[:9], x[9:])
    np.testing.assert_array_equal(sums.first, expected[:9].sum(axis=0))
    runs = [np.unique(np.nan_to_num(unit + 0.0), return_counts=True)[1] for unit in x.T]
    ties = np.array([(t**3.0 - t).sum() for t in runs])
    whole = ~np.isnan(expected[0])
    np.testing.assert_array_equal(sums.tie_term[whole], ties[whole])


def test_values_of_16_bits_rank_the_same_in_32():
    # The group travels in the last bit, which these values leave empty: ties need no second sort.
    x = np.random.default_rng(2).normal(size=(40, 200)).astype(np.float16)
    half, single = rank_sums(x[:20], x[20:]), rank_sums(*np.split(x.astype(np.float32), 2))
    double = rank_sums(*np.split(x.astype(np.float64), 2))
    for found in (half, single):
        np.testing.assert_array_equal(found.first, double.first)
        np.testing.assert_array_equal(found.tie_term, double.tie_term)


def test_rank_sums_beyond_the_whole_numbers_of_float32_are_exact():
    x = np.random.default_rng(4).normal(size=(6001, 3)).astype(np.float32)
    expected = stats.rankdata(x, axis=0)[:6000].sum(axis=0)
    np.testing.assert_array_equal(rank_sums(x[:6000], x[6000:]).first, expected)
