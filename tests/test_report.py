"""The summary of a contrast, and the folder that holds all of it."""

import re

import numpy as np
import pytest
from workbench import synthetic_recording, write_prompts

from activation_analysis import pipeline
from activation_analysis.experiment import Experiment, apply_overrides
from activation_analysis.report.summary import (
    escaped,
    findings_markdown,
    markdown_table,
    summary_markdown,
)
from activation_analysis.results import percent

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "a | b | c",
    "**bold** _it_ ~~gone~~ `code`",
    "# heading",
    "- item",
    "1. item",
    "&lt;b&gt;",
    "$x_{$",
    "two\nlines\r\nand\u2028more",
    "\x1b[2Jgone",
    "abc\u202egnp.exe",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_neither_markup_nor_lines(text):
    safe = escaped(text)
    assert not re.search(
        r"(?<!\\)[\\`*_{}\[\]<>|#$~!&](?![\\`*_{}\[\]<>|#$~!&])", safe.replace("&#", "")
    )
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]", safe)
    assert not re.match(r"\s*([-+>]|\d+[.)])", safe)
    html = to_html(safe)
    assert not re.search(r"<(script|img|a|em|strong|code|h1|ul|ol|li|table|del|s)\b", html), html


def to_html(text):
    """As a Markdown reader shows it."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.mark.parametrize("text", [*HOSTILE[:11], "positive", "数学 - 非数学", "p < .05 & more"])
def test_escaped_text_reads_as_it_was_written(text):
    import html

    shown = html.unescape(re.sub(r"</?p>", "", to_html(escaped(text))).strip())
    assert shown == html.unescape(text) if "&lt;" not in text else shown == text


def hostile_result(tmp_path, **sizes):
    (tmp_path / "x.csv").write_text(
        "condition,prompt\n"
        + "".join(f"{c},{c} {i}\n" for c in ("<b>|x", "[/INST]") for i in range(4))
    )
    experiment = apply_overrides(
        Experiment.from_prompts(tmp_path / "x.csv", "<b>|x - [/INST]"),
        ["question=<img src=x>\n# why"],
    )
    return pipeline.analyze(experiment, synthetic_recording(experiment), progress=False)[0]


def test_the_summary_starts_with_the_finding_and_keeps_its_tables(tmp_path):
    result = hostile_result(tmp_path)
    text = summary_markdown(result)
    assert text.startswith(r"\<b\>\|x - \[/INST\]: ")
    html = to_html(text)
    assert html.count("<table>") == 5
    assert html.count("<h1>") == 1
    assert "<img" not in html
    assert "<b>" not in html
    assert "## Be careful" in text  # four prompts are few
    rows = [line for line in text.splitlines() if line.startswith("| mlp")]
    assert len({row.count(" | ") for row in rows if "tested" not in row}) >= 1


def test_several_findings_are_a_line_each(tmp_path):
    result = hostile_result(tmp_path)
    text = findings_markdown("Why?", [result, result])
    assert to_html(text).count("<li>") == 2
    assert text.rstrip().endswith("Why?")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0 %"),
        (6 / 17280, "<0.1 %"),
        (0.00101, "0.1 %"),
        (0.2649, "26.5 %"),
        (0.99991, ">99.9 %"),
        (1, "100.0 %"),
        (np.nan, "-"),
    ],
)
def test_a_share_is_never_nothing_of_something(share, text):
    assert percent(share) == text


def test_few_of_many_are_not_zero_percent(tmp_path):
    experiment = Experiment.from_prompts(write_prompts(tmp_path / "p.csv", ["a", "b"]), "a - b")
    recording = synthetic_recording(experiment)
    rows = experiment.prompts.rows_of("a")
    recording.values["mlp"][1] = np.tile(recording.values["mlp"][1], (1, 50))
    recording.values["mlp"][1][rows, 0] += 30
    (result,) = pipeline.analyze(
        apply_overrides(experiment, ["univariate.control=bonferroni"]), recording, progress=False
    )
    assert result.n_significant == 1
    assert "1 of 1,425 units (<0.1 %) differ" in result.finding


def test_a_table_has_a_rule_below_its_header():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
