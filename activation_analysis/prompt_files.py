"""Prompt files: which files a path stands for, and the reader of every kind.

A reader takes ``(path, encoding, layout, report)``, streams ``(line, row)`` and reports what it
cannot read instead of stopping. To add a format, write one and name it in `READERS`.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from activation_analysis.errors import PromptError
from activation_analysis.names import did_you_mean
from activation_analysis.prompt_datasets import (
    HUB,
    is_saved_dataset,
    read_dataset,
    read_parquet,
)
from activation_analysis.prompt_layout import Layout
from activation_analysis.prompt_problems import Problems, Report, Row
from activation_analysis.prompt_tables import LONE_RETURN, read_csv, read_jsonl, read_tsv
from activation_analysis.prompt_workbooks import read_xlsx
from activation_analysis.text_files import encoding_of, missing, save_as_utf8, undecodable

ONE_PROMPT = "a text file that is one prompt"
DATASET = "a Hugging Face dataset"


def read_txt(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """One prompt a line; the file's name is the condition. Blank lines may end the file."""
    blank: list[int] = []
    with path.open(encoding=encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            prompt = line.removesuffix("\n").removesuffix("\r")
            if not prompt.strip():
                blank.append(number)
                continue
            for earlier in blank:
                report(earlier, "the prompt is empty; delete the line")
            blank.clear()
            if "\r" in prompt:
                report(number, LONE_RETURN)
            yield number, {"condition": path.stem, "prompt": prompt}


def read_one_prompt(
    path: Path, encoding: str, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """The whole file is a prompt, less one line end at its end; its folder is the condition."""
    with path.open(encoding=encoding, newline="") as file:
        prompt = file.read().replace("\r\n", "\n").removesuffix("\n")
    if "\r" in prompt:
        report(prompt[: prompt.index("\r")].count("\n") + 1, LONE_RETURN)
    yield 1, {"condition": path.parent.name, "prompt": prompt}


READERS: dict[str, Callable[[Path, str, Layout, Report], Iterator[tuple[int, Row]]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".txt": read_txt,
    ".xlsx": read_xlsx,
    ".parquet": read_parquet,
    ONE_PROMPT: read_one_prompt,
    DATASET: read_dataset,
}
TEXT = (".csv", ".tsv", ".jsonl", ".txt", ONE_PROMPT)  # whose encoding a file does not always say
WITHOUT_COLUMNS = (".txt", ONE_PROMPT)
INSTEAD = {
    ".xls": "save it as .xlsx (in Excel or LibreOffice: Save as), or as .csv",
    ".xlsm": "save it as .xlsx, or as .csv",
    ".ods": "save it as .xlsx, or as .csv",
    ".json": "write one object a line and call it .jsonl",
    ".arrow": "give the folder that Dataset.save_to_disk wrote",
}


@dataclass(frozen=True)
class PromptFile:
    """Where prompts lie, and which of `READERS` reads them."""

    path: Path
    kind: str


def rows_of(
    file: PromptFile, encoding: str | None, layout: Layout, report: Report
) -> Iterator[tuple[int, Row]]:
    """The rows of a file, in the encoding of its byte order mark, else as told, else UTF-8."""
    if file.kind in WITHOUT_COLUMNS and not layout.is_plain:
        report(
            0,
            "a text file has no columns, so that wide and columns say nothing of it; leave "
            "them out, or give tables only",
        )
        return iter(())
    chosen = ""
    if file.kind in TEXT:
        marked = encoding_of(file.path)
        chosen = codecs.lookup(encoding).name if encoding and marked == "utf-8" else marked
        wrong = list(undecodable(file.path, chosen, _or_say))
        for line, message in wrong:
            report(line, message)
        if wrong:
            return iter(())
    rows = READERS[file.kind](file.path, chosen, layout, report)
    return layout.unfolded(rows, report) if layout.wide else rows


def _or_say(likely: str) -> str:
    return f'{save_as_utf8(likely)}, or say encoding = "{likely}" (--encoding {likely})'


def are_prompts(path: Path) -> bool:
    """Whether a path is one of prompts by its looks, readable or not."""
    if not os.path.isdir(path):
        return is_hub(path) or path.suffix.lower() in (*READERS, *INSTEAD)
    try:
        return is_saved_dataset(path) or bool(_texts(path)) or any(map(_texts, _subfolders(path)))
    except OSError:
        return True  # reading it says why it cannot be read


def is_hub(path: str | os.PathLike[str]) -> bool:
    """Whether a path is ``hf:...``, a dataset for the library datasets to find."""
    return os.fspath(path).startswith(HUB)


def placed(path: str, folder: Path) -> Path:
    """A path that is relative to a folder; the name of a dataset on the hub is not."""
    if not is_hub(path):
        return folder / path
    inside = path.removeprefix(HUB)
    if not inside.startswith(("./", "../")):
        return Path(path)
    joined = os.path.normpath(folder / inside)
    return Path(HUB + (joined if os.path.isabs(joined) else os.path.join(".", joined)))


def files_of(paths: Sequence[Path], problems: Problems) -> Iterator[PromptFile]:
    """The files to read, folders opened up."""
    seen: set[str] = set()
    if not paths:
        raise PromptError("no prompt file given; give a .csv, .tsv, .jsonl or .txt file")
    for path in paths:
        try:
            files = list(_opened(path, problems))
        except OSError as error:
            problems.add(Path(error.filename or path), 0, f"cannot be read: {error.strerror}")
            continue
        for file in files:
            wrong = _not_readable(file)
            if not wrong and os.path.realpath(file.path) in seen:
                wrong = "is given twice; give every file once"
            if wrong:
                problems.add(file.path, 0, wrong)
            else:
                seen.add(os.path.realpath(file.path))
                yield file


def _opened(path: Path, problems: Problems) -> Iterator[PromptFile]:
    if is_hub(path) or (os.path.isdir(path) and is_saved_dataset(path)):
        yield PromptFile(path, DATASET)
        return
    if not os.path.isdir(path):
        yield PromptFile(path, path.suffix.lower())
        return
    texts = _texts(path)
    conditions = {folder: _texts(folder) for folder in _subfolders(path)}
    if texts and any(conditions.values()):
        problems.add(
            path,
            0,
            "holds .txt files (each a condition, one prompt a line) and folders "
            "of .txt files (each folder a condition, each file a prompt); keep one kind",
        )
    elif any(conditions.values()):
        yield from _prompts_in(conditions, problems)
    elif texts:
        yield from (PromptFile(file, ".txt") for file in texts)
    else:
        problems.add(
            path,
            0,
            "this folder holds no .txt file (one for each condition), nor "
            "folders of them (one for each condition, a file for each prompt)",
        )


def _prompts_in(conditions: dict[Path, list[Path]], problems: Problems) -> Iterator[PromptFile]:
    for folder, texts in conditions.items():
        deeper = [inner for inner in _subfolders(folder) if _texts(inner)]
        if deeper:
            problems.add(
                deeper[0], 0, "lies too deep; a folder is a condition, a .txt file in it a prompt"
            )
        if not texts:
            problems.add(
                folder,
                0,
                "holds no .txt file, but folders beside it do; a folder is a "
                "condition, each .txt file in it a prompt",
            )
        yield from (PromptFile(file, ONE_PROMPT) for file in texts)


def _texts(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".txt" and not p.is_dir())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _not_readable(file: PromptFile) -> str:
    """What keeps a file from being read; nothing, if nothing does."""
    path, suffix = file.path, file.path.suffix
    if file.kind == DATASET:
        return ""
    if not os.path.isfile(path):
        return missing(path)
    if file.kind in READERS:
        return ""
    if file.kind in INSTEAD:
        return f"cannot be read as {suffix}; {INSTEAD[file.kind]}"
    known = [kind for kind in READERS if kind.startswith(".")]
    close = did_you_mean(file.kind, known)
    return f"unknown kind of file {suffix!r}; known: {', '.join(known)}{close}"
