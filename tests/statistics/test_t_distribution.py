"""p-values of t: digits of extended precision, agreement with scipy, no bit from the company."""

import numpy as np
import pytest
from scipy import special

from activation_analysis.statistics.t_distribution import BLOCK, FEWEST_DF, two_sided_p

# Known answers


# mpmath 1.3, betainc(df/2, 1/2, 0, df/(df + t^2), regularized=True) in 50 digits.
EXACT = {
    (0.5, 30.0): 0.620723004885127286,
    (2.0, 47.5): 0.051236184948548479,
    (3.5, 100.0): 0.00069642771735626892,
    (12.0, 100.0): 4.39508771560437815e-21,
    (15.9, 398.0): 2.01699539710949118e-44,
    (1.96, 1e5): 0.049998563194301638,
    (1e-9, 60.0): 0.999999999205432889,
}


@pytest.mark.parametrize(("t", "df"), EXACT)
def test_p_has_the_digits_of_extended_precision(t, df):
    found = two_sided_p(np.array([t, -t]), np.full(2, df))
    np.testing.assert_allclose(found, EXACT[t, df], rtol=1e-13)


@pytest.mark.parametrize("df", [1, 2, 5, 29.9, 30, 31.7, 98, 398, 5_000, 1e6, 1e9])
def test_p_agrees_with_scipy_on_either_side_of_where_the_expansion_ends(df):
    t = np.concatenate([np.linspace(0, 12, 501), np.sqrt(df) * np.linspace(0.7, 0.9, 101)])
    t = t[t < 37]  # p > 1e-300
    found, expected = two_sided_p(t, np.full(len(t), df)), 2 * special.stdtr(df, -t)
    np.testing.assert_allclose(found, expected, rtol=3e-13)


# Invariants


def test_certainty_and_its_absence():
    t = np.array([0.0, np.nan, 1.0, np.inf, 1e200])
    found = two_sided_p(t, np.array([50, 50, np.nan, 50, 50]))
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, 0, 0])


@pytest.mark.parametrize("df", [FEWEST_DF - 1, FEWEST_DF, 398.0])
def test_p_falls_as_t_grows(df):
    # Neighbours that rounding could swap lie closer than this grid.
    t = np.linspace(0, 30, 20_001)
    assert np.all(np.diff(two_sided_p(t, np.full(len(t), df))) < 0)


def test_a_p_value_is_the_same_alone_and_in_company():
    rng = np.random.default_rng(0)
    t, df = 3 * rng.standard_normal(BLOCK + 37), rng.uniform(20, 400, BLOCK + 37)
    together = two_sided_p(t, df)
    for j in (*range(40), *range(BLOCK - 5, BLOCK + 37)):
        assert two_sided_p(t[j : j + 1], df[j : j + 1])[0] == together[j]
    np.testing.assert_array_equal(two_sided_p(t[5:], df[5:]), together[5:])
