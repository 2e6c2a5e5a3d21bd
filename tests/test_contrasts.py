"""A contrast means what neuroimaging means by it, and says so when it means nothing."""

import dataclasses
import subprocess
import sys

import pytest

from activation_analysis.contrasts import check, named, parse, quoted
from activation_analysis.errors import ContrastError


@pytest.mark.parametrize(
    ("expression", "weights"),
    [
        ("a - b", {"a": 1, "b": -1}),
        ("a + b - c", {"a": 0.5, "b": 0.5, "c": -1}),
        ("a - b - c", {"a": 1, "b": -0.5, "c": -0.5}),
        ("a + b - c - d", {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}),
        ("a | b | c", {"a": 1, "b": 1, "c": 1}),
        ("non-math - math", {"non-math": 1, "math": -1}),
        ('"dry wit" - plain', {"dry wit": 1, "plain": -1}),
        ('"-" - "a | b"', {"-": 1, "a | b": -1}),
        ("  a\t-\n b ", {"a": 1, "b": -1}),
        ("数学 - 其他", {"数学": 1, "其他": -1}),
        ("it's - 2+2", {"it's": 1, "2+2": -1}),
    ],
)
def test_an_expression_gives_its_weights(expression, weights):
    assert parse(expression).weights == weights


def test_the_two_sides_are_the_positive_and_the_negative_conditions():
    contrast = parse("a + b - c", name="ab")
    assert (contrast.name, str(contrast)) == ("ab", "a + b - c")
    assert (contrast.first, contrast.second) == (("a", "b"), ("c",))
    assert not contrast.is_omnibus


def test_an_omnibus_contrast_has_one_side():
    contrast = parse("a | b | c")
    assert contrast.is_omnibus
    assert (contrast.first, contrast.second) == (("a", "b", "c"), ())


def test_directed_weights_sum_to_zero():
    for expression in ("a - b", "a + b + c - d", "a - b - c - d", "a + b + c - d - e"):
        assert abs(sum(parse(expression).weights.values())) < 1e-12


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "is empty; name two conditions"),
        ("math", "compares nothing: 'math' is one condition"),
        ("math-nonmath", "operators need white space on both sides"),
        ("- a + b", "expected a condition at the start, not '-'"),
        ("a -", "expected a condition after '-'"),
        ("a - - b", "expected a condition after '-', not '-'"),
        ("a b - c", "expected one of + - | between 'a' and 'b'"),
        ("a − b", "expected one of + - | between 'a' and '−'"),
        ("a + b", "nothing is subtracted"),
        ("a - b + c", "'+' after '-' can be read two ways"),
        ("a | b - c", "cannot be mixed"),
        ("a - a", "condition 'a' is named twice"),
        ("a + b - b", "condition 'b' is named twice"),
        ("a | a", "condition 'a' is named twice"),
        ('"dry wit - plain', "has no partner"),
    ],
)
def test_what_does_not_parse_is_refused(expression, said):
    with pytest.raises(ContrastError) as caught:
        parse(expression)
    assert said in str(caught.value)
    assert repr(expression) in str(caught.value)


def test_an_unknown_condition_is_answered_with_the_nearest_and_the_known():
    with pytest.raises(ContrastError) as caught:
        check(parse("math - nomath"), ("math", "nonmath"))
    assert str(caught.value) == (
        "contrast 'math - nomath': no condition 'nomath' (did you mean 'nonmath'?); "
        "the prompts have 'math', 'nonmath'"
    )


def test_known_conditions_pass():
    check(parse("a - b"), ("c", "b", "a"))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("math - non-math", "math_vs_non-math"),
        ("a + b - c", "a_and_b_vs_c"),
        ("a | b", "a_or_b"),
        ('"a/../b" - "; rm -rf"', "a_.._b_vs__rm_-rf"),
        ('"/" - "*"', "vs"),
    ],
)
def test_a_name_is_made_that_can_be_a_file(expression, name):
    assert parse(expression).name == name


def test_two_conditions_need_no_expression():
    assert named(None, ("dry wit", "plain")) == {"dry_wit_vs_plain": '"dry wit" - plain'}
    assert named(None, ("a", "b", "c")) == {"a_or_b_or_c": "a | b | c"}
    with pytest.raises(ContrastError, match=r"have 7 conditions, 'a', 'b', .*; say which"):
        named(None, tuple("abcdefg"))


@pytest.mark.parametrize("condition", ["a", "non-math", "dry wit", "-", "|", "数学", "a b - c"])
def test_a_quoted_condition_parses_back(condition):
    assert parse(f"{quoted(condition)} - other").first == (condition,)


def test_a_contrast_cannot_be_changed_but_can_be_hashed():
    contrast = parse("a - b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        contrast.name = "x"
    assert len({contrast, parse("a - b")}) == 1


def test_contrasts_load_nothing_heavy():
    code = (
        "import sys, activation_analysis.contrasts\n"
        "print([m for m in ('numpy', 'pandas', 'torch', 'scipy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
