"""Max-T: exact counts, family-wise error, step-down, exchangeability blocks, nuisance."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
from scipy import stats

from activation_analysis.statistics import null_maxima
from activation_analysis.statistics.exchangeability import exchangeability, sign_flips
from activation_analysis.statistics.hypothesis_tests import TESTS
from activation_analysis.statistics.permutation import (
    FAMILY_TESTS,
    counted,
    max_statistic,
    max_t,
    relabellings_of,
    unit_permutation,
)
from activation_analysis.statistics.permutation_scores import Rows
from activation_analysis.statistics.permuted_designs import permuted_design

every_test = pytest.mark.parametrize("test", ["student", "welch"])
every_design = pytest.mark.parametrize("test", FAMILY_TESTS)


def groups(n_a=4, n_b=5, n_units=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_a, n_units)) + 0.8, rng.normal(size=(n_b, n_units))


def relabelled_statistics(a, b, test):
    """abs(t) under every relabelling, the slow and obvious way, (n_relabellings, n_units)."""
    pooled = np.vstack([a, b])
    everyone = set(range(len(pooled)))
    return np.array(
        [
            np.abs(
                TESTS[test](pooled[list(first)], pooled[sorted(everyone - set(first))]).statistic
            )
            for first in combinations(range(len(pooled)), len(a))
        ]
    )


# Known answers


@every_test
@pytest.mark.parametrize("step_down", [False, True])
def test_enumeration_agrees_with_counting_by_hand(test, step_down):
    a, b = groups()
    all_t = relabelled_statistics(a, b, test)
    observed = np.abs(TESTS[test](a, b).statistic)
    found = max_t(a, b, test=test, step_down=step_down)
    assert (found.exact, found.n_permutations) == (True, 126)
    expected = []
    for t in observed:
        rivals = observed <= t if step_down else np.full(3, True)
        expected.append(np.mean(all_t[:, rivals].max(axis=1) >= t - 1e-9))
    if step_down:  # as certain as any more significant unit, at most
        order = np.argsort(-observed)
        expected = np.array(expected)
        expected[order] = np.maximum.accumulate(expected[order])
    np.testing.assert_allclose(found.p_value, expected, rtol=1e-12)
    np.testing.assert_allclose(
        unit_permutation([a, b], test).p_value, (all_t >= observed - 1e-9).mean(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(np.sort(found.null_max), np.sort(all_t.max(axis=1)), rtol=1e-9)


def test_exact_rank_permutation_agrees_with_enumeration(oracle):
    # Exhaustive enumeration in rational arithmetic: abs(U - mean) of tied data. A t-test of
    # midranks orders relabellings as U does.
    for case in oracle("mann_whitney_r")["exact_permutation_with_ties"]["cases"]:
        ranks = stats.rankdata(case["x"] + case["y"])[:, None]
        n = len(case["x"])
        found = max_t(ranks[:n], ranks[n:], exact=True)
        assert found.n_permutations == case["n_perm"]
        assert found.p_value[0] * case["n_perm"] == pytest.approx(case["count_two_sided_abs"])


def test_shares_of_a_null_agree_with_nilearn(oracle):
    # nilearn's null_to_p takes the null for all that there is, and no p for less than 1 / n.
    data = oracle("multiple_testing")["nilearn_null_to_p"]
    null = np.array(data["null"], dtype=float)
    for value, p in data["upper"].items():
        assert counted(np.array([float(value)]), null, True)[0] == pytest.approx(p)
    for value, p in data["two_sided"].items():
        if value != "0":  # where nilearn also caps p, at 1 - 1 / n
            assert counted(np.array([float(value)]), np.abs(null), True)[0] == pytest.approx(p)


@every_test
def test_statistic_is_that_of_the_test(test):
    a, b = groups(30, 20, 50)
    np.testing.assert_array_equal(max_t(a, b, test=test).statistic, TESTS[test](a, b).statistic)


def test_uncorrected_p_agrees_with_the_t_test_on_normal_data():
    a, b = groups(30, 30, 200)
    found = unit_permutation([a, b], n_permutations=4000)
    np.testing.assert_allclose(found.p_value, TESTS["student"](a, b).p_value, atol=0.03)


def test_adjusted_t_is_that_of_the_regression():
    from statsmodels.api import OLS, add_constant

    rng = np.random.default_rng(2)
    a, b = groups(12, 15, 4)
    covariates = rng.normal(size=(27, 2))
    found = max_t(a, b, nuisance=covariates, n_permutations=20)
    design = add_constant(np.column_stack([np.arange(27) < 12, covariates]))
    expected = [OLS(y, design).fit().tvalues[1] for y in np.vstack([a, b]).T]
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-10)


def test_freedman_lane_by_regression_of_permuted_residuals():
    from statsmodels.api import OLS, add_constant

    rng = np.random.default_rng(3)
    a, b = groups(3, 3, 2)
    covariate = rng.normal(size=(6, 1))
    y, reduced = np.vstack([a, b]), add_constant(covariate)
    full = np.column_stack([reduced, np.arange(6) < 3])
    residual = y - reduced @ np.linalg.lstsq(reduced, y, rcond=None)[0]
    by_hand = [
        max(abs(OLS(residual[list(order), j], full).fit().tvalues[-1]) for j in range(2))
        for order in permutations(range(6))
    ]
    found = max_t(a, b, nuisance=covariate)
    assert (found.exact, found.n_permutations) == (True, 720)
    np.testing.assert_allclose(np.sort(found.null_max), np.sort(by_hand), rtol=1e-8)
    expected = [np.mean(np.array(by_hand) >= abs(t) - 1e-9) for t in found.statistic]
    np.testing.assert_allclose(found.p_value, expected, rtol=1e-12)
    drawn = max_t(a, b, nuisance=covariate, n_permutations=20_000, exact=False)
    np.testing.assert_allclose(drawn.p_value, expected, atol=0.015)


def samples_of(test, n_units=4, seed=0, n=6):
    """Groups as each test takes them, ties among them."""
    rng = np.random.default_rng(seed)
    count = {"one_sample": 1, "f": 3, "kruskal": 3}.get(test, 2)
    sizes = [n] * count if test in ("paired", "wilcoxon", "one_sample") else [n, n - 2, n - 1]
    return [np.round(rng.normal(size=(k, n_units)), 1) + 0.3 for k in sizes[:count]]


def by_scipy(test, x):
    """abs(statistic) of every unit by scipy, in this library's scale."""
    if test in ("f", "kruskal"):
        return (stats.f_oneway if test == "f" else stats.kruskal)(*x, axis=0).statistic
    if test == "student":
        return np.abs(stats.ttest_ind(*x).statistic)
    if test == "welch":
        return np.abs(stats.ttest_ind(*x, equal_var=False).statistic)
    if test == "mannwhitney":
        n_a, n_b = map(len, x)
        ranks = stats.rankdata(np.vstack(x), axis=0)
        far = ranks[:n_a].sum(axis=0) - n_a * (n_a + n_b + 1) / 2
        variance = np.var(ranks, axis=0, ddof=1) * n_a * n_b / (n_a + n_b)
        return np.abs(far) / np.sqrt(variance)
    differences = x[0] if test == "one_sample" else x[0] - x[1]
    if test in ("paired", "one_sample"):
        return np.abs(stats.ttest_1samp(differences, 0).statistic)
    kept = [d[d != 0] for d in differences.T]
    ranks = [stats.rankdata(np.abs(d)) for d in kept]
    pairs = zip(ranks, kept, strict=True)
    return np.array([abs((r * np.sign(d)).sum()) / np.sqrt((r**2).sum()) for r, d in pairs])


def all_relabelled(test, x):
    """abs(statistic) under every relabelling, the slow and obvious way."""
    if test in ("paired", "wilcoxon", "one_sample"):
        d = x[0] if test == "one_sample" else x[0] - x[1]
        for signs in product((1, -1), repeat=len(d)):
            flipped = d * np.array(signs)[:, None]
            yield by_scipy(test, [flipped] if test == "one_sample" else [flipped, 0 * flipped])
        return
    pooled, label = np.vstack(x), np.repeat(np.arange(len(x)), list(map(len, x)))
    for order in sorted(set(permutations(label.tolist()))):
        yield by_scipy(test, [pooled[np.array(order) == k] for k in range(len(x))])


@every_design
def test_every_design_agrees_with_enumeration_by_scipy(test):
    x = samples_of(test, n=4 if test in ("f", "kruskal") else 6)
    every = np.array(list(all_relabelled(test, x)))
    found = max_statistic(x, test, n_permutations=5000)
    assert (found.exact, found.n_permutations) == (True, len(every))
    observed = by_scipy(test, x)
    np.testing.assert_allclose(np.abs(found.statistic), observed, rtol=1e-10)
    np.testing.assert_allclose(np.sort(found.null_max), np.sort(every.max(axis=1)), rtol=1e-9)
    family = [(every.max(axis=1) >= t - 1e-9).mean() for t in observed]
    np.testing.assert_allclose(found.p_value, family, rtol=1e-12)
    alone = unit_permutation(x, test, n_permutations=5000)
    np.testing.assert_allclose(alone.p_value, (every >= observed - 1e-9).mean(axis=0), rtol=1e-12)


def test_adjusted_f_is_that_of_the_regression():
    from statsmodels.api import OLS, add_constant

    rng = np.random.default_rng(2)
    x = samples_of("f", n=9)
    covariates = rng.normal(size=(24, 2))
    found = max_statistic(x, "f", nuisance=covariates, n_permutations=50)
    label = np.repeat([0, 1, 2], [9, 7, 8])
    design = add_constant(np.column_stack([label == 0, label == 1, covariates]))
    expected = [OLS(y, design).fit().f_test(np.eye(5)[1:3]).fvalue for y in np.vstack(x).T]
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-10)


def float64_maxima(x, test, n_permutations, **options):
    """What the products find if nothing is in float32 and nothing in blocks."""
    design = permuted_design([len(g) for g in x], test, **options)
    relabellings = relabellings_of(design, n_permutations, rng=np.random.default_rng(3))
    columns = design.columns.exact(Rows(x), slice(0, x[0].shape[1]))
    products = [
        relabellings.of(v) @ (columns**2 if squared else columns)
        for v, squared in zip(design.score.vectors, design.score.squared, strict=True)
    ]
    return design.score.as_statistic(design.score(products).max(axis=1))


@pytest.mark.parametrize(
    ("test", "adjusted"),
    [*((test, False) for test in FAMILY_TESTS), ("student", True), ("f", True)],
)
def test_float32_products_find_the_maxima_of_float64(test, adjusted):
    rng = np.random.default_rng(0)
    x = [g.astype(np.float32) for g in samples_of(test, n_units=3000, n=40)]
    x = [np.concatenate([g, g[:, :50]], axis=1) for g in x]  # ties between units
    n = sum(map(len, x))
    options = {"nuisance": rng.normal(size=(n, 2))} if adjusted else {}
    found = max_statistic(
        x, test, n_permutations=300, rng=np.random.default_rng(3), exact=False, **options
    )
    expected = float64_maxima(x, test, 300, **options)
    np.testing.assert_allclose(found.null_max, expected, rtol=1e-11)


# Invariants


@every_test
def test_p_is_never_below_its_floor(test):
    a, b = groups(20, 20, 10)
    found = max_t(a + 100, b, test=test, n_permutations=99)
    np.testing.assert_allclose(found.p_value, 1 / 100)
    assert not found.exact
    assert len(found.null_max) == found.n_permutations == 99


@every_test
def test_step_down_is_never_less_powerful(test):
    a, b = groups(15, 15, 300)
    single = max_t(a, b, test=test, n_permutations=300, rng=np.random.default_rng(1))
    stepped = max_t(
        a, b, test=test, n_permutations=300, step_down=True, rng=np.random.default_rng(1)
    )
    assert np.all(stepped.p_value <= single.p_value)
    assert np.any(stepped.p_value < single.p_value)
    strongest = np.argmax(np.abs(single.statistic))
    assert stepped.p_value[strongest] == single.p_value[strongest]
    np.testing.assert_allclose(stepped.null_max, single.null_max, rtol=1e-12)


@every_test
@pytest.mark.parametrize("step_down", [False, True])
def test_blocks_of_units_and_permutations_change_nothing(test, step_down, monkeypatch):
    a, b = groups(10, 12, 130)
    whole = max_t(a, b, test=test, n_permutations=200, step_down=step_down)
    monkeypatch.setattr("activation_analysis.statistics.null_maxima.BLOCK_UNITS", 7)
    monkeypatch.setattr("activation_analysis.statistics.null_maxima.BLOCK_RELABELLINGS", 11)
    parts = max_t(a, b, test=test, n_permutations=200, step_down=step_down)
    np.testing.assert_array_equal(whole.p_value, parts.p_value)
    np.testing.assert_array_equal(whole.null_max, parts.null_max)


@every_design
def test_no_bit_depends_on_blocks_or_threads(test, monkeypatch):
    x = [g.astype(np.float32) for g in samples_of(test, n_units=700, n=40)]
    whole = max_statistic(x, test, n_permutations=200, n_threads=1)
    for units, rows, n_threads in ((7, 11, 2), (100, 1000, 3), (512, 64, 1)):
        monkeypatch.setattr(null_maxima, "BLOCK_UNITS", units)
        monkeypatch.setattr(null_maxima, "BLOCK_RELABELLINGS", rows)
        parts = max_statistic(x, test, n_permutations=200, n_threads=n_threads)
        np.testing.assert_array_equal(whole.p_value, parts.p_value)
        np.testing.assert_array_equal(whole.null_max, parts.null_max)


@every_design
def test_one_nan_leaves_every_other_number_bit_identical(test):
    x = [g.astype(np.float32) for g in samples_of(test, n_units=2000, n=40)]
    clean = max_statistic(x, test, n_permutations=200)
    weakest = int(np.argmin(np.abs(clean.statistic)))
    x[0][3, weakest] = np.nan
    found = max_statistic(x, test, n_permutations=200)
    others = np.arange(2000) != weakest
    assert np.isnan(found.p_value[weakest])
    np.testing.assert_array_equal(found.p_value[others], clean.p_value[others])
    np.testing.assert_array_equal(found.statistic[others], clean.statistic[others])


def test_step_down_beyond_the_most_significant_units_is_conservative(monkeypatch):
    a, b = groups(15, 15, 300)
    whole = max_t(a, b, n_permutations=300, step_down=True)
    monkeypatch.setattr("activation_analysis.statistics.permutation.STEPPED_UNITS", 20)
    some = max_t(a, b, n_permutations=300, step_down=True)
    top = np.argsort(-np.abs(whole.statistic))
    np.testing.assert_array_equal(some.p_value[top[:20]], whole.p_value[top[:20]])
    assert np.all(some.p_value >= whole.p_value)
    np.testing.assert_allclose(some.null_max, whole.null_max, rtol=1e-12)


@every_test
def test_bad_units_leave_the_family_and_nothing_else_changes(test):
    a, b = groups(10, 10, 6)
    clean = max_t(a[:, :3], b[:, :3], test=test)
    a[:, 3], b[:, 3] = 1, 2
    a[0, 4], b[0, 5] = np.nan, np.inf
    found = max_t(a, b, test=test)
    np.testing.assert_allclose(found.p_value[:3], clean.p_value, rtol=1e-12)
    for name in ("statistic", "p_value"):
        assert np.all(np.isnan(getattr(found, name)[3:]))


@every_test
def test_float32_with_an_offset_keeps_the_ties_of_discrete_data(test):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, size=(5, 40)), rng.integers(0, 3, size=(5, 40))
    plain = max_t(a, b, test=test)
    moved = max_t((a + 10_000).astype(np.float32), (b + 10_000).astype(np.float32), test=test)
    np.testing.assert_array_equal(plain.p_value, moved.p_value)
    # With as many relabellings as there are, a count is whole and includes its mirror image.
    alone = unit_permutation([a, b], test)
    counts = alone.p_value[~np.isnan(plain.p_value)] * alone.n_permutations
    np.testing.assert_allclose(counts % 2, 0, atol=1e-9)


@every_test
def test_swapped_groups_keep_p(test):
    a, b = groups()
    np.testing.assert_allclose(
        max_t(a, b, test=test).p_value, max_t(b, a, test=test).p_value, rtol=1e-12
    )


def test_the_same_seed_draws_the_same_numbers():
    a, b = groups(20, 20, 5)
    one, two = (max_t(a, b, rng=np.random.default_rng(5)).p_value for _ in range(2))
    np.testing.assert_array_equal(one, two)


@every_test
@pytest.mark.parametrize("step_down", [False, True])
def test_family_wise_error_is_five_percent(test, step_down):
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        shared = rng.normal(size=(20, 1))  # correlated units
        x = rng.normal(size=(20, 30)) + shared
        p = max_t(x[:10], x[10:], test=test, n_permutations=99, step_down=step_down, rng=rng)
        hits += p.p_value.min() <= 0.05
    # 400 families: three standard errors are 3.3 %.
    assert hits / 400 == pytest.approx(0.05, abs=0.033)


# Exchangeability


def test_shuffles_are_uniform_over_all_relabellings():
    labels = np.arange(5) < 2
    atoms = exchangeability(labels, None)
    assert atoms.n_relabellings == 10
    drawn = labels[atoms.draw(20_000, np.random.default_rng(0))]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert len(counts) == 10


def test_enumeration_lists_every_relabelling_once_and_the_observed_one():
    labels = np.array([1, 0, 1, 1, 0, 0])
    for groups_, expected in ((None, 20), ([0, 0, 1, 1, 1, 2], 2 * 3), ([0, 1, 2, 3, 4, 5], 20)):
        atoms = exchangeability(labels, groups_)
        every = atoms.labellings()
        assert every.shape == (expected, 6)
        assert len(np.unique(every, axis=0)) == expected == atoms.n_relabellings
        assert np.any(np.all(every == labels, axis=1))
        assert np.all(every.sum(axis=1) == 3)


def test_relabellings_of_three_conditions_are_multinomial():
    atoms = exchangeability(["a", "a", "b", "c", "c"], None)
    every = atoms.labellings()
    assert len(np.unique(every, axis=0)) == len(every) == atoms.n_relabellings == 30
    assert np.all(np.sort(every, axis=1) == [0, 0, 1, 2, 2])


def test_row_permutations_are_enumerated_within_strata():
    atoms = exchangeability([0, 0, 1, 1], [0, 1, 0, 1])
    assert sorted(map(tuple, atoms.row_permutations())) == [
        (0, 1, 2, 3),
        (0, 3, 2, 1),
        (2, 1, 0, 3),
        (2, 3, 0, 1),
    ]


def test_crossed_blocks_are_shuffled_within():
    labels = np.repeat([0, 1], 6)
    atoms = exchangeability(labels, np.tile(np.arange(6), 2))
    drawn = labels[atoms.draw(100, np.random.default_rng(0))]
    assert np.all(drawn[:, :6] != drawn[:, 6:])
    assert (atoms.kind, atoms.n_relabellings) == ("within", 2**6)


def test_nested_blocks_are_relabelled_whole_among_equals():
    labels = np.repeat([0, 1], [8, 10])
    templates = np.repeat(list("abcdefg"), [2, 2, 4, 2, 2, 4, 2])
    atoms = exchangeability(labels, templates)
    drawn = labels[atoms.draw(200, np.random.default_rng(0))]
    for template in set(templates):
        inside = drawn[:, templates == template]
        assert np.all(inside == inside[:, :1])
    assert np.all(drawn.sum(axis=1) == 10)
    assert (atoms.kind, atoms.n_relabellings) == ("whole", 10 * 2)  # 2 of 5 pairs, 1 of 2 fours


@pytest.mark.parametrize("groups_", [None, [0, 0, 1, 1, 0, 1, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3]])
def test_drawn_rows_move_what_may_be_exchanged(groups_):
    labels = np.repeat([0, 1], 4)
    atoms = exchangeability(labels, groups_)
    rows = atoms.draw(2000, np.random.default_rng(0))
    assert np.all(np.sort(rows, axis=1) == np.arange(8))
    assert {tuple(labels[row]) for row in rows} == {tuple(row) for row in atoms.labellings()}


def test_pairs_of_one_block_are_flipped_together():
    flips = sign_flips(4, ["x", "y", "x", "z"])
    assert len(np.unique(flips.patterns(), axis=0)) == flips.n_relabellings == 8
    drawn = flips.draw(400, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
    assert len(np.unique(drawn, axis=0)) == 8


def test_templates_inflate_the_error_unless_they_are_the_blocks():
    # facts: templates x fillings with a shared intraclass correlation, taken as independent.
    rng = np.random.default_rng(11)
    templates = np.repeat(np.arange(12), 4)
    naive, blocked = 0, 0
    for _ in range(200):
        x = rng.normal(size=(12, 3))[templates] + rng.normal(size=(48, 3))
        a, b = x[:24], x[24:]
        naive += max_t(a, b, n_permutations=99, rng=rng).p_value.min() <= 0.05
        blocked += max_t(a, b, n_permutations=99, groups=templates, rng=rng).p_value.min() <= 0.05
    assert naive / 200 > 0.2
    assert blocked / 200 == pytest.approx(0.05, abs=0.047)


def test_a_confound_inflates_the_error_unless_it_is_a_covariate():
    rng = np.random.default_rng(12)
    length = np.concatenate([rng.normal(0.6, 1, 25), rng.normal(0, 1, 25)])
    naive, adjusted = 0, 0
    for _ in range(200):
        x = 0.6 * length[:, None] + rng.normal(size=(50, 3))
        a, b = x[:25], x[25:]
        naive += max_t(a, b, n_permutations=99, rng=rng).p_value.min() <= 0.05
        p = max_t(a, b, n_permutations=99, nuisance=length, rng=rng).p_value
        adjusted += p.min() <= 0.05
    assert naive / 200 > 0.2
    assert adjusted / 200 == pytest.approx(0.05, abs=0.047)


# Planted effects


@every_test
@pytest.mark.parametrize(
    "design",
    [{}, {"step_down": True}, {"groups": np.tile(np.arange(15), 2)}],
)
def test_planted_units_are_found_and_no_others(test, design):
    a, b = groups(15, 15, 500, seed=4)
    a = a - 0.8
    a[:, [3, 300]] += 3
    found = max_t(a, b, test=test, n_permutations=400, **design)
    assert np.flatnonzero(found.p_value <= 0.05).tolist() == [3, 300]


def test_a_planted_unit_is_found_beside_a_covariate():
    rng = np.random.default_rng(5)
    length = rng.normal(size=30)
    x = rng.normal(size=(30, 100)) + 2 * length[:, None]
    x[:15, 42] += 2.5
    found = max_t(x[:15], x[15:], nuisance=length, n_permutations=400)
    assert np.flatnonzero(found.p_value <= 0.05).tolist() == [42]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "median"}, "no permutation test 'median'; known: student, welch, mannwhitney"),
        ({"test": "paired"}, "one prompt of each group per pair, received 4 and 5"),
        ({"test": "one_sample"}, "takes one group, received 2"),
        ({"n_permutations": 0}, "n_permutations is 0"),
        ({"exact": "always"}, "exact is 'always'"),
        ({"groups": [1, 2]}, r"one label per prompt, \(9,\)"),
        ({"groups": [0, 0, 0, 0, 1, 1, 1, 1, 1]}, "the 2 groups leave nothing to exchange"),
        ({"nuisance": np.ones((4, 2))}, r"expected one row per prompt, \(9, k\)"),
        ({"nuisance": np.full((9, 1), np.nan)}, "nuisance holds NaN"),
        ({"nuisance": (np.arange(9) < 4) * 2.0}, "leave nothing of the condition"),
        ({"nuisance": np.ones((9, 1)), "test": "welch"}, "go with test='student'"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        max_t(*groups(), **options)


# Edges


@every_design
@pytest.mark.parametrize("step_down", [False, True])
def test_no_testable_unit_and_no_unit_are_answered(test, step_down):
    x = samples_of(test, n=8)
    constant = [np.ones_like(g) for g in x]
    found = max_statistic(constant, test, step_down=step_down, n_permutations=20)
    assert np.isnan(found.p_value).all()
    none = max_statistic([g[:, :0] for g in x], test, step_down=step_down, n_permutations=20)
    assert none.p_value.shape == (0,)


def test_too_many_relabellings_are_not_enumerated():
    a, b = groups(30, 30)
    with pytest.raises(ValueError, match="would enumerate about 10\\^17 relabellings"):
        max_t(a, b, exact=True)


def test_the_observed_labelling_counts_even_where_rounding_hides_it():
    assert counted(np.array([5.0]), np.array([1.0, 2, 4]), True)[0] == 1 / 3


@pytest.mark.parametrize(
    ("labels", "groups", "ties"),
    [
        ([0, 0, 1, 1], None, 2),
        ([0, 0, 1, 1, 1], None, 1),
        ([0, 0, 1, 1, 2, 2], None, 6),
        ([0, 0, 1, 1, 2], None, 2),
        ([0, 1, 0, 1], ["x", "x", "y", "y"], 2),
        ([0, 1, 1, 0, 1, 1], ["x", "x", "x", "y", "y", "y"], 1),
    ],
)
def test_as_many_labellings_tie_as_sizes_are_equal(labels, groups, ties):
    from activation_analysis.statistics.exchangeability import exchangeability

    found = exchangeability(np.array(labels), groups)
    assert found.n_ties == ties
    assert 10**found.log10_n_relabellings == pytest.approx(found.n_relabellings)
