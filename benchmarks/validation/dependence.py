"""Prompts that are not independent, and conditions that differ in a nuisance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.univariate import design_maps
from activation_analysis.statistics.hypothesis_tests import glm_t, student_t
from activation_analysis.statistics.permutation import max_t, unit_permutation
from benchmarks.validation.false_positives import DISTRIBUTIONS
from benchmarks.validation.families import recording_of
from benchmarks.validation.rates import Rate, table

ALPHA = 0.05
SDS = {"t3": np.sqrt(3), "lognormal": np.sqrt(np.expm1(1) * np.e)}
ICCS = (0.0, 0.1, 0.3, 0.5)


def templated(
    rng: np.random.Generator,
    n_units: int,
    icc: float,
    *,
    n_templates: int = 10,
    n_fillings: int = 10,
    crossed: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of two conditions, condition after condition, and the template of each.

    Nested: every condition has templates of its own. Crossed: both have the same ones, and
    what a template adds is the same in both.
    """
    templates = np.repeat(np.arange(n_templates), n_fillings)
    blocks = np.concatenate([templates, templates + (0 if crossed else n_templates)])
    shared = rng.standard_normal((2 * n_templates, n_units))[blocks]
    own = rng.standard_normal((len(blocks), n_units))
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * own, blocks


@dataclass(frozen=True)
class Templates:
    """False-positive rates of null units of templated prompts."""

    icc: float
    crossed: bool
    naive: Rate  # Student, prompts as independent
    means: Rate | None  # Student and Welch of template means, as `group` gives
    welch_means: Rate | None
    permuted: Rate  # permutation p of every unit, whole blocks or within blocks


def templates(n_units: int, icc: float, *, crossed: bool = False, seed: int = 0) -> Templates:
    """Ten templates of ten fillings a condition; one simulation per unit."""
    rng = np.random.default_rng([seed, int(icc * 100), crossed])
    values, blocks = templated(rng, n_units - n_units % 2, icc, crossed=crossed)
    rows = tuple(np.split(np.arange(len(values)), 2))
    recording = recording_of(values)

    def rate(design: Design) -> Rate:
        return Rate.of(design_maps(recording, design)["mlp"].p_value <= ALPHA)

    averaged = [
        None if crossed else rate(Design(rows, test, blocks=blocks, means=True))
        for test in ("student", "welch")
    ]
    permuted = []
    for units in np.array_split(np.arange(values.shape[1]), 20):
        samples = [values[r][:, units] for r in rows]
        found = unit_permutation(samples, n_permutations=499, groups=blocks, rng=rng)
        permuted.append(found.p_value <= ALPHA)
    naive = rate(Design(rows, "student"))
    return Templates(icc, crossed, naive, *averaged, Rate.of(np.concatenate(permuted)))


@dataclass(frozen=True)
class TemplateFamilies:
    """Family-wise error of max-T where prompts are templated."""

    icc: float
    crossed: bool
    naive: Rate  # prompts shuffled freely
    blocks: Rate  # as `group` says


def template_families(
    n_families: int, icc: float, *, crossed: bool = False, n_units: int = 50, seed: int = 0
) -> TemplateFamilies:
    rng = np.random.default_rng([seed, int(icc * 100), crossed, 1])
    naive, grouped = np.empty((2, n_families), dtype=bool)
    for i in range(n_families):
        values, blocks = templated(rng, n_units, icc, crossed=crossed)
        a, b = np.split(values, 2)
        for found, groups in ((naive, None), (grouped, blocks)):
            p = max_t(a, b, n_permutations=199, groups=groups, rng=rng, n_threads=1).p_value
            found[i] = p.min() <= ALPHA
    return TemplateFamilies(icc, crossed, Rate.of(naive), Rate.of(grouped))


@dataclass(frozen=True)
class Confounded:
    """A nuisance that differs between conditions and that the activations follow."""

    n: int
    errors: str
    naive: Rate
    adjusted: Rate  # ANCOVA: glm_t
    freedman_lane: Rate  # permutation p of the same t


def confounded(
    n_units: int,
    *,
    n: int = 50,
    gap: float = 0.6,
    correlation: float = 0.4,
    errors: str = "normal",
    seed: int = 0,
) -> Confounded:
    """Token count, say, differs by ``gap`` SDs; activations correlate with it, not with condition.

    Units come in 40 sets with a nuisance, and relabellings, of their own.
    """
    rng = np.random.default_rng([seed, n, *map(ord, errors)])
    naive, adjusted, permuted = [], [], []
    for _ in range(40):
        z = rng.standard_normal(2 * n)
        z[:n] += gap
        noise = DISTRIBUTIONS[errors](rng, (2 * n, -(-n_units // 40)))
        noise /= SDS.get(errors, 1.0)
        y = correlation * z[:, None] + np.sqrt(1 - correlation**2) * noise
        a, b = y[:n], y[n:]
        naive.append(student_t(a, b).p_value <= ALPHA)
        adjusted.append(glm_t(a, b, z[:, None]).p_value <= ALPHA)
        found = unit_permutation([a, b], n_permutations=499, nuisance=z[:, None], rng=rng)
        permuted.append(found.p_value <= ALPHA)
    return Confounded(n, errors, *(Rate.of(np.array(x)) for x in (naive, adjusted, permuted)))


CONFOUNDED = tuple((n, errors) for n in (10, 50) for errors in ("normal", "t3", "lognormal"))


def templates_section(n_simulations: int) -> tuple[str, list[Templates]]:
    every = [templates(n_simulations, icc) for icc in ICCS]
    every.append(templates(n_simulations, 0.5, crossed=True))
    rows = [
        [
            t.icc,
            "crossed" if t.crossed else "nested",
            t.naive,
            t.means or "",
            t.welch_means or "",
            t.permuted,
        ]
        for t in every
    ]
    head = ["ICC", "templates", "Student, prompts", "Student, template means"]
    parts = [table([*head, "Welch, template means", "permutation by `group`"], rows)]
    families = [
        template_families(max(n_simulations // 5, 50), icc, crossed=crossed)
        for icc, crossed in ((0.0, False), (0.5, False), (0.5, True))
    ]
    rows = [[f.icc, "crossed" if f.crossed else "nested", f.naive, f.blocks] for f in families]
    parts += ["Family-wise error of max-T over 50 units:"]
    parts += [table(["ICC", "templates", "prompts shuffled freely", "by `group`"], rows)]
    return "\n\n".join(parts), every


def confounded_section(n_simulations: int) -> tuple[str, list[Confounded]]:
    every = [confounded(n_simulations, n=n, errors=errors) for n, errors in CONFOUNDED]
    rows = [[f"{c.n} and {c.n}", c.errors, c.naive, c.adjusted, c.freedman_lane] for c in every]
    head = ["prompts", "errors", "Student, naive", "`glm_t`", "Freedman-Lane"]
    return table(head, rows), every
