"""Tokens counted without torch are those that a run reads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from activation_analysis.experiment import read_experiment
from activation_analysis.models.loading import load_config, load_tokenizer, resolve
from activation_analysis.models.token_counts import CHUNK, longest_context, token_counter
from activation_analysis.models.tokenizing import context_length, tokenize

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ODD = [
    "<|im_end|> said he",
    " a",
    "\n\n",
    "日本語のテスト",
    "naïve café 🦊",
    "1234567890",
    "x" * 300,
]


@pytest.mark.real
def test_a_light_count_is_what_a_run_reads():
    source = resolve("smollm2-135m")
    tokenizer = load_tokenizer(source)
    for folder in sorted(EXPERIMENTS.iterdir()):
        texts = read_experiment(folder).prompts.texts
        expected = tokenize(tokenizer, texts).n_tokens
        np.testing.assert_array_equal(token_counter(source)(texts), expected)
    np.testing.assert_array_equal(token_counter(source)(ODD), tokenize(tokenizer, ODD).n_tokens)
    assert longest_context(source) == context_length(load_config(source), tokenizer)


@pytest.mark.real
def test_nothing_heavy_is_loaded_to_count():
    code = (
        "import sys\n"
        "from activation_analysis.models.loading import resolve\n"
        "from activation_analysis.models.token_counts import token_counter\n"
        "assert token_counter(resolve('smollm2-135m'))(['one two']).tolist() == [2]\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_models_are_counted_with_their_own_tokenizer(saved_gpt2):
    source = resolve(str(saved_gpt2))
    tokenizer = load_tokenizer(source)
    texts = [*ODD, *["many words here"] * (CHUNK + 1)]
    texts = [text for text in texts if text.strip()]
    np.testing.assert_array_equal(token_counter(source)(texts), tokenize(tokenizer, texts).n_tokens)
    assert longest_context(source) == load_config(source).n_positions
