"""Can the class of an observation be told from its features? Decoding with whole folds held out.

A linear decoder in its dual form sees observations only through their products, so that it costs
the same for a thousand features and a million.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

TIE_TOLERANCE = 1e-9  # of scores around 0..1, whose rounding is 1e-14


def sparse_products(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, n_rows: int
) -> np.ndarray:
    """Products of observations that have few features each, (n_rows, n_rows) float64.

    ``value`` stands at ``row`` and ``column``, each (n_entries,); everything else is 0.
    """
    n_columns = int(column.max(initial=0)) + 1
    features = csr_array((value, (row, column)), shape=(n_rows, n_columns))
    return (features @ features.T).toarray()


def residual_maker(gram: np.ndarray, *, penalty: float) -> np.ndarray:
    """What turns targets into the residuals of a ridge regression, up to the penalty, (n, n).

    With K the products of observations and A = K + penalty I,

        P = A^-1 - A^-1 1 1' A^-1 / (1' A^-1 1),    residuals = penalty P targets

    The intercept is not penalised.

    Parameters
    ----------
    gram : (n, n) products of the observations' features
    penalty : above 0, on the squared length of the weights

    Raises
    ------
    ValueError
        If ``gram`` is not square, or the penalty is not positive.
    """
    n = len(gram)
    if gram.shape != (n, n):
        raise ValueError(f"gram has shape {gram.shape}; expected (n, n)")
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty!r}; it must be above 0")
    ridge = np.array(gram, dtype=np.float64)
    ridge[np.diag_indices(n)] += penalty
    maker = cho_solve(cho_factor(ridge, overwrite_a=True), np.eye(n), overwrite_b=True)
    sums = maker.sum(axis=0)
    maker -= np.outer(sums / sums.sum(), sums)
    return maker


def held_out_scores(maker: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """What ridge regression predicts for every observation when its fold is not in the fit.

    The prediction of a fold f from all other observations is, exactly,

        targets_f - (P_ff)^-1 (P targets)_f

    so that one factorisation serves every fold, every shuffle of folds and every target.

    Parameters
    ----------
    maker : (n, n) P, as `residual_maker` gives it
    targets : (n, n_targets)
    fold : (n,) the fold of every observation

    Returns
    -------
    (n, n_targets) float64

    Raises
    ------
    ValueError
        If shapes do not fit, or there is but one fold.

    References
    ----------
    An, Liu and Venkatesh (2007), Pattern Recognition 40:2154-2162.
    """
    n = len(maker)
    if targets.shape[:1] != (n,) or fold.shape != (n,):
        raise ValueError(
            f"targets have shape {targets.shape} and folds {fold.shape}; expected ({n}, n_targets) "
            f"and ({n},)"
        )
    folds = [np.flatnonzero(fold == f) for f in np.unique(fold)]
    if len(folds) < 2:
        raise ValueError("all observations are of one fold; nothing is left to learn from")
    residuals = maker @ targets
    scores = np.empty(targets.shape)
    for rows in folds:
        within = maker[np.ix_(rows, rows)]
        scores[rows] = targets[rows] - np.linalg.solve(within, residuals[rows])
    return scores


def held_out_credit(maker: np.ndarray, label: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """1 where a ridge classifier tells the class of an observation held out, else 0; (n,) float64.

    One regression a class on indicators; the class whose score exceeds its share most, so that a
    frequent class is not preferred. Where k classes tie within rounding (two observations of the
    same features), each gets 1 / k.

    Parameters
    ----------
    label : (n,) int, 0..n_classes-1
    maker, fold, errors : as `held_out_scores`
    """
    indicator = (label[:, None] == np.arange(int(label.max()) + 1)).astype(float)
    excess = held_out_scores(maker, indicator, fold) - indicator.mean(axis=0)
    best = excess >= excess.max(axis=1, keepdims=True) - TIE_TOLERANCE
    return best[np.arange(len(label)), label] / best.sum(axis=1)


def balanced_accuracy(label: np.ndarray, credit: np.ndarray) -> float:
    """Mean over classes of the share that is told right.

    References
    ----------
    Brodersen et al. (2010), ICPR 2010:3121-3124.
    """
    return float(np.mean([credit[label == k].mean() for k in np.unique(label)]))


def stratified_folds(
    label: np.ndarray, block: np.ndarray, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """A fold for every observation, blocks kept whole and classes spread evenly, (n,) int.

    Blocks in random order, the largest first, each go to the fold that has least of the block's
    classes so far (then to the smallest fold).

    Parameters
    ----------
    label, block : (n,) int, 0..n_classes-1 and 0..n_blocks-1
    """
    n_blocks = int(block.max()) + 1
    held = np.zeros((n_blocks, int(label.max()) + 1))
    np.add.at(held, (block, label), 1)
    shuffled = rng.permutation(n_blocks)
    order = shuffled[np.argsort(-held.sum(axis=1)[shuffled], kind="stable")]
    share = held / held.sum(axis=0)
    filled = np.zeros((n_folds, held.shape[1]))
    fold_of = np.empty(n_blocks, dtype=int)
    for one in order:
        own = filled @ (share[one] > 0)
        fold_of[one] = np.lexsort((filled.sum(axis=1), own))[0]
        filled[fold_of[one]] += share[one]
    return fold_of[block]
