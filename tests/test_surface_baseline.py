"""A decoder of words: at chance where words do not differ, near 100 % where one gives it away."""

import random

import numpy as np
import pytest

from activation_analysis.surface_baseline import MOST_PROMPTS, surface_baseline

VOCABULARY = [f"word{k}" for k in range(200)]


def sentences(n, rng, *, cue=""):
    return [f"{' '.join(rng.sample(VOCABULARY, 9))} {cue}".strip() + "." for _ in range(n)]


def test_a_cue_word_is_found_and_named():
    rng = random.Random(0)
    texts = sentences(40, rng, cue="indeed") + sentences(40, rng)
    found = surface_baseline(texts, ["a"] * 40 + ["b"] * 40, np.arange(80))
    assert found.accuracy > 0.95
    assert found.telling[0][0] == "indeed"
    assert "words alone give the conditions away" in found.sentence
    assert found.metrics()["surface_chance"] == 0.5


def test_words_of_one_kind_stay_at_chance():
    rng = random.Random(1)
    reached = []
    for seed in range(20):
        labels = ["a"] * 40 + ["b"] * 40
        found = surface_baseline(sentences(80, rng), labels, np.arange(80), seed=seed)
        reached.append(found.accuracy)
    assert abs(np.mean(reached) - 0.5) < 4 * np.std(reached) / np.sqrt(20)


def test_pairs_held_out_together_do_not_lend_each_other_their_words():
    rng = random.Random(2)
    pairs = [[f"{s[:-1]} is.", f"{s[:-1]} are."] for s in sentences(40, rng)]
    texts = [text for pair in zip(*pairs, strict=True) for text in pair]
    blocks = np.tile(np.arange(40), 2)
    labels = ["a"] * 40 + ["b"] * 40
    assert surface_baseline(texts, labels, blocks).accuracy > 0.95
    only_pairs = [t.replace(" is.", ".").replace(" are.", " !") for t in texts]
    assert surface_baseline(only_pairs, labels, blocks).telling[1][0] == "!"


def test_the_same_prompts_give_the_same_figure_and_many_are_sampled():
    rng = random.Random(3)
    texts = sentences(3000, rng)
    labels = ["a", "b", "c"] * 1000
    first, again = (surface_baseline(texts, labels, np.arange(3000)) for _ in range(2))
    assert first == again
    assert first.n_prompts == MOST_PROMPTS
    assert sorted(first.classes) == ["a", "b", "c"]


@pytest.mark.parametrize("labels", [["a", "a"], ["a", "b"]])
def test_nothing_to_hold_out_is_no_baseline(labels):
    assert surface_baseline(["one", "two"], labels, np.arange(2)) is None
