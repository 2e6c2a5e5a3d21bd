"""Results say what was found, and nothing that was not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from figures.synthetic_results import contrast_result

from activation_analysis import ActivationStats
from activation_analysis.results import number


def test_the_held_out_headline_is_chosen_by_the_selection_prompts():
    profile = next(iter(contrast_result(n_layers=3).profiles.values()))
    selected, held_out = np.array([1.0, 3.0, 2.0]), np.array([0.9, 0.4, 1.7])
    profile = replace(profile, selected_d=selected, held_out_d=held_out)
    assert profile.peak_held_out_d == 0.4
    assert profile.summary()[f"held_out_d/{profile.site}"] == 0.4


def test_nothing_held_out_gives_no_headline():
    profile = next(iter(contrast_result(n_layers=3).profiles.values()))
    nothing = np.full(3, np.nan)
    assert np.isnan(replace(profile, selected_d=nothing, held_out_d=nothing).peak_held_out_d)


def test_a_finding_of_nothing_names_no_strongest_layer():
    result = contrast_result(effect=0.0)
    maps = {s: replace(m, p_adjusted=np.ones(len(m))) for s, m in result.maps.items()}
    finding = replace(result, maps=maps).finding
    assert ": 0 of " in finding
    assert "strongest" not in finding


def test_a_number_that_is_not_there_reads_as_a_dash():
    assert number(float("nan")) == "-"
    assert number(1.234, "+.1f") == "+1.2"


def test_layers_of_bare_arrays_are_refused():
    bare = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"layers are known of recordings only: .* ndarray"):
        ActivationStats.compute_layer_wise_stats(bare, bare)
