"""What an experiment file may say: every table, option, default and allowed value.

An option is a dataclass field with a default and a kind. A kind reads a value of the file (or the
text of a ``--set``) into what the program uses, or says in a ValueError what is allowed instead.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from activation_analysis.activations import POSITIONS, SITE_ALIASES, SITES
from activation_analysis.errors import ExperimentError
from activation_analysis.names import did_you_mean
from activation_analysis.text_files import is_encoding
from activation_analysis.text_measures import MEASURES, PLACES


class Kind(Protocol):
    """The kind of value that an option takes."""

    def read(self, value: object) -> Any:
        """The value as the program uses it; ValueError says what is allowed."""

    def from_text(self, text: str) -> object:
        """What a text on the command line stands for, still to be read."""

    def to_text(self, value: Any) -> str | int | float:
        """The value as one parameter of a tracked run."""


@dataclass(frozen=True)
class Text:
    """Any text; some must not be empty, some must have a form."""

    may_be_empty: bool = True
    form: str | None = None  # regular expression
    known: str = ""  # what the form means, for the message

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be a text in quotes, not {value!r}")
        if not value.strip() and not self.may_be_empty:
            raise ValueError("is empty")
        if "\0" in value:
            raise ValueError("holds a NUL character")
        if self.form and not re.fullmatch(self.form, value):
            raise ValueError(f"is {value!r}; known: {self.known}")
        return value

    def from_text(self, text: str) -> object:
        return text

    def to_text(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    known: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: object) -> str:
        if isinstance(value, str) and value in (*self.known, *self.aliases):
            return self.aliases.get(value, value)
        close = did_you_mean(value, (*self.known, *self.aliases)) if isinstance(value, str) else ""
        raise ValueError(f"is {value!r}; known: {', '.join(sorted(self.known))}{close}")

    def from_text(self, text: str) -> object:
        return text

    def to_text(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Integer:
    """A whole number, at least so large."""

    at_least: int = 0

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < self.at_least:
            raise ValueError(f"must be a whole number of at least {self.at_least}, not {value!r}")
        return value

    def from_text(self, text: str) -> object:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,100}", text) else text

    def to_text(self, value: int) -> int:
        return value


@dataclass(frozen=True)
class Fraction:
    """A number between 0 and 1, both excluded."""

    def read(self, value: object) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not 0 < value < 1:
            raise ValueError(f"must be a number between 0 and 1, not {value!r}")
        return float(value)

    def from_text(self, text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    def to_text(self, value: float) -> float:
        return value


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return value

    def from_text(self, text: str) -> object:
        return {"true": True, "false": False}.get(text, text)

    def to_text(self, value: bool) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class ListOf:
    """Several values of one kind, each once; ``nothing`` is how an empty list is spelled."""

    kind: Kind
    example: str
    nothing: str | None = None
    or_one: bool = False  # one value without brackets is a list of one

    def read(self, value: object) -> tuple:
        if self.or_one and isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list such as {self.example}, not {value!r}")
        if not value and self.nothing is None:
            raise ValueError(f"is empty; write a list such as {self.example}")
        values = tuple(self.kind.read(v) for v in value)
        twice = [v for v in values if values.count(v) > 1]
        if twice:
            raise ValueError(f"has {twice[0]!r} twice")
        return values

    def from_text(self, text: str) -> object:
        if text.startswith("["):
            try:
                return tomllib.loads(f"list = {text}")["list"]
            except tomllib.TOMLDecodeError:
                return text
        if text in ("", self.nothing):
            return []
        return [self.kind.from_text(part.strip()) for part in text.split(",")]

    def to_text(self, value: tuple) -> str:
        return ",".join(str(self.kind.to_text(v)) for v in value) or (self.nothing or "")


@dataclass(frozen=True)
class Renames(ListOf):
    """Names that the columns of a table have instead of ours, each written ours=theirs."""

    def read(self, value: object) -> tuple[str, ...]:
        renames = super().read(value)
        for side in zip(*(text.split("=", 1) for text in renames), strict=True):
            twice = [name for name in side if side.count(name) > 1]
            if twice:
                raise ValueError(f"has {twice[0]!r} twice; a column has one name")
        return renames


@dataclass(frozen=True)
class Encoding:
    """An encoding of text that Python knows, or none."""

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be a text in quotes, not {value!r}")
        if value and not is_encoding(value):
            raise ValueError(f"is {value!r}; such as utf-8, utf-16, cp1252")
        return value

    def from_text(self, text: str) -> object:
        return text

    def to_text(self, value: str) -> str:
        return value


def option(default: Any, kind: Kind) -> Any:
    """A dataclass field that an experiment file may set."""
    return field(default=default, metadata={"kind": kind})


class _Checked:
    """Options that are right however they are made: by a file, by ``--set`` or in Python."""

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            try:
                value = kind.read(getattr(self, name))
            except ValueError as error:
                raise ExperimentError(f"{type(self).__name__}: {name} {error}") from None
            object.__setattr__(self, name, value)


def kinds(table: type) -> dict[str, Kind]:
    """The options of a table (or of `Settings`, outside of its tables), each with its kind."""
    return {f.name: f.metadata["kind"] for f in fields(table) if "kind" in f.metadata}


_MEMORY = r"|(\d+|cpu|disk)=[\d.]+ ?[KMGT]i?B(, ?(\d+|cpu|disk)=[\d.]+ ?[KMGT]i?B)*"


@dataclass(frozen=True)
class ModelOptions(_Checked):
    """[model]: which language model, and where it runs."""

    id: str = option("smollm2-135m", Text(may_be_empty=False))
    revision: str = option("", Text())
    device: str = option(
        "auto", Text(form=r"auto|cpu|(cuda|mps|xpu)(:\d+)?", known="auto, cpu, cuda, cuda:N, mps")
    )
    dtype: str = option("auto", Choice(("auto", "float32", "bfloat16", "float16")))
    max_memory: str = option(
        "", Text(form=_MEMORY, known="0=20GiB,cpu=60GiB: a limit for GPU 0, 1, ... and for cpu")
    )
    offload_folder: str = option("", Text())

    @property
    def memory_limits(self) -> dict[str, str] | None:
        """``max_memory`` as Accelerate takes it; None where no limit is set."""
        parts = [part.split("=") for part in self.max_memory.split(",") if part]
        return {place.strip(): most.strip() for place, most in parts} or None


@dataclass(frozen=True)
class RecordingOptions(_Checked):
    """[recording]: how prompts are read, and which activations speak for them."""

    sites: tuple[str, ...] = option(
        SITES, ListOf(Choice(SITES, SITE_ALIASES), example='["residual", "mlp"]')
    )
    position: str = option("last", Choice(POSITIONS))
    layers: tuple[int, ...] = option((), ListOf(Integer(), example="[0, 5, 11]", nothing="all"))
    truncate: bool = option(False, Flag())
    batch_tokens: int = option(0, Integer())  # 0: what is fastest and fits into memory
    skip_first: int = option(0, Integer())
    chat: bool = option(False, Flag())
    control_tokens: bool = option(False, Flag())
    layout: str = option("auto", Choice(("auto", "packed", "padded")))
    stream: bool = option(False, Flag())  # keep moments only, no activations
    upload_mb: int = option(1000, Integer())  # a larger capture stays in the store


AUTO_TEST = "auto"  # paired or blocked where the prompts have items, else welch
TESTS = (
    AUTO_TEST,
    "welch",
    "student",
    "mannwhitney",
    "brunnermunzel",
    "paired",
    "wilcoxon",
    "f",
    "kruskal",
    "glm_t",
    "glm_f",
)
PAIRED_TESTS = ("paired", "wilcoxon")
OMNIBUS_TESTS = ("f", "kruskal", "glm_f")  # of any number of conditions
WEIGHTED_TESTS = ("student", "welch", "glm_t")  # of several conditions a side, each by its weight
ADJUSTED_TESTS = ("glm_t", "glm_f")  # that take covariates
TEST_ALIASES = {"ttest": "student", "anova": "f", "F": "f", "glm": "glm_t"}
CONTROLS = ("fdr_bh", "fdr_by", "fdr_tsbky", "bonferroni", "holm", "max_t")


@dataclass(frozen=True)
class UnivariateOptions(_Checked):
    """[univariate]: a test of every unit."""

    test: str = option(AUTO_TEST, Choice(TESTS, TEST_ALIASES))
    control: str = option("fdr_bh", Choice(CONTROLS))
    alpha: float = option(0.05, Fraction())
    top_n: int = option(20, Integer(at_least=1))
    nuisance: tuple[str, ...] = option(  # columns of the prompts, tokens, words or characters
        (), ListOf(Text(may_be_empty=False), example='["tokens", "author"]', nothing="none")
    )
    groups: str = option("auto", Choice(("auto", "ignore")))  # what the column group means
    n_permutations: int = option(1000, Integer(at_least=1))  # of control max_t
    step_down: bool = option(True, Flag())  # of control max_t
    calibration: int = option(100, Integer())  # null relabellings that check the run's own errors


@dataclass(frozen=True)
class CheckOptions(_Checked):
    """[check]: what `activation-analysis check` knows of the prompts beforehand."""

    expected: tuple[str, ...] = option(  # measures that differ since the construct is in them
        (),
        ListOf(Choice((*MEASURES, *PLACES)), example='["punctuation", "capitals"]', nothing="none"),
    )


@dataclass(frozen=True)
class Settings(_Checked):
    """Everything that an experiment file says, defaults filled in."""

    contrasts: Mapping[str, str] = field(hash=False)  # name -> expression
    question: str = option("", Text())
    prompts: tuple[str, ...] = option(
        ("prompts.csv",),
        ListOf(Text(may_be_empty=False), example='["a.txt", "b.txt"]', or_one=True),
    )
    columns: tuple[str, ...] = option(  # what the files call prompt, condition, item, ...
        (),
        Renames(
            Text(form=r"[^=\s]([^=]*[^=\s])?=(?s:.+)", known="our name, = and the file's name"),
            example='["prompt=text", "condition=label"]',
            nothing="none",
        ),
    )
    wide: tuple[str, ...] = option(  # columns that are conditions; a row is an item
        (), ListOf(Text(may_be_empty=False), example='["formal", "informal"]', nothing="none")
    )
    encoding: str = option("", Encoding())  # "": UTF-8, or what a byte order mark says
    seed: int = option(0, Integer())
    model: ModelOptions = ModelOptions()
    recording: RecordingOptions = RecordingOptions()
    univariate: UnivariateOptions | None = None  # None: the analysis does not run
    check: CheckOptions = CheckOptions()

    @property
    def renames(self) -> dict[str, str]:
        """``columns`` as our name -> the file's."""
        return dict(text.split("=", 1) for text in self.columns)


READING = ("columns", "wide", "encoding")  # how prompt files are read
TABLES = {
    "model": ModelOptions,
    "recording": RecordingOptions,
    "univariate": UnivariateOptions,
    "check": CheckOptions,
}
ANALYSES = ("univariate",)  # tables whose presence makes an analysis run
DEFAULT_ANALYSIS = "univariate"  # runs where a file names none


def leaf_names() -> list[str]:
    """Every option with its table, as ``--set`` names it."""
    inside = [f"{name}.{key}" for name, table in TABLES.items() for key in kinds(table)]
    return [*kinds(Settings), *inside]
