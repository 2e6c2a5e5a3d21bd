"""The same rows are the same prompts in every format, or the file is refused with what to do."""

import csv
import datetime
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workbench import ROOT, problems

from activation_analysis.command_parser import command_parser
from activation_analysis.options import READING, Settings
from activation_analysis.prompt_files import READERS
from activation_analysis.prompts import read_prompts

ROWS = (
    {"condition": "calm", "prompt": "Die See – é\nruht", "item": "1", "length": "3"},
    {"condition": "calm", "prompt": "数学 😀", "item": "2", "length": "12"},
    {"condition": "angry", "prompt": "NA", "item": "1", "length": "7"},
    {"condition": "angry", "prompt": "  =1+1, or #N/A", "item": "2", "length": ""},
)
WIDE = (
    {"Formal": "Dear Sir", "casual": "Hey", "group": "g1", "length": "3"},
    {"Formal": "Good evening", "casual": "Hi, you", "group": "g2", "length": ""},
)
UNFOLDED = (
    {"condition": "Formal", "prompt": "Dear Sir", "item": "1", "group": "g1", "length": "3"},
    {"condition": "casual", "prompt": "Hey", "item": "1", "group": "g1", "length": "3"},
    {"condition": "Formal", "prompt": "Good evening", "item": "2", "group": "g2"},
    {"condition": "casual", "prompt": "Hi, you", "item": "2", "group": "g2"},
)


def save_csv(path, rows, delimiter=",", encoding="utf-8", newline="\n"):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(out.getvalue().replace("\n", newline).encode(encoding))
    return path


def save_tsv(path, rows):
    return save_csv(path, rows, "\t")


def save_jsonl(path, rows, encoding="utf-8"):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


def save_xlsx(path, rows, *, sheet=None):
    """Numbers as numbers, as Excel would have them, beside texts."""
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([int(v) if v.isdecimal() else v or None for v in row.values()])
    for column in book.active.iter_cols():
        for cell in column:
            if isinstance(cell.value, str):
                cell.data_type = "s"  # a text that begins with = is no formula here
    for place, value in (sheet or {}).items():
        book.active[place] = value
    book.save(path)
    return path


def frame(rows):
    table = pd.DataFrame(rows)
    return table.assign(length=pd.to_numeric(table["length"]).astype("Int64"))


def save_parquet(path, rows):
    frame(rows).to_parquet(path)
    return path


def save_dataset(path, rows):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_pandas(frame(rows), preserve_index=False).save_to_disk(path)
    return path


SAVED = {
    "x.csv": save_csv,
    "x.tsv": save_tsv,
    "x.jsonl": save_jsonl,
    "x.xlsx": save_xlsx,
    "x.parquet": save_parquet,
    "folder": save_dataset,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The fingerprints of ROWS and of WIDE unfolded, as JSON lines in the plain form have them."""
    place = tmp_path_factory.mktemp("plain")
    return {
        name: read_prompts(save_jsonl(place / f"{name}.jsonl", rows)).fingerprint
        for name, rows in (("rows", ROWS), ("wide", UNFOLDED))
    }


def test_every_table_format_is_tested_here():
    tables = {name[1:] for name in SAVED if "." in name}
    assert tables == {kind for kind in READERS if kind.startswith(".")} - {".txt"}


@pytest.mark.parametrize("name", SAVED)
def test_the_same_rows_have_the_same_fingerprint_in_every_format(folder, expected, name):
    read = read_prompts(SAVED[name](folder / name, ROWS))
    assert read.texts == tuple(row["prompt"] for row in ROWS)
    assert read.fingerprint == expected["rows"]


@pytest.mark.parametrize("name", SAVED)
def test_wide_rows_become_a_prompt_for_every_condition(folder, expected, name):
    read = read_prompts(SAVED[name](folder / name, WIDE), wide=["Formal", "casual"])
    assert read.fingerprint == expected["wide"]
    assert [list(rows) for rows in read.pairs("Formal", "casual")] == [[0, 2], [1, 3]]
    header = 0 if name in ("x.jsonl", "x.parquet", "folder") else 1
    assert list(read.line) == [header + 1] * 2 + [header + 2] * 2


@pytest.mark.parametrize("name", SAVED)
def test_columns_give_other_peoples_columns_our_names(folder, expected, name):
    theirs = {"prompt": "my text", "condition": "label", "item": "id"}
    rows = [{theirs.get(key, key): value for key, value in row.items()} for row in ROWS]
    saved = SAVED[name](folder / name, rows)
    assert read_prompts(saved, columns=theirs).fingerprint == expected["rows"]
    said = problems(saved, columns={**theirs, "item": "idd"})
    assert any("no column 'idd', which columns calls 'item'; columns: 'label'" in s for s in said)
    assert any(s.endswith("(did you mean 'id'?)") for s in said)


@pytest.mark.parametrize("name", SAVED)
def test_columns_come_before_wide(folder, expected, name):
    rows = [{"Formal style": row["Formal"], **row} for row in WIDE]
    for row in rows:
        del row["Formal"]
    saved = SAVED[name](folder / name, rows)
    read = read_prompts(saved, columns={"Formal": "Formal style"}, wide=["Formal", "casual"])
    assert read.fingerprint == expected["wide"]


@pytest.mark.parametrize("name", SAVED)
def test_an_unknown_wide_column_is_told_with_the_nearest(folder, name):
    said = problems(SAVED[name](folder / name, WIDE), wide=["formel", "casual"])
    assert "'formel'" in said[0]
    assert "(did you mean 'Formal'?)" in said[0]
    assert "'Formal', 'casual', 'group', 'length'" in said[0]


@pytest.mark.parametrize("name", SAVED)
def test_an_empty_cell_of_a_wide_row_is_told_with_line_and_column(folder, name):
    rows = [*WIDE, {**WIDE[0], "Formal": "x", "casual": ""}, {**WIDE[1], "Formal": " "}]
    rows[3]["casual"] = "y"
    header = 0 if name in ("x.jsonl", "x.parquet", "folder") else 1
    said = problems(SAVED[name](folder / name, rows), wide=["Formal", "casual"])
    assert (
        f"{name}:{header + 3}: column 'casual' is empty; a row has a prompt for each of "
        in (said[0])
    )
    assert any(f"{name}:{header + 4}: column 'Formal' is empty" in line for line in said)


@pytest.mark.parametrize("name", SAVED)
def test_a_table_without_our_columns_says_how_to_name_its_own(folder, name):
    said = "\n".join(problems(SAVED[name](folder / name, WIDE)))
    assert "'prompt'" in said
    assert 'wide = ["Formal", "casual", "length"] (--wide Formal,casual,length)' in said
    assert 'columns = ["prompt=Formal", "condition=casual"]' in said


def test_items_of_a_wide_file_are_its_own_where_it_has_them(folder):
    rows = [{"item": f"i{n}", **row} for n, row in enumerate(WIDE)]
    read = read_prompts(save_csv(folder / "x.csv", rows), wide=["Formal", "casual"])
    assert list(read.table["item"]) == ["i0", "i0", "i1", "i1"]
    rows[0]["item"] = ""
    said = problems(save_csv(folder / "x.csv", rows), wide=["Formal", "casual"])
    assert said[0] == "x.csv:2: column 'item' is empty; fill it in, or delete the column"


def test_rows_of_several_wide_files_are_different_items(folder):
    more = [{**row, "Formal": row["Formal"] + "!", "casual": row["casual"] + "!"} for row in WIDE]
    save_csv(folder / "a.csv", WIDE)
    save_jsonl(folder / "b.jsonl", more)
    read = read_prompts(["a.csv", "b.jsonl"], wide=["Formal", "casual"])
    assert list(read.table["item"]) == ["1", "1", "2", "2", "3", "3", "4", "4"]
    save_jsonl(folder / "b.jsonl", [{"item": "1", **row} for row in more])
    said = problems(["a.csv", "b.jsonl"], wide=["Formal", "casual"])
    assert said[0].startswith("b.jsonl:1: item is a column of some rows only")


def test_what_is_of_one_prompt_cannot_stand_in_a_wide_row(folder):
    rows = [{"condition": "x", **row} for row in WIDE]
    for name in ("x.csv", "x.jsonl"):
        saved = SAVED[name](folder / name, rows)
        said = problems(saved, wide=["Formal", "casual"])
        assert "column 'condition' is of one prompt, but with wide a row holds 2" in said[0]
        renamed = {"old_condition": "condition"}
        assert read_prompts(saved, columns=renamed, wide=["Formal", "casual"]).covariates == (
            *("old_condition", "length"),
        )


def test_two_columns_never_become_one(folder):
    for name in ("x.csv", "x.jsonl"):
        said = problems(SAVED[name](folder / name, ROWS), columns={"prompt": "length"})
        assert any("columns calls 'length' 'prompt', but there is a column 'prompt'" in s
                   for s in said)  # fmt: skip


def test_text_files_have_no_columns(folder):
    (folder / "a.txt").write_text("x\ny\n")
    (folder / "b.txt").write_text("u\nv\n")
    said = problems(["a.txt", "b.txt"], wide=["a", "b"])
    assert said[0].startswith("a.txt: a text file has no columns, so that wide and columns say")
    assert len(said) == 2


# Folders.


def write_texts(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_bytes(text.encode())


def test_folders_are_conditions_and_their_files_are_prompts(folder):
    write_texts(
        folder / "moods",
        calm__1="\ufeffThe sea\r\nis still.\r\n",
        calm__2="A lake\n\n",
        angry__1="A storm",
        angry__b="  Thunder – é\u2028\n",
    )
    (folder / "moods" / ".hidden").mkdir()
    read = read_prompts("moods")
    assert read.texts == ("A storm", "  Thunder – é\u2028", "The sea\nis still.", "A lake\n")
    assert list(read.table["condition"]) == ["angry", "angry", "calm", "calm"]
    assert (read.name, read.where(2)) == ("moods", "moods/calm/1.txt:1")
    again = read_prompts(save_jsonl(folder / "x.jsonl", read.table.to_dict("records")))
    assert again.fingerprint == read.fingerprint


def test_a_folder_of_both_kinds_is_refused(folder):
    write_texts(folder / "both", calm__1="x", calm__2="y", angry="z\nu")
    assert problems("both") == [
        "both: holds .txt files (each a condition, one prompt a line) and folders of .txt files "
        "(each folder a condition, each file a prompt); keep one kind"
    ]


def test_condition_folders_that_are_empty_or_too_deep_are_refused(folder):
    write_texts(folder / "moods", calm__1="x", calm__2="y", angry__deep__1="z", sad__1=" \n")
    assert problems("moods") == [
        "moods/angry/deep: lies too deep; a folder is a condition, a .txt file in it a prompt",
        "moods/angry: holds no .txt file, but folders beside it do; a folder is a condition, each "
        ".txt file in it a prompt",
        "moods/sad/1.txt:1: the prompt is empty",
        "moods/sad/1.txt:1: condition 'sad' has only this prompt; it needs two or more",
    ]


# Encodings and line ends.


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "don’t – é"),
        ("shift_jis", "数学"),
        ("utf-16-le", "数学 – é"),
        ("utf-16-be", "😀"),
        ("UTF8", "😀"),
    ],
)
def test_a_stated_encoding_is_read_in_every_text_format(folder, encoding, text):
    rows = [{"condition": c, "prompt": f"{text} {c}{n}"} for c in "ab" for n in range(2)]
    save_csv(folder / "x.csv", rows, encoding=encoding, newline="\r\n")
    save_csv(folder / "x.tsv", rows, "\t", encoding=encoding)
    save_jsonl(folder / "x.jsonl", rows, encoding=encoding)
    for condition, n in ((c, n) for c in "ab" for n in range(2)):
        prompt = f"{text} {condition}{n}\r\n".encode(encoding)
        (folder / "lines").mkdir(exist_ok=True)
        with (folder / "lines" / f"{condition}.txt").open("ab") as file:
            file.write(prompt)
        (folder / "whole" / condition).mkdir(parents=True, exist_ok=True)
        (folder / "whole" / condition / f"{n}.txt").write_bytes(prompt)
    for path in ("x.csv", "x.tsv", "x.jsonl", "lines", "whole"):
        read = read_prompts(path, encoding=encoding)
        assert read.texts == tuple(row["prompt"] for row in rows), path
        if encoding != "UTF8":
            assert problems(path)[0].endswith(")")  # refused, with the options there are


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_refused_with_what_to_say(folder, encoding):
    save_csv(folder / "x.csv", ROWS, encoding=encoding)
    assert problems("x.csv") == [
        "x.csv:1: holds a NUL byte; save the file as UTF-8 "
        f"(iconv -f {encoding} -t utf-8 old > new), or say encoding = "
        f'"{encoding}" (--encoding {encoding})'
    ]


def test_a_mark_and_a_format_of_its_own_go_before_a_stated_encoding(folder, expected):
    save_csv(folder / "x.csv", ROWS, encoding="utf-8-sig")
    save_csv(folder / "y.csv", ROWS, encoding="utf-16")
    save_xlsx(folder / "x.xlsx", ROWS)
    for name in ("x.csv", "y.csv", "x.xlsx"):
        assert read_prompts(name, encoding="cp1252").fingerprint == expected["rows"]


def test_utf_16_read_as_cp1252_is_refused_not_garbled(folder):
    save_csv(folder / "x.csv", [{"condition": "a", "prompt": "x"}] * 4, encoding="utf-16-le")
    (said,) = problems("x.csv", encoding="cp1252")
    assert said.startswith(
        "x.csv:1: holds a NUL character in CP1252; save the file as UTF-8 (iconv"
    )
    assert 'say encoding = "utf-16-le"' in said


def test_a_single_nul_byte_is_told_with_its_line(folder):
    (folder / "x.csv").write_bytes(b"condition,prompt\na,x\na,y\0\nb,z\nb,u\n")
    assert problems("x.csv") == ["x.csv:3: holds a NUL byte; delete it"]
    assert problems("x.csv", encoding="cp1252") == [
        "x.csv:3: holds a NUL character in CP1252; delete it"
    ]


def test_bytes_that_a_stated_encoding_lacks_are_told(folder):
    (folder / "x.csv").write_bytes(b"condition,prompt\na,x\na,\x81\nb,z\nb,u\n")
    assert problems("x.csv", encoding="CP1252") == [
        "x.csv:3: byte 0x81 is not CP1252; save the file anew, as UTF-8"
    ]


@pytest.mark.parametrize("encoding", ["klingon", "hex", "a\0", "undefined"])
def test_what_is_no_encoding_is_refused(folder, encoding):
    save_csv(folder / "x.csv", ROWS)
    said = problems("x.csv", encoding=encoding)
    assert said == [f"no encoding {encoding!r}; such as utf-8, utf-16, cp1252"]


def test_line_ends_of_old_macs_are_read_in_tables_and_refused_in_lines(folder):
    rows = [{"condition": c, "prompt": f"{c}{n}"} for c in "ab" for n in range(2)]
    read = read_prompts(save_csv(folder / "x.csv", rows, newline="\r"))
    assert (read.texts, list(read.line)) == (("a0", "a1", "b0", "b1"), [2, 3, 4, 5])
    (folder / "y.csv").write_bytes(b"condition,prompt\ra,x\ra,caf\xe9\rb,z\rb,u\r")
    assert problems("y.csv")[0].startswith("y.csv:3: byte 0xe9 ('é' in cp1252)")
    (folder / "x.jsonl").write_bytes(
        save_jsonl(folder / "n", rows).read_bytes().replace(b"\n", b"\r")
    )
    write_texts(folder, a="x\ry\rz\n", b="u\nv\n", c__1="x\ny\rz", c__2="u", d__1="v", d__2="w")
    said = [problems(path)[0] for path in ("x.jsonl", ["a.txt", "b.txt"])]
    (folder / "a.txt").unlink()
    (folder / "b.txt").unlink()
    said.append(problems(folder)[0])
    ending = (
        "holds a carriage return that ends no line (line ends of old Macs?); save the file with LF "
        "or CRLF line ends"
    )
    assert said == [f"x.jsonl:1: {ending}", f"a.txt:1: {ending}", f"c/1.txt:2: {ending}"]


# Excel.


def test_cells_are_text_as_excel_shows_them(folder):
    rows = [{"condition": c, "prompt": p} for c, p in zip("aabb", "wxyz", strict=True)]
    header = {"C1": "value", "D1": "when"}
    cells = {"C2": 3.0, "C3": 0.1, "C4": True, "C5": 10**20, "D2": datetime.date(2024, 1, 31)}
    cells |= {"D3": datetime.datetime(2024, 1, 31, 12, 30), "D4": datetime.time(8, 5)}
    cells |= {"A7": "b", "B7": " last ", "Z3": None}
    read = read_prompts(save_xlsx(folder / "x.xlsx", rows, sheet=header | cells))
    assert list(read.table["value"]) == ["3", "0.1", "true", "1" + "0" * 20, ""]
    assert list(read.table["when"]) == ["2024-01-31", "2024-01-31T12:30:00", "08:05:00", "", ""]
    assert (read.texts[-1], read.where(4)) == (" last ", "x.xlsx:7")


def test_cells_that_hold_no_value_are_refused_by_their_names(folder):
    rows = [{"condition": c, "prompt": p} for c, p in zip("aabb", "wxyz", strict=True)]
    cells = {"B3": "=A2&A3", "A5": "#N/A", "E4": "beyond", "A6": "b", "B6": "u"}
    said = problems(save_xlsx(folder / "x.xlsx", rows, sheet=cells))
    assert said[:3] == [
        "x.xlsx:2: condition 'a' has only this prompt; it needs two or more",
        "x.xlsx:3: cell B3 is a formula without a stored value; open the file in Excel and save "
        "it, or put the value in its place",
        "x.xlsx:4: cell E4 is filled, but its column has no name in the header",
    ]
    assert said[3] == "x.xlsx:5: cell A5 is the error #N/A; correct it or empty the cell"


def test_a_formula_is_read_by_its_stored_value(folder):
    rows = [{"condition": c, "prompt": p} for c, p in zip("aabb", "wxyz", strict=True)]
    save_xlsx(folder / "new.xlsx", rows, sheet={"B3": '="computed"'})
    with zipfile.ZipFile("new.xlsx") as new, zipfile.ZipFile("x.xlsx", "w") as stored:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("sheet1.xml"):
                bare = b'<c r="B3"><f>"computed"</f><v></v></c>'
                assert bare in content.replace(b"<v />", b"<v></v>")
                content = content.replace(b"<v />", b"<v></v>").replace(
                    bare, b'<c r="B3" t="str"><f>"computed"</f><v>computed text</v></c>'
                )
            stored.writestr(name, content)
    assert read_prompts("x.xlsx").texts == ("w", "computed text", "y", "z")


def test_characters_that_a_workbook_can_only_spell_are_read_as_excel_shows_them(folder):
    rows = [{"condition": c, "prompt": p} for c, p in zip("aabb", "wxyz", strict=True)]
    cells = {"B2": "one_x000D_\ntwo", "B3": "_x005F_x000D_ and my_x1", "B4": "_xD83D__xDE00_"}
    read = read_prompts(save_xlsx(folder / "x.xlsx", rows, sheet=cells))
    assert read.texts == ("one\ntwo", "_x000D_ and my_x1", "😀", "z")
    said = problems(save_xlsx(folder / "x.xlsx", rows, sheet={"B2": "_xD83D_"}))
    assert said[0] == "x.xlsx:2: cell B2 holds half of a surrogate pair, which is no character"


def test_only_the_first_sheet_is_read_and_its_header_is_checked(folder):
    book = openpyxl.Workbook()
    book.create_sheet("notes").append(["condition", "prompt"])
    book.save("x.xlsx")
    assert problems("x.xlsx") == [
        "x.xlsx: the first sheet is empty; its first row names the columns condition and prompt"
    ]
    book.active.append(["condition", None, "promt"])
    book.active.append(["a", "b", "c"])
    book.save("x.xlsx")
    said = problems("x.xlsx")
    assert said[0].startswith(
        "x.xlsx:1: no column 'prompt'; columns: 'condition', '', 'promt' (for"
    )
    assert said[1].startswith("x.xlsx:1: column 2 has no name")


def test_what_is_no_workbook_or_an_old_one_says_what_to_do(folder):
    (folder / "x.xlsx").write_bytes(b"\xd0\xcf\x11\xe0 an old or a locked one")
    (said,) = problems("x.xlsx")
    assert said.startswith("x.xlsx: is no .xlsx workbook that can be read, or has a password: ")
    with zipfile.ZipFile("y.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<broken")
    assert problems("y.xlsx")[0].startswith("y.xlsx: is no .xlsx workbook that can be read")
    (folder / "x.xls").write_bytes(b"")
    assert problems("x.xls") == [
        "x.xls: cannot be read as .xls; save it as .xlsx (in Excel or LibreOffice: Save as), or as "
        ".csv"
    ]


@pytest.mark.parametrize(
    ("library", "extra", "name"), [("openpyxl", "excel", "x.xlsx"), ("datasets", "datasets", "d")]
)
def test_a_missing_package_is_one_message_with_the_command(
    folder, monkeypatch, library, extra, name
):
    save = save_xlsx if name == "x.xlsx" else save_dataset
    save(folder / name, ROWS)
    monkeypatch.setitem(sys.modules, library, None)
    (said,) = problems(name)
    assert f"need the package {library}: pip install 'activation_analysis[{extra}]'" in said


# Parquet and datasets.


def test_arrow_columns_become_the_text_that_a_csv_file_would_have(folder):
    table = pa.table(
        {
            "condition": pa.array(list("aabb")).dictionary_encode(),
            "prompt": pa.array(list("wxyz"), pa.large_string()),
            "small": pa.array([0.1, 2.0, None, 1e-7], pa.float32()),
            "wide_number": pa.array([2**62, 1, None, -3]),
            "right": pa.array([True, False, None, True]),
            "when": pa.array([datetime.date(2024, 1, 31)] * 4),
        }
    )
    pq.write_table(table, "x.parquet", row_group_size=3)
    read = read_prompts("x.parquet")
    assert list(read.table["small"]) == ["0.1", "2.0", "", "1e-07"]
    assert list(read.table["wide_number"]) == [str(2**62), "1", "", "-3"]
    assert list(read.table["right"]) == ["true", "false", "", "true"]
    assert set(read.table["when"]) == {"2024-01-31"}
    assert list(read.line) == [1, 2, 3, 4]


def test_an_index_that_pandas_stored_without_a_name_is_no_column(folder, expected):
    frame(ROWS).set_index(pd.Index([5, 3, 8, 1])).to_parquet("x.parquet")
    assert read_prompts("x.parquet").fingerprint == expected["rows"]


def test_columns_that_cannot_be_text_are_refused(folder):
    table = pa.table({"condition": ["a"], "prompt": [1], "ids": [[1, 2]], "raw": [b"x"]})
    pq.write_table(table, "x.parquet")
    assert problems("x.parquet") == [
        "x.parquet: column 'prompt' holds int64, but prompts are text",
        "x.parquet: column 'ids' holds list<element: int64>; a row holds texts, numbers and dates "
        "only, so delete the column",
        "x.parquet: column 'raw' holds binary; a row holds texts, numbers and dates only, so "
        "delete the column",
    ]
    (folder / "y.parquet").write_bytes(b"PAR1 no")
    assert problems("y.parquet")[0].startswith("y.parquet: is no Parquet file that can be read: ")


def test_a_damaged_parquet_file_is_one_message(folder):
    rows = [{"condition": "ab"[i % 2], "prompt": f"Prompt {i}"} for i in range(5000)]
    pd.DataFrame(rows).to_parquet("x.parquet")
    content = bytearray((folder / "x.parquet").read_bytes())
    content[2000:9000] = b"\xff" * 7000
    (folder / "x.parquet").write_bytes(content)
    (said,) = problems("x.parquet")
    assert said.startswith("x.parquet")
    assert "None" not in said


def test_text_in_an_arrow_column_that_is_not_utf_8_is_refused(folder):
    raw = pa.array([b"w", b"x", b"\xe9", b"z"]).view(pa.string())
    pq.write_table(pa.table({"condition": list("aabb"), "prompt": raw}), "x.parquet")
    (said,) = problems("x.parquet")
    assert said.startswith("x.parquet:1: a row from this one on cannot be read: 'utf-8' codec")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    return library


def labelled(datasets, n=4):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"text": [f"Text {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
    return datasets.Dataset.from_dict(rows, features=features)


NAMES = {"prompt": "text", "condition": "label"}


def test_labels_of_a_dataset_become_their_names(folder, datasets):
    rows = labelled(datasets)
    rows.select([3, 2, 1, 0]).save_to_disk("saved")
    read = read_prompts("saved", columns=NAMES)
    assert read.texts == ("Text 3", "Text 2", "Text 1", "Text 0")
    assert list(read.table["condition"]) == ["pos", "neg", "pos", "neg"]
    assert read.where(1) == "saved:2"
    unknown = datasets.Dataset.from_dict({"text": ["x"], "label": [-1]}, features=rows.features)
    unknown.save_to_disk("unknown")
    assert problems("unknown", columns=NAMES)[0] == "unknown:1: the condition is missing"


def test_a_split_is_chosen_never_guessed(folder, datasets):
    splits = datasets.DatasetDict(train=labelled(datasets), test=labelled(datasets, 6))
    splits.save_to_disk("saved")
    for path in ("hf:./saved:test", "saved/test"):
        assert len(read_prompts(path, columns=NAMES)) == 6
    assert problems("saved", columns=NAMES) == [
        "saved: cannot be loaded: has several splits: 'train', 'test'; choose one, as in "
        "saved/train"
    ]
    (said,) = problems("hf:./saved:tset", columns=NAMES)
    assert "has no split 'tset': 'train', 'test'; choose one, as in hf:./saved:train" in said
    datasets.DatasetDict(only=labelled(datasets)).save_to_disk("one")
    assert len(read_prompts("one", columns=NAMES)) == 4


def test_a_folder_that_load_dataset_understands_is_a_dataset(folder, datasets, capfd):
    (folder / "mine").mkdir()
    save_parquet(folder / "mine" / "train.parquet", ROWS)
    save_parquet(folder / "mine" / "test.parquet", ROWS)
    read = read_prompts("hf:./mine:train")
    assert read.fingerprint == read_prompts("mine/train.parquet").fingerprint
    (said,) = problems("hf:./mine")
    assert "has several splits: 'train', 'test'; choose one, as in hf:./mine:train" in said
    (folder / "mine" / "test.parquet").unlink()
    assert read_prompts("hf:./mine").fingerprint == read.fingerprint
    assert len(read_prompts("hf:./mine:train[:4]")) == 4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:./nowhere:train", "no such folder"),
        ("hf:", "write it as hf:owner/name:split"),
        ("hf:a/b/c/d", "write it as hf:owner/name:split"),
        ("hf:./x.csv", "is a file; give it as x.csv"),
        ("hf:owner/name", "there is a folder 'owner/name' here; write hf:./owner/name for it"),
    ],
)
def test_a_dataset_that_is_not_there_is_one_message(folder, datasets, name, said):
    save_csv(folder / "x.csv", ROWS)
    (folder / "owner" / "name").mkdir(parents=True)
    (told,) = problems(name)
    assert told.startswith(f"{name}: cannot be loaded: ")
    assert said in told


def test_a_hub_that_cannot_be_reached_is_one_message(folder, datasets):
    code = (
        "from activation_analysis.prompts import read_prompts\n"
        "try:\n    read_prompts('hf:someone/nothing:train')\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": "",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder),
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    (said,) = ran.stdout.strip().split("\n")
    assert said.startswith("PromptError hf:someone/nothing:train: cannot be loaded: ")
    assert said.endswith("within reach? (a private dataset needs: hf auth login)")
    assert "Traceback" not in ran.stderr


# The page that says all this.

PAGE = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^activation-analysis (.+)$", PAGE, re.MULTILINE))
def test_every_command_of_the_page_parses(line):
    command_parser().parse_args(shlex.split(line))


def test_every_format_and_setting_is_on_the_page():
    for name in [*(kind for kind in READERS if kind.startswith(".")), *READING]:
        assert f"`{name}`" in PAGE


def test_the_examples_of_the_page_are_read(folder):
    plain, wide = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
    (folder / "wide.csv").write_text(wide)
    pairs = read_prompts("wide.csv", wide=["formal", "informal"])
    assert pairs.texts[:2] == ("Dear Sir, I write to you", "Hey, quick note")
    (folder / "plain.csv").write_text(plain + "formal,Good evening,2\ninformal,Hi there,2\n")
    assert read_prompts("plain.csv").texts == pairs.texts
    for toml in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        assert Settings({}, **tomllib.loads(toml))
