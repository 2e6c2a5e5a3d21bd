"""An experiment file and its settings: read strictly, changed by ``--set``, written again."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from activation_analysis import contrasts, options
from activation_analysis.errors import ContrastError, ExperimentError
from activation_analysis.names import did_you_mean, safe_name
from activation_analysis.options import ANALYSES, DEFAULT_ANALYSIS, TABLES, Settings, kinds
from activation_analysis.text_files import encoding_of, missing, shown, undecodable
from activation_analysis.toml_lines import Key, error_line, key_lines, line_of

Complain = Callable[[Key, str], None]
NO_CONTRASTS = 'no [contrasts]; write at least one, as in math = "math - nonmath"'


@dataclass(frozen=True)
class SettingsFile:
    """The settings of one file, and where it says what."""

    settings: Settings
    path: Path
    lines: Mapping[Key, int]

    def where(self, *key: str) -> str:
        """File and line of a key, as messages spell them."""
        return f"{shown(self.path)}:{line_of(dict(self.lines), key)}"


def read_settings(path: Path) -> SettingsFile:
    """Read an experiment file, or say everything that is wrong with it.

    Raises
    ------
    ExperimentError
        All unknown tables and options and bad values at once, each with file and line; or the
        first place that is not TOML.
    """
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = error_line(error, text)
        message = re.sub(r" \(at (line|end).*\)$", "", str(error))
        raise ExperimentError(f"{shown(path)}:{line}: not TOML: {message}") from None
    except RecursionError:
        raise ExperimentError(f"{shown(path)}: not TOML: nested too deeply") from None
    lines = key_lines(text)
    problems: list[tuple[int, str]] = []
    settings = _settings(values, lambda key, said: problems.append((line_of(lines, key), said)))
    if problems:
        listed = sorted(problems, key=lambda problem: problem[0])
        raise ExperimentError("\n".join(f"{shown(path)}:{n}: {said}" for n, said in listed))
    return SettingsFile(settings, path, lines)


def override(settings: Settings, changes: Sequence[str]) -> Settings:
    """Settings with some leaves changed, each written ``table.option=value``.

    Raises
    ------
    ExperimentError
        All bad changes at once, each as ``--set`` was given.
    """
    problems: list[str] = []
    for change in changes:
        try:
            settings = _changed(settings, change)
        except ValueError as error:
            problems.append(f"--set {change}: {error}")
    if problems:
        raise ExperimentError("\n".join(problems))
    return settings


def leaves(settings: Settings) -> dict[str, str | int | float]:
    """Every setting under the name that ``--set`` uses, for the parameters of a tracked run."""
    flat = {k: kind.to_text(getattr(settings, k)) for k, kind in kinds(Settings).items()}
    flat |= {f"contrasts.{name}": text for name, text in settings.contrasts.items()}
    for name, table in _present(settings).items():
        flat |= {f"{name}.{k}": v.to_text(getattr(table, k)) for k, v in kinds(type(table)).items()}
    return flat


def to_toml(settings: Settings) -> str:
    """The settings as an experiment file that reads back equal."""
    lines = [f"{k} = {toml_value(getattr(settings, k))}" for k in kinds(Settings)]
    lines += ["", "[contrasts]"]
    lines += [f"{toml_key(name)} = {toml_value(text)}" for name, text in settings.contrasts.items()]
    for name, table in _present(settings).items():
        lines += ["", f"[{name}]"]
        lines += [f"{k} = {toml_value(getattr(table, k))}" for k in kinds(type(table))]
    return "\n".join(lines) + "\n"


def _read_text(path: Path) -> str:
    if not os.path.isfile(path):
        raise ExperimentError(f"{shown(path)}: {missing(path)}")
    try:
        encoding = encoding_of(path)
        for line, message in undecodable(path, encoding):
            raise ExperimentError(f"{shown(path)}:{line}: {message}")
        with path.open(encoding=encoding, newline="") as file:
            return file.read().replace("\r\n", "\n")
    except OSError as error:
        raise ExperimentError(f"{shown(path)}: cannot be read: {error.strerror}") from None


def _settings(values: dict[str, Any], complain: Complain) -> Settings:
    """Settings from the values of a file; what is wrong goes to ``complain``."""
    top = kinds(Settings)
    known = sorted([*top, *TABLES, "contrasts"])
    for key in values:
        if key not in known:
            complain((key,), _unknown_at_top(key, known))
    found = _options(Settings, "", {k: v for k, v in values.items() if k in top}, complain)
    found["contrasts"] = _contrasts(values.get("contrasts"), complain)
    for name, table in TABLES.items():
        given = values.get(name)
        if given is None:
            continue
        if isinstance(given, dict):
            found[name] = table(**_options(table, name, given, complain))
        else:
            complain((name,), f"{name} must be a table; write [{name}] and its options below")
    if not any(name in values for name in ANALYSES):
        found[DEFAULT_ANALYSIS] = TABLES[DEFAULT_ANALYSIS]()
    return Settings(**found)


def _options(table: type, name: str, given: dict[str, Any], complain: Complain) -> dict[str, Any]:
    """The options of one table that are right."""
    read = {}
    for key, value in given.items():
        path = (name, key) if name else (key,)
        try:
            read[key] = _option(table, name, key, value)
        except ValueError as error:
            complain(path, str(error))
    return read


def _option(table: type, name: str, key: str, value: object) -> Any:
    label = f"[{name}] " if name else ""
    known = kinds(table)
    if key not in known:
        raise ValueError(
            f"{label}has no option {key!r}; known: {', '.join(sorted(known))}"
            f"{did_you_mean(key, known)}"
        )
    try:
        return known[key].read(value)
    except ValueError as error:
        raise ValueError(f"{label}{key} {error}") from None


def _contrasts(given: object, complain: Complain) -> dict[str, str]:
    if given is None or given == {}:
        complain(("contrasts",), NO_CONTRASTS)
        return {}
    if not isinstance(given, dict):
        complain(("contrasts",), "contrasts must be a table; write [contrasts] and names below")
        return {}
    right = {}
    for name, expression in given.items():
        try:
            right[name] = _contrast(name, expression)
        except ValueError as error:
            complain(("contrasts", name), f"[contrasts] {error}")
    return right


def _contrast(name: str, expression: object) -> str:
    safe_name(name, "contrast", ContrastError)
    if not isinstance(expression, str):
        raise ValueError(f'{name} must be a text such as "math - nonmath", not {expression!r}')
    contrasts.parse(expression, name)
    return expression


def _unknown_at_top(key: str, known: Sequence[str]) -> str:
    message = f"no table or option {key!r}; known: {', '.join(known)}"
    home = next((name for name, table in TABLES.items() if key in kinds(table)), None)
    return message + (f" ({key!r} belongs below [{home}])" if home else did_you_mean(key, known))


def _changed(settings: Settings, change: str) -> Settings:
    key, equals, text = change.partition("=")
    key, text = key.strip(), text.strip()
    if not equals:
        raise ValueError("write it as table.option=value, as in univariate.test=mannwhitney")
    name, dot, inner = key.partition(".")
    if name == "contrasts" and dot:
        return replace(settings, contrasts={**settings.contrasts, inner: _contrast(inner, text)})
    if name in TABLES and dot:
        table = getattr(settings, name) or TABLES[name]()
        value = _option(type(table), name, inner, _from_text(type(table), inner, text))
        return replace(settings, **{name: replace(table, **{inner: value})})
    if key in kinds(Settings):
        return replace(
            settings, **{key: _option(Settings, "", key, _from_text(Settings, key, text))}
        )
    known = [*options.leaf_names(), *(f"contrasts.{c}" for c in settings.contrasts)]
    full = next((leaf for leaf in known if leaf.endswith(f".{key}")), None)
    hint = f" (did you mean {full!r}?)" if full else did_you_mean(key, known)
    raise ValueError(f"no option {key!r}; known: {', '.join(known)}{hint}")


def _from_text(table: type, key: str, text: str) -> object:
    known = kinds(table)
    return known[key].from_text(text) if key in known else text


def _present(settings: Settings) -> dict[str, Any]:
    return {n: getattr(settings, n) for n in TABLES if getattr(settings, n) is not None}


def toml_value(value: object) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)


def toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)
