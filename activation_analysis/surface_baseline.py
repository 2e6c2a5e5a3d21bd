"""How well do words alone tell the conditions apart? The baseline of every activation result.

A model that read nothing but which words occur could still respond to the conditions, as far as
a decoder of the bag of words can tell them apart. A map of activations shows more than wording
only where that decoder fails, or where the effect outlasts prompts that it gets wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from activation_analysis.contrasts import Contrast
from activation_analysis.prompts import PromptSet
from activation_analysis.results import SurfaceBaseline
from activation_analysis.statistics.classification import (
    balanced_accuracy,
    held_out_credit,
    residual_maker,
    sparse_products,
    stratified_folds,
)
from activation_analysis.statistics.contingency import fisher_exact
from activation_analysis.templates import find_templates

N_FOLDS = 10
N_SHUFFLES = 10
MOST_PROMPTS = 1_000  # of more, a sample: one standard error is 1.6 % then
N_TELLING = 8
# Words and marks; scripts without spaces go character by character.
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
# The piece at either end, as a tokenizer may see it: case, white space and runs of marks count.
PIECES = {
    "last": re.compile(r"(\s?[^\w\s]+|\s?\w+|)\s*$"),
    "first": re.compile(r"^\s*([^\w\s]+|\w+|)"),
}
PENALTY = 1.0
CUE_LEVEL = 0.05  # of Fisher's test, over all words (Bonferroni)


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
    bags = _bags([texts[row] for row in rows])
    maker = residual_maker(
        sparse_products(bags.row, bags.word, bags.weight, len(rows)), penalty=PENALTY
    )
    reached = []
    for _ in range(N_SHUFFLES):
        fold = stratified_folds(label, block, n_folds, rng)
        reached.append(balanced_accuracy(label, held_out_credit(maker, label, fold)))
    return SurfaceBaseline(
        classes=classes,
        accuracy=float(np.mean(reached)),
        lowest=min(reached),
        highest=max(reached),
        n_prompts=len(rows),
        n_folds=n_folds,
        telling=_telling(bags, maker, label),
        cues=_cues(bags, label, classes),
    )


def contrast_baseline(
    prompts: PromptSet, contrast: Contrast, *, place: str = "", seed: int = 0
) -> SurfaceBaseline | None:
    """Decode the two sides of a contrast (the conditions of an omnibus one) from their words.

    What the prompts declare as belonging together is held out together: groups, else items, else
    what `find_templates` sees. With ``place`` "last" or "first", from that word or mark alone, and
    every prompt is held out by itself.
    """
    if contrast.is_omnibus:
        side_of = {c: c for c in contrast.conditions}
    else:
        side_of = {c: " + ".join(s) for s in (contrast.first, contrast.second) for c in s}
    rows = prompts.rows_of(tuple(side_of))
    sides = [side_of[c] for c in prompts.table["condition"].to_numpy()[rows]]
    texts = [prompts.texts[row] for row in rows]
    if place:
        pieces = [PIECES[place].search(text)[0] for text in texts]
        number = {piece: f"piece{k}" for k, piece in enumerate(dict.fromkeys(pieces))}
        words = [number[piece] for piece in pieces]
        return surface_baseline(words, sides, np.arange(len(words)), seed=seed)
    blocks = find_templates(prompts).groups if prompts.blocks is None else prompts.blocks
    return surface_baseline(texts, sides, blocks[rows], seed=seed)


@dataclass(frozen=True)
class _Bags:
    """Which words each text has, as triples; every text's weights have length one."""

    words: list[str]
    row: np.ndarray  # (n_entries,) int
    word: np.ndarray  # (n_entries,) int
    weight: np.ndarray  # (n_entries,) float


def _bags(texts: Sequence[str]) -> _Bags:
    number: dict[str, int] = {}
    row, word, weight = [], [], []
    for i, text in enumerate(texts):
        counts = Counter(TOKEN.findall(text.lower()))
        own = np.array([1 + np.log(n) for n in counts.values()])
        row += [i] * len(counts)
        word += [number.setdefault(said, len(number)) for said in counts]
        weight += (own / np.linalg.norm(own)).tolist()
    return _Bags(list(number), np.array(row, int), np.array(word, int), np.array(weight))


def _cues(bags: _Bags, label: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Words that more prompts of one class have than of the rest, beyond chance over all words."""
    size = np.bincount(label)
    held = np.zeros((len(bags.words), len(size)), dtype=int)
    np.add.at(held, (bags.word, label[bags.row]), 1)
    total = held.sum(axis=1)
    tests = [fisher_exact(held[:, k], total, int(n), len(label)) for k, n in enumerate(size)]
    p = np.min(tests, axis=0)
    level = CUE_LEVEL / (len(p) * (len(size) if len(size) > 2 else 1))
    found = [i for i in np.argsort(p, kind="stable")[:N_TELLING] if p[i] <= level]
    return tuple(
        f"{bags.words[i]!r} ({', '.join(f'{held[i, k]} of {size[k]} {c}' for k, c in named)})"
        for i in found
        for named in [list(enumerate(classes))]
    )


def _telling(bags: _Bags, maker: np.ndarray, label: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """The words of largest weight for each class, of the decoder that learns from all texts."""
    indicator = (label[:, None] == np.arange(int(label.max()) + 1)).astype(float)
    weights = np.zeros((len(bags.words), indicator.shape[1]))
    np.add.at(weights, bags.word, bags.weight[:, None] * (maker @ indicator)[bags.row])
    best = np.argsort(-weights, axis=0)[:N_TELLING]
    return tuple(tuple(bags.words[i] for i in best[:, k]) for k in range(best.shape[1]))
