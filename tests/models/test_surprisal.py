"""Mean surprisal is what the model's own loss says of each prompt alone."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from activation_analysis.errors import ModelError
from activation_analysis.models.loading import load_model, load_tokenizer, resolve
from activation_analysis.models.surprisal import mean_surprisal


def test_a_batch_says_of_each_prompt_what_the_model_says_of_it_alone(saved_gpt2):
    model = AutoModelForCausalLM.from_pretrained(saved_gpt2).eval()
    ids = [[5, 6, 7, 8, 9, 10, 3], [4, 2], [9, 9, 1, 3], [7]]
    found = mean_surprisal(model, ids, progress=False)
    for row, bits in zip(ids[:3], found, strict=False):
        one = torch.tensor([row])
        loss = model(input_ids=one, labels=one).loss.item()
        assert bits == pytest.approx(loss / np.log(2), rel=1e-5)
    assert np.isnan(found[3])


def test_an_encoder_has_no_surprisal(saved_gpt2):
    headless = AutoModel.from_pretrained(saved_gpt2)
    with pytest.raises(ModelError, match="predicts the next token"):
        mean_surprisal(headless, [[1, 2]], progress=False)


@pytest.mark.real
def test_scrambled_words_surprise_the_embedded_model():
    source = resolve("smollm2-135m")
    tokenizer, model = load_tokenizer(source), load_model(source, device="cpu")
    said = [
        "The children walked to school in the rain.",
        "School rain the walked in children the to.",
    ]
    plain, scrambled = mean_surprisal(model, [tokenizer(t)["input_ids"] for t in said])
    assert 1 < plain < scrambled < 20
