"""What is counted on the surface of texts agrees with the language's own string methods."""

import random

import numpy as np
import pytest

from activation_analysis.text_measures import CHUNK, SURFACE
from activation_analysis.word_frequency import word_frequency

ODD = [
    "",
    "  a b ",
    "Hello, World 3½²!",
    "\n\nx\ny",
    "a\u2028b c",
    "日本語 テスト。",
    "ÉÀ Ǆ ǅ",
    "٣ 12",
]
PLAIN = {
    "words": lambda text: len(text.split()),
    "characters": len,
    "punctuation": lambda text: sum(not c.isalnum() and not c.isspace() for c in text),
    "digits": lambda text: sum(c.isdigit() for c in text),
    "capitals": lambda text: sum(c.isupper() for c in text),
}


@pytest.mark.parametrize("name", PLAIN)
def test_counts_are_those_of_the_string_methods(name):
    draw = random.Random(0)
    letters = "aB1 .\n\tÉ–٣"
    many = ["".join(draw.choices(letters, k=draw.randint(0, 9))) for _ in range(CHUNK + 50)]
    texts = [*ODD, *many]
    assert SURFACE[name](texts).tolist() == [PLAIN[name](text) for text in texts]


def test_a_repeated_word_lowers_the_type_token_ratio():
    said = ["one two three", "The cat saw the dog", "don't don’t", "..."]
    assert SURFACE["type_token_ratio"](said) == pytest.approx([1, 4 / 5, 1, 1])


def test_word_frequency_is_on_the_zipf_scale():
    zipf_frequency = pytest.importorskip("wordfreq").zipf_frequency
    found = word_frequency(["The thesaurus", "the", "zxqv zxqv", "!"])
    expected = (zipf_frequency("the", "en") + zipf_frequency("thesaurus", "en")) / 2
    assert found == pytest.approx([expected, zipf_frequency("the", "en"), 0, 0])
    assert 7 < found[1] < 8


def test_no_texts_have_no_counts():
    for measure in SURFACE.values():
        assert measure([]).shape == (0,)
        assert measure([]).dtype == np.float64
