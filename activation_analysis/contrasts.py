"""A contrast is a weighted comparison of conditions, written as in neuroimaging.

    a - b          a against b                      weights  1, -1
    a + b - c      the mean of a and b against c    weights .5, .5, -1
    a - b - c      a against the mean of b and c    weights  1, -.5, -.5
    a | b | c      do any of them differ?           omnibus, no direction

White space separates the operators, so that a condition may be called ``non-math``; a condition
with a space in its name goes in double quotes: ``"dry wit" - plain``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from activation_analysis.errors import ContrastError
from activation_analysis.names import did_you_mean, made_safe, safe_name

MOST_COMPARED = 6  # conditions that are compared without being asked
OPERATORS = ("+", "-", "|")
_WORD = re.compile(r'\s*(?:"(?P<quoted>[^"]*)"(?=\s|$)|(?P<bare>\S+))')


@dataclass(frozen=True)
class Contrast:
    """A weight for every condition that takes part; positive ones are the first side."""

    name: str
    expression: str
    weights: Mapping[str, float] = field(hash=False)

    @property
    def first(self) -> tuple[str, ...]:
        """The positive conditions; every condition of an omnibus contrast."""
        return tuple(c for c, weight in self.weights.items() if weight > 0)

    @property
    def second(self) -> tuple[str, ...]:
        """The negative conditions; none in an omnibus contrast."""
        return tuple(c for c, weight in self.weights.items() if weight < 0)

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def is_omnibus(self) -> bool:
        """Whether it asks for any difference at all, without a direction."""
        return not self.second

    def __str__(self) -> str:
        return self.expression


def parse(expression: str, name: str | None = None) -> Contrast:
    """The contrast that an expression means.

    Parameters
    ----------
    expression : as in the module's docstring, ``"math - nonmath"``
    name : short name for files and charts; made from the conditions where left out

    Raises
    ------
    ContrastError
        If the expression does not parse, or names a condition twice.
    """
    words = [_operator_or_name(word, expression) for word in _WORD.finditer(expression)]
    operators, conditions = _alternate(words, expression)
    if "|" in operators:
        weights = _omnibus_weights(operators, conditions, expression)
    else:
        weights = _two_sided_weights(operators, conditions, expression)
    contrast = Contrast(name or "", expression, weights)
    return contrast if name else Contrast(_made_name(contrast), expression, weights)


def check(contrast: Contrast, conditions: Sequence[str]) -> None:
    """Refuse a contrast that the conditions at hand cannot answer.

    Raises
    ------
    ContrastError
        If it names an unknown condition; the message has the nearest and all known ones.
    """
    unknown = [c for c in contrast.conditions if c not in conditions]
    if unknown:
        wrong = ", ".join(f"{c!r}{did_you_mean(c, conditions)}" for c in unknown)
        raise ContrastError(
            f"contrast {contrast.expression!r}: no condition {wrong}; "
            f"the prompts have {_listed(conditions)}"
        )


def named(
    expressions: str | Sequence[str] | Mapping[str, str] | None, conditions: Sequence[str]
) -> dict[str, str]:
    """Name -> expression of one or more contrasts; names are made where not given.

    None is the first of two conditions minus the second, or any difference among three to six.

    Raises
    ------
    ContrastError
        If an expression does not parse, a name is unsafe or made twice, or None is given and
        there are more conditions.
    """
    if expressions is None:
        expressions = _only_contrast(conditions)
    if isinstance(expressions, str):
        expressions = [expressions]
    if isinstance(expressions, Mapping):
        pairs = [(safe_name(n, "contrast", ContrastError), e) for n, e in expressions.items()]
    else:
        pairs = [(parse(expression).name, expression) for expression in expressions]
    for name, expression in pairs:
        parse(expression, name)
    if not pairs:
        raise ContrastError("no contrast given; write one, as in 'math - nonmath'")
    if len(dict(pairs)) < len(pairs):
        raise ContrastError("two contrasts would have the same name; give each its own")
    return dict(pairs)


def quoted(condition: str) -> str:
    """A condition as an expression spells it: in double quotes where it needs them."""
    plain = _WORD.fullmatch(condition)
    bare = plain is not None and plain["bare"] == condition and not condition.startswith('"')
    return condition if bare and condition not in OPERATORS else f'"{condition}"'


def _only_contrast(conditions: Sequence[str]) -> str:
    if not 2 <= len(conditions) <= MOST_COMPARED:
        raise ContrastError(
            f"the prompts have {len(conditions)} conditions, {_listed(conditions)}; "
            f"say which to compare, as in 'a - b'"
        )
    return (" - " if len(conditions) == 2 else " | ").join(map(quoted, conditions))


def _operator_or_name(word: re.Match[str], expression: str) -> tuple[str, str]:
    if word["quoted"] is not None:
        return "name", word["quoted"]
    bare = word["bare"]
    if bare in OPERATORS:
        return "operator", bare
    if bare.startswith('"'):
        raise ContrastError(
            f"contrast {expression!r}: the double quote before {bare[1:]!r} has no partner; "
            f'quote a whole condition and leave white space after it, as in "dry wit" - plain'
        )
    return "name", bare


def _alternate(words: list[tuple[str, str]], expression: str) -> tuple[list[str], list[str]]:
    """Operators and conditions of an expression, in which they must take turns."""
    for position, (kind, word) in enumerate(words):
        expected = "operator" if position % 2 else "name"
        if kind != expected:
            raise ContrastError(f"contrast {expression!r}: {_out_of_turn(position, words, word)}")
    operators = [word for kind, word in words if kind == "operator"]
    conditions = [word for kind, word in words if kind == "name"]
    if len(conditions) < 2 or len(operators) == len(conditions):
        raise ContrastError(f"contrast {expression!r}: {_too_short(operators, conditions)}")
    twice = sorted({c for c in conditions if conditions.count(c) > 1})
    if twice:
        raise ContrastError(
            f"contrast {expression!r}: condition {twice[0]!r} is named twice; "
            f"each condition belongs to one side, once"
        )
    return operators, conditions


def _out_of_turn(position: int, words: list[tuple[str, str]], word: str) -> str:
    if position % 2:
        return (
            f"expected one of {' '.join(OPERATORS)} between {words[position - 1][1]!r} and "
            f"{word!r}; a condition with a space in its name goes in double quotes"
        )
    where = "at the start" if position == 0 else f"after {words[position - 1][1]!r}"
    return f"expected a condition {where}, not {word!r}"


def _too_short(operators: list[str], conditions: list[str]) -> str:
    if operators:
        return f"expected a condition after {operators[-1]!r}"
    if not conditions:
        return "is empty; name two conditions, as in 'math - nonmath'"
    hint = "name two, as in 'math - nonmath'"
    if any(operator in conditions[0] for operator in OPERATORS):
        hint = "operators need white space on both sides, as in 'math - nonmath'"
    return f"compares nothing: {conditions[0]!r} is one condition; {hint}"


def _omnibus_weights(
    operators: list[str], conditions: list[str], expression: str
) -> dict[str, float]:
    if set(operators) != {"|"}:
        raise ContrastError(
            f"contrast {expression!r}: '|' asks whether any condition differs and cannot be "
            f"mixed with '+' or '-'"
        )
    return dict.fromkeys(conditions, 1.0)


def _two_sided_weights(
    operators: list[str], conditions: list[str], expression: str
) -> dict[str, float]:
    if "-" not in operators:
        raise ContrastError(
            f"contrast {expression!r}: nothing is subtracted; write 'a + b - c' for a direction "
            f"or 'a | b' for any difference"
        )
    n_first = operators.index("-") + 1
    if "+" in operators[n_first:]:
        raise ContrastError(
            f"contrast {expression!r}: '+' after '-' can be read two ways; write 'a + c - b' to "
            f"add c to the first side, or 'a - b - c' to subtract it too"
        )
    n_second = len(conditions) - n_first
    weights = [1 / n_first] * n_first + [-1 / n_second] * n_second
    return dict(zip(conditions, weights, strict=True))


def _made_name(contrast: Contrast) -> str:
    if contrast.is_omnibus:
        return made_safe("_or_".join(contrast.first))
    return made_safe(f"{'_and_'.join(contrast.first)}_vs_{'_and_'.join(contrast.second)}")


def _listed(conditions: Iterable[str]) -> str:
    return ", ".join(repr(c) for c in conditions)
