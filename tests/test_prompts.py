"""Prompts come through as written, or every reason why not is told with file and line."""

import csv
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from workbench import problems

from activation_analysis.errors import ContrastError, PromptError
from activation_analysis.prompts import PromptSet, balance, read_prompts

HOSTILE = (
    *(
        "NA",
        "N/A",
        "null",
        "NULL",
        "None",
        "nan",
        "NaN",
        "<NA>",
        "#N/A",
        "-inf",
        "true",
        "0",
        "1.0",
    ),
    *("1e5", "007", "  leading", "trailing  ", "\ttab\t", "a,b", 'say "hi"', '"', '""', "'", "a;b"),
    *("[INST] x [/INST]", "<|im_end|>", "<s>", "</s>", "$x_{$", "{x}", "%s", "\\n", "\\", "C:\\x"),
    *("=1+1", "+1", "-1", "@x", "#comment", "<script>alert(1)</script>", "../../x", "; rm -rf /"),
    *(
        "数学是什么",
        "日本語\u3000空白",
        "العربية",
        "नमस्ते",
        "e\u0301",
        "é",
        "\u00a0nbsp",
        "😀",
        "👩‍👩‍👧",
    ),
    *(
        "line\nbreak",
        "\n\n",
        "para\u2029sep",
        "line\u2028sep",
        "next\u0085line",
        "\x0bvt",
        "\x0cff",
    ),
    *(
        "\ufeffinner mark",
        "zero\u200bwidth",
        "rtl\u202eover",
        "\x1b[31mred",
        "\ud7ff\ue000",
        "\U0010ffff",
    ),
)
HOSTILE = tuple(text for text in HOSTILE if text.strip())
SMALL = (("math", "Zwei und zwei: vier – é"), ("math", "数学"), ("plain", "😀 hi"), ("plain", "NA"))


def as_csv(rows, header=("condition", "prompt"), delimiter=","):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def as_jsonl(rows, ascii_only=False):
    lines = (json.dumps({"condition": c, "prompt": p}, ensure_ascii=ascii_only) for c, p in rows)
    return "".join(line + "\n" for line in lines)


def written(folder, name, text, encoding="utf-8", newline="\n"):
    path = folder / name
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


def test_there_are_enough_hostile_texts():
    assert len(HOSTILE) == len(set(HOSTILE)) >= 50


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_prompt_comes_through_csv_tsv_and_jsonl(folder, text):
    rows = [("a", text), ("a", "other"), ("b", "third"), ("b", "fourth")]
    files = {
        "x.csv": as_csv(rows),
        "x.tsv": as_csv(rows, delimiter="\t"),
        "x.jsonl": as_jsonl(rows),
        "y.jsonl": as_jsonl(rows, ascii_only=True),
    }
    sets = [read_prompts(written(folder, name, content)) for name, content in files.items()]
    assert {s.texts for s in sets} == {(text, "other", "third", "fourth")}
    assert len({s.fingerprint for s in sets}) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_files_read_the_same(folder, kind, encoding, newline):
    rows = [*SMALL, ("plain", "one\ntwo")]
    text = {"csv": as_csv(rows), "tsv": as_csv(rows, delimiter="\t"), "jsonl": as_jsonl(rows)}[kind]
    read = read_prompts(written(folder, f"x.{kind}", text, encoding, newline))
    plain = read_prompts(written(folder, "plain.jsonl", as_jsonl(rows)))
    assert read.texts == tuple(p for _, p in rows)
    assert read.fingerprint == plain.fingerprint


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_big_endian_utf_16_reads_the_same(folder, newline):
    content = ("\ufeff" + as_csv(SMALL).replace("\n", newline)).encode("utf-16-be")
    (folder / "x.csv").write_bytes(content)
    assert read_prompts("x.csv").texts == tuple(p for _, p in SMALL)


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(("encoding", "byte"), [("cp1252", "0x92"), ("latin-1", "0xe9")])
def test_other_bytes_are_refused_with_line_and_byte(folder, encoding, byte, newline):
    text = {"0x92": "don’t", "0xe9": "café"}[byte]
    rows = [("a", "fine"), ("a", text), ("b", "fine too"), ("b", f"again {text}")]
    said = problems(written(folder, "x.csv", as_csv(rows), encoding, newline))
    assert [line.split(":")[1] for line in said] == ["3", "5"]
    assert f"byte {byte} (" in said[0]
    assert "in cp1252) after" in said[0]
    assert "save the file as UTF-8 (iconv -f cp1252 -t utf-8 old > new)" in said[0]


def test_utf_16_without_a_mark_is_refused(folder):
    written(folder, "x.csv", as_csv([("a", "x"), ("b", "y")]), "utf-16-le")
    assert problems("x.csv") == [
        "x.csv:1: holds a NUL byte; save the file as UTF-8 (iconv -f utf-16-le -t utf-8 old > "
        'new), or say encoding = "utf-16-le" (--encoding utf-16-le)'
    ]


def test_damaged_utf_16_is_refused(folder):
    (folder / "x.csv").write_bytes(as_csv(SMALL).encode("utf-16")[:-1])
    assert problems("x.csv")[0].startswith("x.csv:5: byte 0x0a is not UTF-16; save")


def test_a_stated_encoding_is_used(folder):
    rows = [("a", "café"), ("a", "don’t"), ("b", "x"), ("b", "y")]
    written(folder, "x.csv", as_csv(rows), "cp1252")
    assert read_prompts("x.csv", encoding="cp1252").texts[:2] == ("café", "don’t")
    assert problems("x.csv", encoding="klingon") == [
        "no encoding 'klingon'; such as utf-8, utf-16, cp1252"
    ]


def test_one_text_file_a_condition(folder):
    written(folder, "non-math.txt", "A cat.\n[INST] x\u2028y [/INST]\n\n", newline="\r\n")
    written(folder, "math.txt", "\ufeff1 + 1\n数学")
    from_files = read_prompts(["math.txt", "non-math.txt"])
    assert from_files.counts == {"math": 2, "non-math": 2}
    assert from_files.texts == ("1 + 1", "数学", "A cat.", "[INST] x\u2028y [/INST]")
    assert from_files.where(3) == "non-math.txt:2"
    from_folder = read_prompts(folder)
    assert from_folder.fingerprint == from_files.fingerprint
    assert (from_folder.name, from_files.name) == (folder.name, "math_non-math")


def test_json_numbers_keep_their_digits(folder):
    written(
        folder,
        "x.jsonl",
        '{"condition": 1, "prompt": "a", "length": 1.10, "ok": true, "none": null}\n'
        '{"condition": 1, "prompt": "b", "length": 2}\n'
        '{"condition": "2", "prompt": "c"}\n\n{"prompt": "d", "condition": "2"}',
    )
    read = read_prompts("x.jsonl")
    assert read.conditions == ("1", "2")
    assert list(read.table["length"]) == ["1.10", "2", "", ""]
    assert list(read.table["ok"]) == ["true", "", "", ""]


def test_lines_are_where_a_record_starts(folder):
    written(folder, "x.csv", as_csv([("a", "one\ntwo\nthree"), ("a", "x"), ("b", "y"), ("b", "z")]))
    read = read_prompts("x.csv")
    assert list(read.line) == [2, 5, 6, 7]
    assert read.select("b").where(1) == "x.csv:7"


def test_every_problem_is_told_at_once(folder):
    written(
        folder,
        "x.csv",
        "condition,prompt\n"
        "a,One\n"
        "a\n"
        "a,two, and three\n"
        'b,"Quoted\nover lines"\n'
        "b,   \n"
        ",No condition\n"
        "a,One\n"
        "b,One\n"
        "c,Alone\n"
        " b,Spaced\n"
        ' b,"""Spaced"" twice"\n'
        'b,"open\n',
    )
    assert problems("x.csv") == [
        "x.csv:3: 1 fields where the header has 2",
        "x.csv:4: 3 fields where the header has 2; put a prompt with a comma in it in double "
        "quotes",
        "x.csv:7: the prompt is empty",
        "x.csv:8: the condition is missing",
        "x.csv:9: the same prompt as line 2, in the same condition 'a'",
        "x.csv:10: the same prompt as line 2, there 'a' and here 'b'",
        "x.csv:11: condition 'c' has only this prompt; it needs two or more",
        "x.csv:12: condition ' b' has white space around it; delete it",
        "x.csv:13: condition ' b' has white space around it; delete it",
        "x.csv:14: a double quote that opens in this record is never closed",
    ]


def test_quotes_in_the_middle_are_explained(folder):
    written(
        folder, "x.csv", 'condition,prompt\na,"Yes", she said\na,x\na,z\nb,"No" way\nb,y\nb,w\n'
    )
    said = problems("x.csv")
    assert said[0].startswith("x.csv:2: 3 fields where the header has 2")
    assert said[1].startswith("x.csv:5: text follows a closing double quote; put the whole field")


def test_broken_json_lines_are_named(folder):
    lines = [
        '{"condition": "a", "prompt": "x"}',
        '{"condition": "a", "prompt": ',
        '["a", "x"]',
        '{"condition": "a", "promt": "x"}',
        '{"condition": "a", "prompt": 3}',
        '{"condition": ["a"], "prompt": "x"}',
        '{"condition": "a", "prompt": "x", "prompt": "y"}',
        '{"condition": "a", "prompt": "\\ud83d"}',
        '{"condition": null, "prompt": "y"}',
        "[" * 100_000,
    ]
    written(folder, "x.jsonl", "\n".join(lines))
    first, *said = [line.removeprefix("x.jsonl:") for line in problems("x.jsonl")]
    assert first.endswith("only one condition, 'a'; a contrast needs two or more")
    assert said[0] == "1: condition 'a' has only this prompt; it needs two or more"
    assert said[1].startswith("2: is not JSON: Expecting value at column")
    assert said[2].startswith("3: is not an object; write one a line")
    assert said[3] == (
        "4: no key 'prompt' (for 'promt', did you mean 'prompt'?); keys: 'condition', 'promt'"
    )
    assert said[4] == "5: the prompt is not a string; put it in double quotes"
    assert said[5] == "6: 'condition' is a list; a row holds texts and numbers only"
    assert said[6] == "7: the key 'prompt' is there twice; keep one"
    assert said[7].startswith("8: holds half of a surrogate pair")
    assert said[8] == "9: the condition is missing"
    assert said[9].startswith("10: ")
    assert len(said) == 10


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "condition,promt",
            "no column 'prompt'; columns: 'condition', 'promt' "
            "(for 'promt', did you mean 'prompt'?)",
        ),
        ("Condition,prompt", "no column 'condition'; columns: 'Condition', 'prompt' (for"),
        ("text,label", "no column 'prompt'; columns: 'text', 'label'"),
        ("condition;prompt", "the columns are separated by ';', but the file's name promises ','"),
        ("condition\tprompt", "save it with ',' or as .tsv"),
        (",condition,prompt", "column 1 has no name; name or delete it (pandas writes one"),
        ("condition,prompt,x,x", "column 'x' is there 2 times; keep one"),
    ],
)
def test_a_wrong_header_is_explained(folder, header, said):
    written(folder, "x.csv", f"\n{header}\na,b\n")
    told = "\n".join(problems("x.csv"))
    assert told.startswith("x.csv:2: ")
    assert said in told


def test_files_that_are_not_there_or_not_prompts_are_named(folder):
    written(folder, "prompts.csv", as_csv(SMALL))
    written(folder, "notes.md", "x")
    (folder / "empty").mkdir()
    (folder / "empty.csv").write_bytes(b"")
    (folder / "header.csv").write_bytes(b"condition,prompt\n")
    paths = [
        "promts.csv",
        "nowhere/x.csv",
        "notes.md",
        "empty",
        "empty.csv",
        "header.csv",
        "a\0.csv",
    ]
    assert sorted(problems(paths)) == sorted(
        [
            "promts.csv: no such file (did you mean 'prompts.csv'?)",
            "nowhere/x.csv: no such file: there is no folder 'nowhere'",
            "notes.md: unknown kind of file '.md'; known: .csv, .tsv, .jsonl, .txt, .xlsx, "
            ".parquet",
            "empty: this folder holds no .txt file (one for each condition), nor folders of them "
            "(one for each condition, a file for each prompt)",
            "empty.csv: is empty; the first line names the columns condition and prompt",
            "header.csv: holds no prompts",
            "a\\x00.csv: no such file (did you mean 'header.csv'?)",
        ]
    )
    assert problems(["prompts.csv", folder / "prompts.csv"]) == [
        "prompts.csv: is given twice; give every file once"
    ]
    with pytest.raises(PromptError, match="no prompt file given"):
        read_prompts([])
    assert problems("x" * 5000 + ".csv")[0].endswith(".csv: no such file")


def test_one_condition_is_not_enough(folder):
    written(folder, "math.txt", "1 + 1\n2 + 2\n")
    assert problems("math.txt") == [
        "math.txt: only one condition, 'math'; a contrast needs two or more; "
        "give one .txt file for each"
    ]


def test_an_empty_line_inside_a_text_file_is_named(folder):
    written(folder, "a.txt", "x\n\n \ny\n\n\n")
    written(folder, "b.txt", "u\nx\nw")
    assert problems(["a.txt", "b.txt"]) == [
        "a.txt:2: the prompt is empty; delete the line",
        "a.txt:3: the prompt is empty; delete the line",
        "b.txt:2: the same prompt as line 1 of a.txt, there 'a' and here 'b'",
    ]


def test_only_the_first_of_hundreds_of_problems_are_shown(folder):
    written(folder, "x.csv", as_csv([("a", "same")] * 501))
    said = problems("x.csv")
    assert len(said) == 21
    assert said[-1] == "... and 481 more (501 problems in all)"


def test_items_and_groups_are_on_every_row_or_on_none(folder):
    rows = [("a", "w", "1", ""), ("a", "x", "", ""), ("b", "y", "1", ""), ("b", "z", "2", "")]
    header = ("condition", "prompt", "item", "group")
    written(folder, "x.csv", as_csv(rows, header))
    assert problems("x.csv") == [
        "x.csv:3: no item, but other rows have one; fill it in on every row"
    ]
    rows[1] = ("a", "x", "2", "")
    read = read_prompts(written(folder, "x.csv", as_csv(rows, header)))
    assert list(read.table.columns) == ["condition", "prompt", "item"]


def test_a_condition_needs_a_name_that_a_contrast_can_quote(folder):
    written(folder, "x.jsonl", as_jsonl([("a", "w"), ("a", "x"), ('b"', "y"), ("c\n", "z")]))
    said = problems("x.jsonl")
    assert "x.jsonl:3: condition 'b\"' holds a double quote or control character" in said
    assert any(line.startswith("x.jsonl:4: condition 'c\\n' has white space") for line in said)


@pytest.fixture
def design():
    rows = {
        "condition": ["a", "b", "a", "c", "b", "c"],
        "prompt": ["one two", "one two three", "x", "xx", "xxx yy", "q"],
        "item": ["1", "1", "2", "2", "2", "1"],
        "topic": ["t", "u", "t", "u", "t", "u"],
    }
    return PromptSet("design", pd.DataFrame(rows, dtype=object))


def test_a_prompt_set_knows_its_conditions_and_rows(design):
    assert (len(design), design.conditions) == (6, ("a", "b", "c"))
    assert design.counts == {"a": 2, "b": 2, "c": 2}
    assert design.covariates == ("topic",)
    assert design.rows_of("b").tolist() == [1, 4]
    assert design.rows_of(("c", "a")).tolist() == [0, 2, 3, 5]
    assert design.select(["a", "c"]).texts == ("one two", "x", "xx", "q")
    assert design.where(3) == "design row 3"
    with pytest.raises(ContrastError, match=r"no condition 'B' in 'design'; .*did you mean 'b'"):
        design.rows_of("B")


def test_blocks_are_groups_else_items_else_none(design):
    assert design.blocks.tolist() == ["1", "1", "2", "2", "2", "1"]
    grouped = PromptSet("g", design.table.assign(group=list("uvwxyz")))
    assert grouped.blocks.tolist() == list("uvwxyz")
    assert PromptSet("n", design.table.drop(columns="item")).blocks is None


def test_pairs_follow_the_items(design):
    first, second = design.pairs("a", "c")
    assert (first.tolist(), second.tolist()) == ([0, 2], [5, 3])
    with pytest.raises(PromptError) as caught:
        design.pairs(("a", "b"), "c")
    assert "item '1' is on this side of the contrast more than once" in str(caught.value)
    lonely = PromptSet("x", design.table.assign(item=list("112222")))
    with pytest.raises(PromptError, match="item '1' is on one side of the contrast only"):
        lonely.pairs("a", "c")
    with pytest.raises(PromptError, match="has no item column"):
        PromptSet("x", design.table.drop(columns="item")).pairs("a", "b")


def test_a_fingerprint_changes_with_anything_that_was_shown(design):
    table = design.table
    others = [
        table.assign(prompt=["One two", *table["prompt"][1:]]),
        table.assign(condition=["b", "b", "b", "c", "a", "c"]),
        table.assign(item=list("111222")),
        table.assign(topic=list("tttttt")),
        table.assign(group=list("tttttt")),
        table.iloc[::-1],
        table.iloc[:4],
    ]
    prints = {PromptSet("design", t).fingerprint for t in [table, *others]}
    assert len(prints) == 8
    assert PromptSet("design", table[table.columns[::-1]]) == design


def test_a_fingerprint_is_the_hash_of_the_canonical_rows():
    # Spelled out here because a change would orphan every stored capture.
    rows = {"prompt": ["数学", "NA"], "condition": ["a", "b"], "item": ["1", "1"], "z": ["", "2"]}
    canonical = (
        '{"condition":"a","item":"1","prompt":"数学"}\n'
        '{"condition":"b","item":"1","prompt":"NA","z":"2"}\n'
    )
    prompts = PromptSet("any", pd.DataFrame(rows, dtype=object))
    assert prompts.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_json_lines_bring_back_the_same_prompts(folder, design):
    prompts = ["a\r\nb", "c\rd", "NA", "x", "y", "line\u2028sep"]
    awkward = PromptSet("x", design.table.assign(prompt=prompts))
    again = read_prompts(written(folder, "x.jsonl", awkward.to_jsonl()))
    assert again.texts == awkward.texts
    assert again.fingerprint == awkward.fingerprint


def test_a_prompt_longer_than_the_csv_modules_limit_is_read(folder):
    limit = csv.field_size_limit()
    written(folder, "x.csv", as_csv([("a", "x" * 500_000), ("a", "y"), ("b", "z"), ("b", "w")]))
    assert len(read_prompts("x.csv").texts[0]) == 500_000
    assert csv.field_size_limit() == limit


def test_a_hundred_thousand_rows_are_read(folder):
    rows = [("ab"[i % 2], f"Prompt number {i}") for i in range(100_000)]
    written(folder, "x.csv", as_csv(rows))
    assert read_prompts("x.csv").counts == {"a": 50_000, "b": 50_000}


def test_balance_agrees_with_the_equation(design):
    lengths = np.array([2.0, 3.0, 1.0, 1.0, 2.0, 1.0])
    table = balance(design, "a", "b", {"n_tokens": lengths}).set_index("covariate")
    assert list(table.index) == ["words", "characters", "n_tokens"]
    # means 1.5 and 2.5, both variances 0.5: smd = -1 / sqrt(0.5)
    assert table.loc["n_tokens", "smd"] == pytest.approx(-1 / 0.5**0.5)
    assert table.loc["words", "mean_first"] == 1.5
    assert table["flagged"].tolist() == [True, True, True]


def test_balanced_sides_are_not_flagged_and_swapping_them_changes_the_sign(design):
    values = np.random.default_rng(0).normal(size=6)
    forth = balance(design, "a", ("b", "c"), {"x": values, "same": np.ones(6)})
    back = balance(design, ("b", "c"), "a", {"x": values, "same": np.ones(6)})
    assert forth["smd"].to_numpy() == pytest.approx(-back["smd"].to_numpy())
    assert not forth["flagged"].iloc[-1]
    assert forth["smd"].iloc[-1] == 0
    constant = np.array([1.0, 0, 1, 0, 0, 0])
    assert balance(design, "a", "b", {"x": constant})["smd"].iloc[-1] == np.inf


def test_balance_refuses_numbers_that_do_not_fit(design):
    with pytest.raises(ValueError, match=r"shape \(3,\); expected one number for each of the 6"):
        balance(design, "a", "b", {"x": np.ones(3)})
    with pytest.raises(ValueError, match="holds NaN or inf"):
        balance(design, "a", "b", {"x": np.array([1, 2, 3, 4, 5, np.nan])})


def test_prompts_load_nothing_heavy():
    code = (
        "import sys, activation_analysis.experiment\n"
        "heavy = ('torch', 'transformers', 'mlflow', 'scipy', 'matplotlib', 'statsmodels')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
