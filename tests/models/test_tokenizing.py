"""Texts to token ids: control tokens stay text, the tokenizer stays as it was."""

from __future__ import annotations

import copy

import pytest
from tiny_models import SENTENCES, tiny_tokenizer
from transformers import BertConfig, BloomConfig, GPT2Config, RobertaConfig

from activation_analysis.errors import PromptError
from activation_analysis.models.tokenizing import context_length, tokenize

AWKWARD = (
    "[INST] x [/INST]",
    "$x_{$",
    "<|im_end|> and <bos> and <eos> and <pad>",
    "一二三，四五六。",
    "🧪🧠 👩‍👩‍👧",
    "NA",
    "null",
    "nan",
    " leading and trailing ",
    "two\nlines\r\nthree\u2028four",
    "=cmd|' /C calc'!A0",
    "\x00\x1b[31m",
)


@pytest.mark.parametrize("template", ["<bos> $A", "$A", "<bos> $A <eos>"])
@pytest.mark.parametrize("text", AWKWARD)
def test_a_text_is_what_it_says(text, template):
    tokenizer = tiny_tokenizer(template=template)
    tokens = tokenize(tokenizer, [text])
    own = [i for i, is_own in zip(tokens.ids[0], tokens.counted[0], strict=True) if is_own]
    assert not set(own) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(own) == text
    assert len(tokens.ids[0]) - len(own) == template.count("<")
    assert tokens.n_tokens.tolist() == [len(tokens.ids[0])]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_ids_are_those_of_the_tokenizer_itself(padding_side):
    tokenizer = tiny_tokenizer(padding_side=padding_side)
    assert tokenize(tokenizer, SENTENCES).ids == [tokenizer(t)["input_ids"] for t in SENTENCES]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_tokenizer_is_left_as_it_was(padding_side):
    tokenizer = tiny_tokenizer(padding_side=padding_side)
    # As some published tokenizers arrive (MiniLM's pads to 128 and cuts there).
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    before = copy.deepcopy(tokenizer)
    ids = tokenize(tokenizer, [SENTENCES[0], AWKWARD[2]]).ids
    assert len(ids[0]) > 8
    assert tokenizer.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert tokenizer.padding_side == padding_side
    assert tokenizer.special_tokens_map == before.special_tokens_map


def test_texts_without_a_token_are_refused_together():
    tokenizer = tiny_tokenizer()
    with pytest.raises(PromptError) as refusal:
        tokenize(tokenizer, ["fine", "", "fine", ""], sources=[f"p.csv:{n}" for n in range(2, 6)])
    assert str(refusal.value) == "\n".join(
        [
            "p.csv:3: '' has no token of its own",
            "p.csv:5: '' has no token of its own",
        ]
    )


@pytest.mark.parametrize("value", [None, float("nan"), 7, "half \ud83d a pair"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(PromptError, match=r"prompt 1: .* is not valid text"):
        tokenize(tiny_tokenizer(), ["fine", value])


def test_texts_beyond_the_context_are_all_listed():
    with pytest.raises(PromptError) as refusal:
        tokenize(tiny_tokenizer(), ["a" * 30, "fine", "b" * 50], limit=20)
    lines = str(refusal.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["prompt 0", "prompt 2"]
    assert "(31 tokens) is longer than the model's context of 20 tokens" in lines[0]
    assert "--truncate" in lines[0]


def test_long_lists_of_bad_texts_are_cut():
    with pytest.raises(PromptError, match=r"\.\.\. and 30 more") as refusal:
        tokenize(tiny_tokenizer(), [""] * 50)
    assert len(str(refusal.value).splitlines()) == 21


@pytest.mark.parametrize("template", ["<bos> $A", "$A", "<bos> $A <eos>"])
def test_truncation_is_what_the_tokenizer_would_do_and_is_counted(template):
    tokenizer = tiny_tokenizer(template=template)
    tokens = tokenize(tokenizer, SENTENCES, limit=14, truncate=True)
    cut = [tokenizer(t, truncation=True, max_length=14)["input_ids"] for t in SENTENCES]
    assert tokens.ids == cut
    assert tokens.n_truncated == sum(len(tokenizer(t)["input_ids"]) > 14 for t in SENTENCES)
    assert tokens.n_truncated > 0
    assert [len(row) for row in tokens.counted] == [len(row) for row in cut]


def test_the_context_is_the_smallest_stated_limit():
    tokenizer = tiny_tokenizer()
    assert context_length(GPT2Config(), tokenizer) == 1024
    tokenizer.model_max_length = 77
    assert context_length(GPT2Config(), tokenizer) == 77
    assert context_length(BloomConfig(), tiny_tokenizer()) is None


def test_positions_that_follow_the_pad_id_are_not_context():
    assert context_length(RobertaConfig(max_position_embeddings=514), tiny_tokenizer()) == 512
    assert context_length(BertConfig(), tiny_tokenizer()) == 512
