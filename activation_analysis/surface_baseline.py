"""How well do words alone tell the conditions apart? The baseline of every activation result.

A model that read nothing but which words occur could still respond to the conditions, as far as
a decoder of the bag of words can tell them apart. A map of activations shows more than wording
only where that decoder fails, or where the effect outlasts prompts that it gets wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from activation_analysis.results import SurfaceBaseline
from activation_analysis.statistics.classification import (
    balanced_accuracy,
    decoded,
    residual_maker,
    stratified_folds,
)

N_FOLDS = 10
N_SHUFFLES = 10
MOST_PROMPTS = 1_000  # of more, a sample: one standard error is 1.6 % then
N_TELLING = 8
# Words and marks; scripts without spaces go character by character.
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
PENALTY = 1.0


def surface_baseline(
    texts: Sequence[str], conditions: Sequence[str], blocks: Sequence[str], *, seed: int = 0
) -> SurfaceBaseline | None:
    """Decode the condition of every text from its words; None where nothing can be held out.

    Ridge classification of the logarithms of word counts, 1 + log(n), every text scaled to length
    one; ten folds that spread conditions evenly and keep blocks whole; ten shuffles of the folds.
    Accuracy below chance is possible: where words are matched over the whole set, those of the
    texts held out are the more frequent on the other side of the rest.

    Parameters
    ----------
    conditions : (n_texts,) of every text
    blocks : (n_texts,) what must not be torn apart: items, groups, templates
    seed : of the shuffles, and of the sample where there are more than 1000 texts

    Returns
    -------
    SurfaceBaseline or None
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(texts))
    if len(rows) > MOST_PROMPTS:
        rows = np.sort(rng.choice(rows, MOST_PROMPTS, replace=False))
    condition = np.asarray(conditions)[rows]
    classes = tuple(dict.fromkeys(condition.tolist()))
    label = np.array([classes.index(c) for c in condition])
    block = np.unique(np.asarray(blocks)[rows], return_inverse=True)[1]
    n_folds = min(N_FOLDS, *(len(np.unique(block[label == k])) for k in range(len(classes))))
    if n_folds < 2 or len(classes) < 2:
        return None
    words, bags = _bags([texts[row] for row in rows])
    maker = residual_maker((bags @ bags.T).toarray(), penalty=PENALTY)
    reached = []
    for _ in range(N_SHUFFLES):
        fold = stratified_folds(label, block, n_folds, rng)
        said = decoded(maker, label, fold)
        reached.append(balanced_accuracy(label, said))
    return SurfaceBaseline(
        classes=classes,
        accuracy=float(np.mean(reached)),
        lowest=min(reached),
        highest=max(reached),
        n_prompts=len(rows),
        n_folds=n_folds,
        telling=_telling(words, bags, maker, label),
    )


def _bags(texts: Sequence[str]) -> tuple[list[str], csr_array]:
    """The words, and for every text the logarithms of their counts at length one, sparse."""
    number: dict[str, int] = {}
    row, column, value = [], [], []
    for i, text in enumerate(texts):
        counts = Counter(TOKEN.findall(text.lower()))
        weights = np.array([1 + np.log(n) for n in counts.values()])
        row += [i] * len(counts)
        column += [number.setdefault(word, len(number)) for word in counts]
        value += (weights / np.linalg.norm(weights)).tolist() if counts else []
    shape = (len(texts), max(len(number), 1))
    return list(number), csr_array((value, (row, column)), shape=shape)


def _telling(
    words: list[str], bags: csr_array, maker: np.ndarray, label: np.ndarray
) -> tuple[tuple[str, ...], ...]:
    """The words of largest weight for each class, of the decoder that learns from all texts."""
    indicator = (label[:, None] == np.arange(int(label.max()) + 1)).astype(float)
    weights = bags.T @ (maker @ indicator)
    best = np.argsort(-weights, axis=0)[:N_TELLING]
    return tuple(tuple(words[i] for i in best[:, k]) for k in range(best.shape[1]))
