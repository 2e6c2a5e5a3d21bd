"""An experiment: a question, prompts with conditions, contrasts, and how to answer.

``experiments/<name>/experiment.toml`` says it; unknown keys and bad values are errors with a line
number, and the prompts are read and every contrast checked before any model loads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from activation_analysis import contrasts as contrasts_
from activation_analysis import experiment_file
from activation_analysis.contrasts import Contrast
from activation_analysis.errors import ContrastError, ExperimentError, PromptError
from activation_analysis.experiment_file import SettingsFile, read_settings
from activation_analysis.matched_tests import matched
from activation_analysis.names import did_you_mean, made_safe, safe_name
from activation_analysis.options import (
    AUTO_TEST,
    PAIRED_TESTS,
    READING,
    ModelOptions,
    RecordingOptions,
    Settings,
    UnivariateOptions,
)
from activation_analysis.prompt_files import placed
from activation_analysis.prompts import PathLike, PromptSet, read_prompts
from activation_analysis.spans import with_spans, without_spans
from activation_analysis.text_files import shown

__all__ = [
    "Experiment",
    "ModelOptions",
    "RecordingOptions",
    "Settings",
    "UnivariateOptions",
    "apply_overrides",
    "list_experiments",
    "load_experiment",
    "read_experiment",
    "safe_name",
]

FILE_NAME = "experiment.toml"


@dataclass(frozen=True)
class Experiment:
    """Prompts and contrasts that fit each other, and the settings that they run with."""

    name: str
    settings: Settings
    prompts: PromptSet
    folder: Path = field(default_factory=Path, compare=False)  # prompt files are relative to it
    written: PromptSet | None = field(default=None, compare=False, repr=False)
    """The prompts as their files have them, where `prompts` has marks read out of them."""

    @property
    def question(self) -> str:
        return self.settings.question

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def model(self) -> ModelOptions:
        return self.settings.model

    @property
    def recording(self) -> RecordingOptions:
        return self.settings.recording

    @property
    def univariate(self) -> UnivariateOptions | None:
        """None where the analysis does not run; no test is ``auto`` any more."""
        return self.analysis if self.settings.univariate else None

    @cached_property
    def analysis(self) -> UnivariateOptions:
        """How units are tested, or would be: test ``auto`` is the one that fits the prompts."""
        options = self.settings.univariate or UnivariateOptions()
        if options.test != AUTO_TEST:
            return options
        return matched(options, self.prompts, self.contrasts, streamed=self.recording.stream)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """In the order of the file."""
        return tuple(contrasts_.parse(e, name) for name, e in self.settings.contrasts.items())

    def leaves(self) -> dict[str, str | int | float]:
        """Every setting under its full name, ``univariate.test``: parameters of a tracked run."""
        return experiment_file.leaves(replace(self.settings, univariate=self.univariate))

    def to_toml(self, prompts: str | None = None) -> str:
        """The experiment as it really runs, as a file that reads back equal.

        ``prompts`` is where the copy's prompts lie, relative to the copy; where left out, the
        files are named as they are here. `PromptSet.to_jsonl` has read them already: by our names,
        a row a prompt, in UTF-8.
        """
        settings = self.settings
        if prompts is not None:
            settings = replace(settings, prompts=(prompts,), columns=(), wide=(), encoding="")
        return experiment_file.to_toml(settings)

    def with_contrasts(self, contrasts: str | Sequence[str] | Mapping[str, str]) -> Experiment:
        """The same experiment with other contrasts instead of its own.

        Raises
        ------
        ContrastError
            If one does not parse or does not fit the prompts.
        """
        named = contrasts_.named(contrasts, self.prompts.conditions)
        return _fitting(replace(self, settings=replace(self.settings, contrasts=named)))

    @classmethod
    def from_prompts(
        cls,
        prompt_files: PathLike | Iterable[PathLike],
        contrasts: str | Sequence[str] | Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        question: str = "",
        columns: Mapping[str, str] | None = None,
        wide: Sequence[str] = (),
        encoding: str = "",
        seed: int = 0,
        model: ModelOptions | None = None,
        recording: RecordingOptions | None = None,
        univariate: UnivariateOptions | None = None,
        duplicates: str = "refuse",
    ) -> Experiment:
        """An experiment on one's own prompts, with no folder and no file of settings.

        Parameters
        ----------
        prompt_files : as in `read_prompts`, relative to the working directory
        contrasts : one or more expressions, or name -> expression; where left out, the first of
            two conditions minus the second, or any difference among three to six
        name : the prompt set's where left out
        columns, wide, encoding : as in `read_prompts`
        univariate : options of the analysis; its defaults where left out
        duplicates : "refuse" the same prompt twice, or "keep" it, as in `read_prompts`

        Raises
        ------
        PromptError, ContrastError, ExperimentError
            If the prompts cannot be read, a contrast does not fit them, or the name is unsafe.
        """
        single = isinstance(prompt_files, str | os.PathLike)
        paths = [prompt_files] if single else list(prompt_files)
        prompts = read_prompts(
            paths, columns=columns, wide=wide, encoding=encoding or None, duplicates=duplicates
        )
        settings = Settings(
            contrasts=contrasts_.named(contrasts, prompts.conditions),
            question=question,
            prompts=tuple(os.fspath(path) for path in paths),
            columns=tuple(f"{ours}={theirs}" for ours, theirs in (columns or {}).items()),
            wide=tuple(wide),
            encoding=encoding,
            seed=seed,
            model=model or ModelOptions(),
            recording=recording or RecordingOptions(),
            univariate=univariate or UnivariateOptions(),
        )
        name = made_safe(prompts.name) if name is None else safe_name(name)
        return _fitting(cls(name, settings, prompts, Path.cwd()))


def read_experiment(
    path: PathLike,
    *,
    name: str | None = None,
    reading: Sequence[str] = (),
    duplicates: str = "refuse",
) -> Experiment:
    """Read an experiment file with its prompts, and check that they fit.

    Parameters
    ----------
    path : an experiment.toml, or the folder that holds one
    name : the folder's where left out (the file's own, if it is not called experiment.toml)
    reading : changes, as `apply_overrides` takes them, without which the prompts may not be
        readable: of ``columns``, ``wide`` and ``encoding``
    duplicates : "refuse" the same prompt twice, or "keep" it, as in `read_prompts`

    Raises
    ------
    ExperimentError, PromptError, ContrastError
        If the file, its prompts or a contrast is wrong; each with file and line.
    """
    path = Path(path)
    path = path / FILE_NAME if os.path.isdir(path) else path
    file = read_settings(path)
    file = replace(file, settings=experiment_file.override(file.settings, reading))
    place = Path(os.path.abspath(path))
    own_name = place.parent.name if place.name == FILE_NAME else place.stem
    name = safe_name(own_name if name is None else name)
    prompts = _read_prompts(file.settings, path.parent, duplicates)
    return _fitting(Experiment(name, file.settings, prompts, path.parent), file)


def load_experiment(
    name_or_path: PathLike,
    roots: Sequence[PathLike] = (),
    *,
    reading: Sequence[str] = (),
    duplicates: str = "refuse",
) -> Experiment:
    """The experiment that a name, the beginning of a name, or a path means.

    Parameters
    ----------
    name_or_path : "math_vs_nonmath", "math", or a path to a folder or an experiment.toml
    roots : folders that hold experiments; the first one that has a name wins
    reading : as in `read_experiment`
    duplicates : as in `read_prompts`

    Raises
    ------
    ExperimentError
        If there is none, or a beginning fits several; the message has the nearest names.
    """
    known = list_experiments(roots)
    text = os.fspath(name_or_path)
    if text in known:
        return read_experiment(known[text], reading=reading, duplicates=duplicates)
    if "\0" in text:
        raise ExperimentError(f"{text!r} holds a NUL character and names no experiment")
    if os.path.isfile(text) or os.path.isfile(os.path.join(text, FILE_NAME)):
        return read_experiment(text, reading=reading, duplicates=duplicates)
    if os.path.isdir(text):
        raise ExperimentError(f"{shown(text)}: this folder holds no {FILE_NAME}")
    if os.path.basename(text) != text or isinstance(name_or_path, Path):
        raise ExperimentError(f"{shown(text)}: no such folder or file; {_known_names(known)}")
    starting = [n for n in known if n.startswith(text)] if text else []
    if len(starting) == 1:
        return read_experiment(known[starting[0]], reading=reading, duplicates=duplicates)
    if starting:
        raise ExperimentError(f"{text!r} fits several experiments: {', '.join(starting)}")
    close = did_you_mean(text, known)
    raise ExperimentError(f"no experiment {text!r}; {_known_names(known)}{close}")


def list_experiments(roots: Sequence[PathLike]) -> dict[str, Path]:
    """Every experiment's name and folder, sorted within each root; nothing is read."""
    found: dict[str, Path] = {}
    for root in roots:
        folders = sorted(Path(root).iterdir()) if os.path.isdir(root) else []
        for folder in folders:
            if (folder / FILE_NAME).is_file():
                found.setdefault(folder.name, folder)
    return found


def apply_overrides(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """The experiment with some settings changed, each written ``univariate.test=mannwhitney``.

    A list is written with commas; ``prompts`` is relative to the working directory; an analysis
    that did not run does, once one of its options is set; ``contrasts.name=...`` adds a contrast
    or replaces it.

    Raises
    ------
    ExperimentError, PromptError, ContrastError
        If a change is wrong, or the changed experiment does not fit its prompts.
    """
    settings = experiment_file.override(experiment.settings, changes)
    prompts = experiment.written or experiment.prompts
    before = experiment.settings
    if settings.prompts != before.prompts:
        absolute = tuple(str(placed(path, Path.cwd())) for path in settings.prompts)
        settings = replace(settings, prompts=absolute)
    if any(getattr(settings, key) != getattr(before, key) for key in ("prompts", *READING)):
        prompts = _read_prompts(settings, experiment.folder)
    return _fitting(replace(experiment, settings=settings, prompts=prompts, written=None))


def _read_prompts(settings: Settings, folder: Path, duplicates: str = "refuse") -> PromptSet:
    return read_prompts(
        [placed(path, folder) for path in settings.prompts],
        columns=settings.renames,
        wide=settings.wide,
        encoding=settings.encoding or None,
        duplicates=duplicates,
    )


def _fitting(experiment: Experiment, file: SettingsFile | None = None) -> Experiment:
    """The experiment, its marked stretches read, once contrasts and test fit its prompts."""

    def where(*key: str) -> str:
        return file.where(*key) if file else ".".join(key)

    problems = []
    for contrast in experiment.contrasts:
        try:
            contrasts_.check(contrast, experiment.prompts.conditions)
        except ContrastError as error:
            problems.append(f"{where('contrasts', contrast.name)}: {error}")
    if problems:
        raise ContrastError("\n".join(problems))
    if experiment.univariate and experiment.univariate.test in PAIRED_TESTS:
        for contrast in experiment.contrasts:
            _check_pairs(contrast, experiment.prompts, where("univariate", "test"))
    return _marks_read(experiment)


def _marks_read(experiment: Experiment) -> Experiment:
    """The experiment with its prompts as its position reads them."""
    if experiment.recording.position != "span":
        return replace(experiment, prompts=without_spans(experiment.prompts))
    written = experiment.written or experiment.prompts
    return replace(experiment, prompts=with_spans(experiment.prompts), written=written)


def _check_pairs(contrast: Contrast, prompts: PromptSet, where: str) -> None:
    if contrast.is_omnibus:
        raise ExperimentError(
            f"{where}: a paired test compares two sides, and {contrast.expression!r} has none"
        )
    try:
        prompts.pairs(contrast.first, contrast.second)
    except PromptError as error:
        raise ExperimentError(
            f"{where}: a paired test of {contrast.expression!r}:\n{error}"
        ) from None


def _known_names(known: Mapping[str, Path]) -> str:
    return f"known: {', '.join(known)}" if known else "there are none here"
