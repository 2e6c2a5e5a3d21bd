"""Do two representations of the same prompts have the same geometry, up to rotation and scale?"""

from __future__ import annotations

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray, debiased: bool = True) -> float:
    """Linear centred kernel alignment of two representations of the same prompts.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),  K = x x', L = y y'

    The debiased estimate leaves the diagonal out. The other is near 1 for unrelated random
    representations with more units than prompts (.98 at 20 x 1000), so do not use it there.
    One massive unit shared by both dominates either: compare on z-scored units too.

    Parameters
    ----------
    x, y : (n_prompts, n_units_x) and (n_prompts, n_units_y)
        Row i of both is the same prompt; at least four prompts (two if not debiased).
    debiased : bool
        Whether to use the unbiased estimate of HSIC (Song et al.).

    Returns
    -------
    float
        1 for equal geometry, about 0 for unrelated ones (debiased; may be slightly negative);
        NaN where a representation does not vary.

    Raises
    ------
    ValueError
        If the prompts do not match or are too few, or a value is NaN or inf.

    References
    ----------
    Kornblith et al. (2019), ICML; Song et al. (2012), JMLR 13:1393-1434, eq. 4.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    fewest = 4 if debiased else 2
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < fewest:
        raise ValueError(
            f"representations have shapes {x.shape} and {y.shape}; expected the same prompts as "
            f"rows of both, at least {fewest}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a representation holds NaN or inf; leave out those units")
    hsic = _unbiased_hsic if debiased else _biased_hsic
    gram_x, gram_y = _gram(x), _gram(y)
    scale = hsic(gram_x, gram_x) * hsic(gram_y, gram_y)
    return float(hsic(gram_x, gram_y) / np.sqrt(scale)) if scale > 0 else float("nan")


def _gram(x: np.ndarray) -> np.ndarray:
    x = x - x[0]  # constant units become exactly zero
    x = x - x.mean(axis=0)
    largest = np.abs(x).max(initial=0.0)
    x = x / largest if largest > 0 else x  # CKA has no scale; squares of squares could overflow
    return x @ x.T


def _biased_hsic(gram_x: np.ndarray, gram_y: np.ndarray) -> float:
    return np.sum(gram_x * gram_y)


def _unbiased_hsic(gram_x: np.ndarray, gram_y: np.ndarray) -> float:
    n = len(gram_x)
    off_x, off_y = (gram - np.diag(np.diag(gram)) for gram in (gram_x, gram_y))
    of_x, of_y = off_x.sum(axis=0), off_y.sum(axis=0)
    everything = of_x.sum() * of_y.sum() / ((n - 1) * (n - 2))
    return (np.sum(off_x * off_y) + everything - 2 / (n - 2) * (of_x @ of_y)) / (n * (n - 3))
