"""Marked stretches: read out of texts or columns, and everything that can be wrong with them."""

from __future__ import annotations

import json

import pytest

from activation_analysis import cautions
from activation_analysis.balance import balance
from activation_analysis.errors import PromptError
from activation_analysis.experiment import Experiment, RecordingOptions, apply_overrides
from activation_analysis.prompts import read_prompts
from activation_analysis.spans import has_marks, with_spans, without_spans

HEADER = "condition,prompt,span_start,span_end,mood"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prompts_with(*rows, name="p.csv", header=HEADER):
    with open(name, "w", encoding="utf-8", newline="") as file:
        file.write("\n".join((header, *rows)) + "\n")
    return name


GOOD = (
    "a,The [[cat]] sat,,,calm",
    "a,A dog and a pig,0 10,5 15,calm",
    "b,[[all of it]],,,wild",
    "b,[[一二]]三 [[🧪]],,,wild",
)


def span_experiment(*rows):
    return Experiment.from_prompts(
        prompts_with(*rows), "a - b", recording=RecordingOptions(position="span")
    )


def test_marks_and_columns_say_the_same():
    prompts = with_spans(read_prompts(prompts_with(*GOOD)))
    assert prompts.texts == ("The cat sat", "A dog and a pig", "all of it", "一二三 🧪")
    assert prompts.spans == (((4, 7),), ((0, 5), (10, 15)), ((0, 9),), ((0, 2), (4, 5)))
    marked = [
        [text[start:stop] for start, stop in spans]
        for text, spans in zip(prompts.texts, prompts.spans, strict=True)
    ]
    assert marked == [["cat"], ["A dog", "a pig"], ["all of it"], ["一二", "🧪"]]
    assert prompts.covariates == ("mood",)


def test_reading_marks_twice_changes_nothing():
    once = with_spans(read_prompts(prompts_with(*GOOD)))
    assert with_spans(once) == once
    with open("copy.jsonl", "w", encoding="utf-8") as file:
        file.write(once.to_jsonl())
    again = with_spans(read_prompts("copy.jsonl", name=once.name))
    assert again == once
    assert again.spans == once.spans


def test_offsets_may_be_json_numbers():
    with open("p.jsonl", "w", encoding="utf-8") as file:
        for i in range(4):
            row = {"condition": "ab"[i % 2], "prompt": f"text {i}", "span_start": 5, "span_end": 6}
            file.write(json.dumps(row) + "\n")
    assert with_spans(read_prompts("p.jsonl")).spans == (((5, 6),),) * 4


BAD = {
    "a,no stretch,,,x": 'no marked stretch, which position "span" needs; put [[ and ]] around it',
    "a,a [[[b]]] c,,,x": "'[[[' at character 3: it is unclear which brackets are text",
    "a,a [[ ]] b,,,x": "the stretch from 2 to 3 holds only white space",
    "a,a [[]] b,,,x": "the stretch from 2 to 2 is empty",
    "a,a ]] b,,,x": "']]' at character 3 closes a stretch that was not opened",
    "a,a [[b [[c]] d]],,,x": "'[[' at character 7 opens a stretch inside another one",
    "a,a [[b,,,x": "'[[' at character 3 is never closed; write ]] after it",
    "a,[[a]] b,0,1,x": "both [[...]] in the prompt and offsets in span_start, span_end; keep one",
    "a,abc,1,99,x": "span_end is 99, but the prompt has 3 characters",
    "a,abcd,x,2,x": "span_start is 'x'; write whole numbers, such as 4 or 4 20",
    "a,abce,1,-2,x": "span_end is '-2'; write whole numbers",
    "a,abcf,0 2,1,x": "span_start has 2 numbers and span_end 1; give every stretch one of both",
    "a,abcg,,1,x": "span_start has 0 numbers and span_end 1",
    "a,abch,2,1,x": "the stretch from 2 to 1 is empty",
    "a,abci,0 1,2 3,x": "the stretch from 1 begins before the one before it ends at 2",
    "a,abcj,1,2.0,x": "span_end is '2.0'",
}


def test_every_bad_row_is_listed_with_its_line():
    with pytest.raises(PromptError) as refusal:
        span_experiment(*BAD, *GOOD)
    lines = str(refusal.value).splitlines()
    assert len(lines) == len(BAD)
    for number, (line, problem) in enumerate(zip(lines, BAD.values(), strict=True), start=2):
        assert line.startswith(f"p.csv:{number}: {problem}"), line


def test_two_stretches_of_one_text_are_two_prompts():
    rows = ("a,The [[cat]] bit the dog,,,", "b,The cat bit the [[dog]],,,")
    more = ("a,x y,0,1,", "b,x y,2,3,")
    prompts = span_experiment(*rows, *more).prompts
    assert prompts.texts[0] == prompts.texts[1]
    with pytest.raises(PromptError, match=r"p\.csv:5: the same prompt as p\.csv:4 but for its"):
        without_spans(read_prompts("p.csv"))


def test_the_same_stretch_twice_is_refused_however_it_is_written():
    with pytest.raises(PromptError, match=r"p\.csv:3: the same prompt and stretch as p\.csv:2"):
        span_experiment("a,The [[cat]] sat,,,", "b,The cat sat,4,7,", *GOOD[1:], "a,[[x]],,,")


def test_marks_are_text_at_any_other_position():
    experiment = span_experiment(*GOOD)
    assert experiment.prompts.texts[0] == "The cat sat"
    at_last = apply_overrides(experiment, ["recording.position=last"])
    assert at_last.prompts.texts[0] == "The [[cat]] sat"
    assert at_last.prompts.covariates == ("mood",)
    again = apply_overrides(at_last, ["recording.position=span"])
    assert again.prompts == experiment.prompts
    assert again == experiment


def test_marks_that_are_not_read_are_told_of():
    marked = read_prompts(prompts_with("a,[[w]],,,", *GOOD[:1], *GOOD[2:]))
    assert cautions.unread_marks(marked, "last") == (
        "every prompt holds [[...]], which the model reads as text at position 'last'; position "
        "'span' reads it as marks"
    )
    assert cautions.unread_marks(marked, "span") == ""
    assert cautions.unread_marks(read_prompts(prompts_with(*GOOD)), "last") == ""
    assert not any(map(has_marks, ("plain", "a[[0]", "[x]", "]] [[", "[[[x]]]")))


def test_balance_and_contrasts_see_the_text_alone():
    experiment = span_experiment(*GOOD)
    lengths = balance(experiment.prompts, "a", "b").set_index("covariate").loc["characters"]
    assert lengths.mean_first == (11 + 15) / 2
    assert lengths.mean_second == (9 + 5) / 2
    assert len(experiment.with_contrasts("b - a").prompts.spans) == 4


def test_chosen_rows_keep_their_stretches_and_lines():
    prompts = span_experiment(*GOOD).prompts.select("b")
    assert prompts.spans == (((0, 9),), ((0, 2), (4, 5)))
    assert prompts.where(0) == "p.csv:4"
