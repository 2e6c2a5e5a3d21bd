"""Centred kernel alignment."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from activation_analysis.statistics.alignment import linear_cka


def wide(n=20, n_units=1000, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_units))


@pytest.mark.parametrize("debiased", [True, False])
def test_a_representation_is_aligned_with_itself_rotated_moved_and_scaled(debiased):
    x = wide(n_units=30)
    turned = 7 * x @ ortho_group.rvs(30, random_state=1) + 100
    assert linear_cka(x, x, debiased) == pytest.approx(1)
    assert linear_cka(x, turned, debiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, wide(seed=2), debiased) == pytest.approx(
        linear_cka(wide(seed=2), x, debiased)
    )


def test_random_wide_representations_are_aligned_only_by_bias():
    # facts/STATISTICS.md: random 20 x 1000 gives .98, debiased -.01.
    assert linear_cka(wide(), wide(seed=1), debiased=False) == pytest.approx(0.98, abs=0.01)
    debiased = [linear_cka(wide(seed=2 * s), wide(seed=2 * s + 1)) for s in range(100)]
    assert np.mean(debiased) == pytest.approx(0, abs=0.02)


def test_biased_cka_is_the_normalised_cross_covariance():
    # Kornblith et al. (2019), eq. for linear kernels.
    x, y = wide(30, 5), wide(30, 7, seed=1)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.linalg.norm
    expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert linear_cka(x, y, debiased=False) == pytest.approx(expected, rel=1e-12)


def test_debiased_hsic_is_song_et_als_sum_over_four_different_prompts():
    # Song et al. (2012), eq. 4, against the U-statistic's definition by loops.
    from itertools import permutations

    x, y = wide(6, 3), wide(6, 4, seed=1)

    def hsic(k, m):
        terms = [
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(6), 4)
        ]
        return np.mean(terms)

    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-10)


def test_a_shared_signal_is_found():
    signal = np.random.default_rng(9).normal(size=(40, 3))
    x, y = (signal @ wide(3, 200, seed=s) + wide(40, 200, seed=s + 10) for s in (1, 2))
    assert linear_cka(x, y) > 0.8
    assert abs(linear_cka(x, y[::-1])) < 0.2


def test_without_variation_there_is_no_alignment():
    assert np.isnan(linear_cka(np.full((6, 3), 0.1), wide(6)))


def test_unusable_representations_are_refused():
    with pytest.raises(ValueError, match="same prompts as rows of both, at least 4"):
        linear_cka(wide(5), wide(6))
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka(wide(3), wide(3))
    with pytest.raises(ValueError, match="holds NaN or inf"):
        linear_cka(np.full((5, 2), np.inf), wide(5))
