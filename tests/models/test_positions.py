"""Which tokens speak: known places, every tokenizer's offsets, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import SENTENCES, tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from activation_analysis.activations import POSITIONS
from activation_analysis.errors import ModelError, PromptError
from activation_analysis.models.positions import CHOICES, READ_BY_CHARACTER, REDUCTIONS, places
from activation_analysis.models.tokenizing import Tokens, tokenize

# text -> tokens, as a byte-level tokenizer that keeps spaces would cut it; "|" parts them
WORD_FINAL = {
    "The| cat|,| sat|.": [0, 2, 4],
    "un|believ|able": [2],
    "two|  |spaces| ": [0, 2],
    "one|\n|two|\n\n|three": [0, 2, 4],
    "一|二|三|，|四": [4],  # no white space: one word
    "don|'t| stop| !": [1, 2, 3],
    "of the| sea": [0, 1],  # one token that ends two words counts once
    "e\u0301|a| n|\u0303": [1, 3],  # combining marks belong to their word
    " |a": [1],
    "\u3000|a|\u00a0|b": [1, 3],
}


def hand_made(text, *, spans=(), counted=None, n_read=None):
    """Tokens of one text whose borders are written "|"."""
    pieces = text.split("|")
    ends = np.cumsum([len(piece) for piece in pieces])
    offsets = np.stack([ends - [len(piece) for piece in pieces], ends], axis=1)
    whole = "".join(pieces)
    return Tokens(
        ids=[list(range(len(pieces)))],
        counted=[counted or [1] * len(pieces)],
        n_tokens=np.array([len(pieces)]),
        n_truncated=0,
        texts=(whole,),
        rendered=(whole,),
        tokenizer=None,
        spans=(tuple(spans),),
        offsets=[offsets],
        n_read=np.array([len(whole) if n_read is None else n_read]),
    )


@pytest.mark.parametrize(("text", "expected"), WORD_FINAL.items())
def test_word_final_is_the_token_at_the_end_of_each_word(text, expected):
    assert places("word_final", hand_made(text))[0].tolist() == expected


def test_a_character_of_several_tokens_ends_with_the_last_of_them():
    tokens = hand_made("x")
    pieces = np.array([[0, 1], [1, 3], [2, 3], [2, 3], [3, 5]])  # "a", then " 🧪" in bytes, " b"
    whole = "a 🧪 b"
    tokens = Tokens(
        **{
            **vars(tokens),
            "ids": [[0, 1, 2, 3, 4]],
            "counted": [[1] * 5],
            "texts": (whole,),
            "offsets": [pieces],
            "n_read": np.array([len(whole)]),
            "spans": (((2, 3),),),
        }
    )
    assert places("word_final", tokens)[0].tolist() == [0, 3, 4]
    assert places("span", tokens)[0].tolist() == [1, 2, 3]


def test_a_word_that_truncation_broke_has_no_final_token():
    assert places("word_final", hand_made("one| unbeliev", n_read=6))[0].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("The| cat| sat", [(4, 7)], [1]),
        ("The| cat| sat", [(3, 7)], [1]),  # the space before it belongs to nobody else
        ("The| cat| sat", [(4, 8)], [1]),  # ... nor does the space behind it bring " sat"
        ("The| cat| sat", [(0, 3), (8, 11)], [0, 2]),
        ("The| cat| sat", [(0, 11)], [0, 1, 2]),
        ("un|believ|able", [(4, 5)], [1]),
        ("un|believ|able", [(1, 9)], [0, 1, 2]),
        ("a| | |b", [(0, 4)], [0, 3]),  # white space alone does not speak
    ],
)
def test_a_span_is_the_tokens_that_cover_a_character_of_it(text, spans, expected):
    assert places("span", hand_made(text, spans=spans))[0].tolist() == expected


@pytest.mark.parametrize("template", ["<bos> $A", "$A", "<bos> $A <eos>"])
@pytest.mark.parametrize(
    "text",
    [*SENTENCES, "  two  spaces\n\nand lines ", "一二三，四 五。", "🧪🧠 👩‍👩‍👧 café e\u0301"],
)
def test_word_final_tokens_cover_the_ends_of_all_words(text, template):
    tokens = tokenize(tiny_tokenizer(template=template), [text], offsets=True)
    chosen = places("word_final", tokens)[0]
    ends = [text[: tokens.offsets[0][place, 1]].rstrip() for place in chosen]
    assert [end.split()[-1] for end in ends] == text.split()
    assert np.array(tokens.counted[0])[chosen].all()


def test_accents_that_a_tokenizer_drops_do_not_lose_their_word():
    tokenizer = Tokenizer(models.WordLevel({"cafe": 0, "noir": 1, "?": 2}, unk_token="?"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    tokens = tokenize(fast, ["cafe\u0301 noir"], offsets=True)
    assert places("word_final", tokens)[0].tolist() == [0, 1]


@pytest.mark.parametrize("template", ["<bos> $A", "$A", "<bos> $A <eos>"])
def test_special_tokens_never_speak(template):
    spans = [((0, 3),)] * len(SENTENCES)
    tokens = tokenize(tiny_tokenizer(template=template), SENTENCES, spans=spans, offsets=True)
    for position in POSITIONS:
        for chosen, counted in zip(places(position, tokens), tokens.counted, strict=True):
            assert chosen.dtype == np.int64
            assert chosen.size > 0
            assert (np.diff(chosen) > 0).all()
            assert np.array(counted)[chosen].all()


def test_offsets_are_nowhere_at_special_tokens_and_spell_the_text_elsewhere():
    tokens = tokenize(tiny_tokenizer(template="<bos> $A <eos>"), SENTENCES, offsets=True)
    for text, offsets in zip(tokens.texts, tokens.offsets, strict=True):
        assert offsets[[0, -1]].tolist() == [[-1, -1]] * 2
        assert "".join(text[start:stop] for start, stop in offsets[1:-1]) == text


def test_every_position_has_tokens_and_a_reduction():
    assert set(POSITIONS) == set(CHOICES) == set(REDUCTIONS)


@pytest.mark.parametrize(
    ("position", "expected"),
    [("last", [4]), ("first", [2]), ("mean", [2, 3, 4]), ("max", [2, 3, 4]), ("all", [2, 3, 4])],
)
def test_skipped_places_are_those_of_the_sequence(position, expected):
    tokens = hand_made("<s>|a| b| c| d", counted=[0, 1, 1, 1, 1])
    assert places(position, tokens, skip_first=2)[0].tolist() == expected


def test_skipped_places_do_not_speak_for_words_and_spans_either():
    tokens = hand_made("a| b| c", spans=[(0, 5)])
    assert places("word_final", tokens, skip_first=1)[0].tolist() == [1, 2]
    assert places("span", tokens, skip_first=2)[0].tolist() == [2]


@pytest.mark.parametrize("position", ["last", "first", "mean", "max", "all", "word_final"])
def test_prompts_without_a_token_left_are_refused_together(position):
    texts = ["a", "a b c d e f g h", "b"]
    sources = ["p.csv:2", "p.csv:3", "p.csv:4"]
    tokens = tokenize(tiny_tokenizer(), texts, sources=sources, offsets=True)
    with pytest.raises(PromptError) as refusal:
        places(position, tokens, skip_first=2)
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["p.csv:2", "p.csv:4"]
    assert lines[0].endswith(
        f"'a' has no token at position {position!r} once its first 2 places are skipped; lower "
        f"skip_first, or give a longer prompt"
    )


def test_prompts_without_a_span_are_refused():
    tokens = tokenize(tiny_tokenizer(), ["a b", "c"], spans=[[(0, 1)], []], offsets=True)
    with pytest.raises(PromptError, match=r"prompt 1: 'c' has no marked stretch.*\[\[ and \]\]"):
        places("span", tokens)


def test_a_span_that_truncation_cut_off_is_refused():
    text = "a" * 9 + " the end"
    cut = [[(0, 1)], [(10, 13)], [(0, len(text))]]
    tokens = tokenize(tiny_tokenizer(), [text] * 3, limit=6, truncate=True, spans=cut, offsets=True)
    with pytest.raises(PromptError) as refusal:
        places("span", tokens)
    assert [line.split(":")[0] for line in str(refusal.value).splitlines()] == [
        "prompt 1",
        "prompt 2",
    ]
    assert "lost its marked stretch" in str(refusal.value)


@pytest.mark.parametrize("position", sorted(READ_BY_CHARACTER))
def test_positions_by_character_ask_for_offsets(position):
    with pytest.raises(ValueError, match=r"tokenize\(offsets=True\)"):
        places(position, tokenize(tiny_tokenizer(), ["a b"]))


def test_an_unknown_position_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match=r"no position 'word_finl'.*did you mean 'word_final'"):
        places("word_finl", tokenize(tiny_tokenizer(), ["a"]))


def test_a_tokenizer_without_offsets_is_refused_where_they_are_needed(monkeypatch):
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert len(tokenize(tokenizer, ["a"])) == 1
    with pytest.raises(ModelError, match=r"does not tell which characters.*word_final"):
        tokenize(tokenizer, ["a"], offsets=True)
