"""What users and notebooks rely on: the names, and what they take."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
from workbench import ROOT

import activation_analysis
from activation_analysis import ActivationCapture, ActivationStats, DataStore

PROMISED = {
    ActivationCapture: ["model_path", "device"],
    ActivationCapture.capture_single: ["text", "max_new_tokens"],
    ActivationCapture.capture_batch: ["texts", "layers_to_capture"],
    ActivationStats.compute_contrast: ["group1", "group2", "test"],
    ActivationStats.compute_layer_wise_stats: ["condition1", "condition2"],
    ActivationStats.multiple_comparison_correction: ["p_values", "method", "alpha"],
    ActivationStats.compute_rsa_similarity: ["acts1", "acts2", "metric"],
    ActivationStats.summarize_contrast: ["contrast_results", "top_n"],
    DataStore.save_experiment: ["data", "name"],
    DataStore.load_experiment: ["name"],
}
DEFAULTS = {
    (ActivationCapture, "device"): "auto",
    (ActivationCapture, "dtype"): "auto",
    (ActivationCapture.capture_single, "max_new_tokens"): 1,
    (ActivationStats.multiple_comparison_correction, "method"): "fdr_bh",
    (ActivationStats.multiple_comparison_correction, "alpha"): 0.05,
    (ActivationStats.compute_rsa_similarity, "metric"): "correlation",
    (ActivationStats.summarize_contrast, "top_n"): 20,
}
# module and function -> parameters that outside checks call
CARRIERS = {
    "statistics.multiplicity:adjust": ["p", "control"],
    "statistics.permutation:max_t": [
        *("a", "b", "test", "n_permutations", "step_down", "exact", "groups", "nuisance", "rng")
    ],
    "statistics.dissimilarity:rdm": ["patterns", "metric"],
    "statistics.dissimilarity:compare": ["rdm1", "rdm2", "metric"],
    "statistics.alignment:linear_cka": ["x", "y", "debiased"],
    "statistics.effect_size:cohens_d_interval": [],
}


def test_exactly_the_public_names_can_be_imported():
    code = "from activation_analysis import *; print(*sorted(n for n in dir() if n[0] != '_'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == sorted(activation_analysis.__all__)
    assert set(activation_analysis.__all__) == set(activation_analysis._HOMES)
    assert set(activation_analysis.__all__) <= set(dir(activation_analysis))


def test_other_names_are_refused_as_python_does():
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = activation_analysis.Nonsense
    with pytest.raises(ImportError):
        from activation_analysis import Nonsense  # noqa: F401


def test_importing_the_package_costs_nothing():
    code = "import sys, activation_analysis; print(len({'numpy', 'torch'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "0\n"


@pytest.mark.parametrize("function", PROMISED, ids=lambda f: f.__qualname__)
def test_documented_functions_take_what_was_promised_first_and_by_name(function):
    known = [p for p in inspect.signature(function).parameters if p != "self"]
    assert known[: len(PROMISED[function])] == PROMISED[function]
    assert (function.__doc__ or "").strip()


@pytest.mark.parametrize(("function", "name"), DEFAULTS, ids=str)
def test_documented_defaults_stand(function, name):
    assert inspect.signature(function).parameters[name].default == DEFAULTS[function, name]


@pytest.mark.parametrize("path", CARRIERS)
def test_functions_that_carry_the_method_keep_their_names(path):
    module, name = path.split(":")
    function = getattr(import_module(f"activation_analysis.{module}"), name)
    assert set(CARRIERS[path]) <= set(inspect.signature(function).parameters)


def test_the_tests_of_the_dictionary_take_their_groups_by_position():
    from activation_analysis.statistics.hypothesis_tests import OMNIBUS_TESTS, TESTS

    assert {"student", "welch", "mannwhitney"} <= set(TESTS)
    for name, test in TESTS.items():
        first = next(iter(inspect.signature(test).parameters.values()))
        several = first.kind is inspect.Parameter.VAR_POSITIONAL
        assert several == (name in OMNIBUS_TESTS)
        if not several and name != "one_sample":
            assert list(inspect.signature(test).parameters)[:2] == ["a", "b"]


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "activation_analysis" / "py.typed").is_file()
