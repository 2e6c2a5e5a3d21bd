"""Every folder of experiments/ is an experiment that can run as it stands, and passes its check."""

import re
from functools import cache
from pathlib import Path

import pytest

from activation_analysis.checking import checked
from activation_analysis.experiment import list_experiments, read_experiment, safe_name
from activation_analysis.study_designs import asked

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FOLDERS = sorted(p for p in EXPERIMENTS.iterdir() if p.is_dir() and not p.name.startswith("."))
FEWEST_PROMPTS, FEWEST_ITEMS = 60, 40
CATALOGUE = {
    "causality", "concreteness", "counterfactual", "creative", "emotion", "factual", "formality",
    "languages", "logic", "math_vs_nonmath", "science", "syntax", "technical", "tense",
}  # fmt: skip
SURFACE = re.compile(
    r"\*\*Surface baseline\.\*\* A bag-of-words decoder reaches (\d+) % balanced accuracy "
    r"\(chance (\d+) %\)"
)
of_every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@cache
def check_of(folder):
    return checked(read_experiment(folder))


def readme_of(folder):
    return " ".join((folder / "README.md").read_text(encoding="utf-8").split())


def test_the_catalogue_is_whole():
    assert {folder.name for folder in FOLDERS} == CATALOGUE
    assert sorted(list_experiments([EXPERIMENTS]).values()) == FOLDERS


@of_every_folder
def test_a_folder_is_an_experiment(folder):
    experiment = read_experiment(folder)
    assert experiment.name == safe_name(folder.name)
    assert experiment.question.endswith("?")
    assert experiment.contrasts
    assert experiment.univariate is not None
    assert set(experiment.prompts.conditions) == {
        c for contrast in experiment.contrasts for c in contrast.conditions
    }
    assert sorted(p.name for p in folder.iterdir() if p.name[0] not in "._") == [
        "README.md", "experiment.toml", "prompts.csv",
    ]  # fmt: skip


@of_every_folder
def test_it_has_enough_prompts_without_duplicates(folder):
    prompts = read_experiment(folder).prompts
    fewest = FEWEST_ITEMS if "item" in prompts.table else FEWEST_PROMPTS
    assert min(prompts.counts.values()) >= fewest, prompts.counts
    plain = [" ".join(text.lower().split()) for text in prompts.texts]
    assert len(set(plain)) == len(plain)


@of_every_folder
def test_items_are_paired_or_blocked_and_three_conditions_are_compared_in_all_pairs(folder):
    experiment = read_experiment(folder)
    conditions = experiment.prompts.conditions
    if "item" in experiment.prompts.table:
        options = experiment.univariate
        assert options.test == "paired" or "item" in options.nuisance
    if len(conditions) > 2:
        contrasts = asked(experiment)
        assert contrasts[0].is_omnibus
        pairs = {frozenset(c.conditions) for c in contrasts if len(c.conditions) == 2}
        assert len(pairs) == len(conditions) * (len(conditions) - 1) // 2


@pytest.mark.real
@of_every_folder
def test_it_passes_its_check(folder):
    found = check_of(folder)
    assert found.passed, "\n".join(f.message for f in found.findings)


@pytest.mark.real
@of_every_folder
def test_its_readme_says_what_words_alone_tell(folder):
    found = check_of(folder)
    baseline = found.contrasts[0].baseline
    accuracy, chance = map(int, SURFACE.search(readme_of(folder)).groups())
    # Another BLAS may move a prompt that lies between two classes.
    assert accuracy == pytest.approx(100 * baseline.accuracy, abs=1.0)
    assert chance == round(100 * baseline.chance)


@of_every_folder
def test_it_says_what_it_is(folder):
    text = readme_of(folder)
    for part in ("Question", f"activation-analysis run {folder.name}", "annot show", "ource"):
        assert part in text, part
    experiment = read_experiment(folder)
    for name in experiment.settings.check.expected:
        assert name.replace("_", " ").replace("type token", "type-token") in text.lower()
