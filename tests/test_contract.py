"""Names of what is tracked, without a store."""

from dataclasses import replace

import pytest
from workbench import synthetic_recording, write_prompts

from activation_analysis import contract, pipeline
from activation_analysis.experiment import Experiment, apply_overrides
from activation_analysis.pipeline import Outcome
from activation_analysis.provenance import Provenance

MADE_BY = Provenance("1.2", "c" * 40, True, "diff", "run", "3.11", "Linux", {"numpy": "2.0"})


@pytest.fixture
def outcome(tmp_path):
    path = write_prompts(tmp_path / "p.csv", {"a": 6, "b": 6})
    experiment = apply_overrides(Experiment.from_prompts(path, "a - b"), ["seed=5"])
    recording = synthetic_recording(experiment)
    return Outcome(experiment, recording, pipeline.analyze(experiment, recording, progress=False))


def test_every_leaf_of_the_experiment_is_a_param_and_the_contracts_names_win(outcome):
    params = contract.params(outcome, MADE_BY, outcome.results[0])
    leaves = outcome.experiment.leaves()
    assert set(leaves) - {"seed"} <= set(params)
    assert "seed" not in params  # a parameter of `mlflow run` has that name
    assert params["analysis.seed"] == "5"
    assert params["model.id"] == "synthetic/noise"  # what ran, not what the file says
    assert params["code.version"] == "1.2"
    assert all(isinstance(value, str) for value in params.values())


def test_no_param_has_a_name_of_an_mlproject_parameter(outcome):
    """MLflow logs those itself, quoted, and a param never changes."""
    params = contract.params(outcome, MADE_BY, outcome.results[0])
    taken = {
        *("experiment", "contrasts", "model", "revision", "device", "dtype", "sites", "layers"),
        *("position", "test", "control", "seed", "run"),
    }
    assert not taken & set(params)


def test_values_are_cut_where_mlflow_would_cut_them_silently(outcome):
    longer = apply_overrides(outcome.experiment, [f"question={'why ' * 5000}?"])
    params = contract.params(replace(outcome, experiment=longer), MADE_BY)
    assert len(params["question"]) == contract.LONGEST_PARAM
    assert params["question"].endswith("…")
    tags = contract.tags(replace(outcome, experiment=longer), MADE_BY, None, "id", "id")
    assert max(map(len, tags.values())) <= contract.LONGEST_TAG


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("prompts.n_math", "prompts.n_math"),
        ("prompts.n_a/b $x", "prompts.n_a/b _x"),
        ("prompts.n_数学", "prompts.n_数学"),
        ("prompts.n_../b", "prompts.n_../b"),
        ("prompts.n_/../b", "prompts.n__.._b"),
        ("prompts.n_a//b", "prompts.n_a__b"),
        ("prompts.n_a/", "prompts.n_a_"),
        ("prompts.n_'\"", "prompts.n___"),
    ],
)
def test_keys_hold_only_what_mlflow_takes(name, key):
    from mlflow.utils.validation import _validate_param

    assert contract._key(name) == key
    _validate_param(key, "1")


def test_no_two_names_become_one_key():
    names = ["n_a$", "n_a#", "n_a_", "x" * 300, "x" * 299]
    keys = contract._keys(names)
    assert len(set(keys)) == len(names)
    assert keys[0] == "n_a_"
    assert max(map(len, keys)) <= contract.LONGEST_KEY
    assert contract._keys(names) == keys


def test_a_run_keeps_its_colour_and_others_have_others():
    colours = [contract._colour(f"{i:032x}") for i in range(20)]
    assert len(set(colours)) == 20
    assert colours[3] == contract._colour(f"{3:032x}")
    assert all(len(c) == 7 and c.startswith("#") for c in colours)


def test_tags_say_what_scripts_select_by(outcome):
    tags = contract.tags(outcome, MADE_BY, outcome.results[0], "id", "holder")
    assert tags["aa.capture_run"] == "holder"
    assert tags["git.dirty"] == "true"
    assert tags["mlflow.note.content"].startswith("a - b: ")
    assert "aa.contrast" not in contract.tags(outcome, MADE_BY, None, "id", "id")
