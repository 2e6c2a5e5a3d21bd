"""Batches by token budget, padded on the right."""

from __future__ import annotations

import numpy as np
import pytest

from activation_analysis.models.batching import pad_right, token_batches


@pytest.mark.parametrize("budget", [1, 7, 64, 512, 10**9])
@pytest.mark.parametrize("seed", range(5))
def test_every_prompt_is_in_exactly_one_batch_within_the_budget(budget, seed):
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(1, 120, size=rng.integers(1, 200))
    batches = token_batches(n_tokens, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(n_tokens)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * n_tokens[batch].max() <= budget
    longest = [n_tokens[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)  # the largest batch comes first


def test_no_prompts_make_no_batches():
    assert token_batches(np.array([], dtype=int), 100) == []


@pytest.mark.parametrize("budget", [0, -5])
def test_an_empty_budget_is_refused(budget):
    with pytest.raises(ValueError, match="batch_tokens must be 1 or more"):
        token_batches(np.array([3, 4]), budget)


def test_padding_stands_on_the_right_and_repeats_the_last_id():
    ids, mask = pad_right([[5, 6, 7], [8], [9, 4]])
    assert ids.tolist() == [[5, 6, 7], [8, 8, 8], [9, 4, 4]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert ids.dtype == np.int64
