"""Every folder of experiments/ is an experiment that can run as it stands."""

from pathlib import Path

import pytest

from activation_analysis.experiment import list_experiments, read_experiment, safe_name

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FOLDERS = sorted(p for p in EXPERIMENTS.iterdir() if p.is_dir() and not p.name.startswith("."))
FEWEST_PROMPTS = 60


def test_there_are_experiments_and_nothing_else():
    assert FOLDERS
    assert sorted(list_experiments([EXPERIMENTS]).values()) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_an_experiment(folder):
    experiment = read_experiment(folder)
    assert experiment.name == safe_name(folder.name)
    assert experiment.question.endswith("?")
    assert experiment.contrasts
    assert experiment.univariate is not None
    assert set(experiment.prompts.conditions) == {
        c for contrast in experiment.contrasts for c in contrast.conditions
    }
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_has_enough_prompts_without_duplicates(folder):
    prompts = read_experiment(folder).prompts
    assert min(prompts.counts.values()) >= FEWEST_PROMPTS, prompts.counts
    plain = [" ".join(text.lower().split()) for text in prompts.texts]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_says_what_it_is(folder):
    assert len((folder / "README.md").read_text(encoding="utf-8")) > 200
