"""The voxel grid and the matrix on it."""

from __future__ import annotations

import numpy as np
import pytest

from activation_analysis.activations import (
    SITES,
    Activations,
    TokenActivations,
    Units,
    canonical_site,
    relative_depth,
)


@pytest.fixture
def recorded() -> Activations:
    """Three prompts; layers 1, 4 and 10 of 12, given out of order; value = 1000 layer + index."""
    widths = {"residual": 4, "neuron": 6}
    return Activations(
        prompts=("a", "b", "a"),
        n_tokens=np.array([3, 5, 3]),
        position="last",
        model="tiny",
        n_layers=12,
        values={
            site: {
                layer: (1000 * layer + np.arange(width) + np.arange(3)[:, None] / 10).astype("f4")
                for layer in (10, 1, 4)
            }
            for site, width in widths.items()
        },
        details={"dtype": "float32"},
    )


def test_every_column_knows_its_address(recorded):
    for site, width in (("residual", 4), ("neuron", 6)):
        units = recorded.units(site)
        assert len(units) == 3 * width == recorded.matrix(site).shape[1]
        np.testing.assert_array_equal(recorded.matrix(site)[0], 1000 * units.layer + units.index)
        np.testing.assert_array_equal(units.layers, [1, 4, 10])
        assert units.n_layers == 12
        for layer in (1, 4, 10):
            columns = units.columns_of(layer)
            np.testing.assert_array_equal(
                recorded.matrix(site)[:, columns], recorded.values[site][layer]
            )
        assert recorded.matrix(site)[:, units.columns_of(3)].size == 0


def test_depth_runs_from_first_to_last_block():
    np.testing.assert_array_equal(relative_depth(np.arange(5), 5), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(relative_depth(np.array([0]), 1), [0])
    units = Units("mlp", layer=np.array([0, 11]), index=np.array([0, 0]), n_layers=12)
    np.testing.assert_array_equal(units.depth, [0, 1])


def test_counts_and_names(recorded):
    assert len(recorded) == 3
    assert recorded.sites == ("residual", "neuron")
    assert recorded.layers == (1, 4, 10)
    assert recorded.n_units == 3 * (4 + 6)


def test_rows_are_taken_in_the_order_given(recorded):
    taken = recorded.rows([2, 0, 0])
    assert taken.prompts == ("a", "a", "a")
    np.testing.assert_array_equal(taken.n_tokens, [3, 3, 3])
    np.testing.assert_array_equal(taken.matrix("neuron"), recorded.matrix("neuron")[[2, 0, 0]])
    assert len(recorded.rows([])) == 0
    assert recorded.rows([0, 1, 2]) == recorded


def test_one_site_may_be_left_unnamed(recorded):
    one = recorded.at("neuron")
    assert one.sites == ("neuron",)
    np.testing.assert_array_equal(one.matrix(), recorded.matrix("neuron"))
    with pytest.raises(ValueError, match=r"has the sites residual, neuron; name one, as in"):
        recorded.matrix()


def test_unknown_and_unrecorded_sites_are_told_apart(recorded):
    with pytest.raises(ValueError, match=r"no site 'mpl'; known: residual, attention, mlp"):
        recorded.matrix("mpl")
    with pytest.raises(ValueError, match=r"'mlp' was not recorded; recorded: residual, neuron"):
        recorded.matrix("mlp")


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_its_own_canonical_name(site):
    assert canonical_site(site) == site
    assert canonical_site("attn") == "attention"


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ("a", "b", "c")},
        {"n_tokens": np.array([3, 5, 4])},
        {"position": "mean"},
        {"model": "other"},
        {"n_layers": 13},
        {"details": {"dtype": "bfloat16"}},
    ],
)
def test_recordings_differ_if_one_thing_does(recorded, change):
    assert recorded == recorded._with()
    assert recorded != recorded._with(**change)


def test_recordings_differ_if_one_value_does(recorded):
    values = {s: {k: v.copy() for k, v in ls.items()} for s, ls in recorded.values.items()}
    same = recorded._with(values=values)
    assert same == recorded
    values["neuron"][4][2, 5] = np.nextafter(values["neuron"][4][2, 5], np.float32(np.inf))
    assert same != recorded
    assert recorded != recorded.at("neuron")
    assert recorded != "a recording"


def test_nan_equals_nan_in_a_recording(recorded):
    values = {"mlp": {0: np.full((3, 2), np.nan, np.float32)}}
    assert recorded._with(values=values) == recorded._with(
        values={"mlp": {0: values["mlp"][0].copy()}}
    )


def test_a_token_table_tells_prompt_from_generated():
    single = TokenActivations(
        text="The sea",
        generated_text=" is",
        tokens=("The", " sea", " is"),
        token_ids=np.array([4, 5, 6]),
        n_prompt_tokens=2,
        model="tiny",
        n_layers=1,
        values={"mlp": {0: np.zeros((3, 2), np.float32)}},
    )
    assert len(single) == 3
    assert single.sites == ("mlp",)
    assert single.table()["generated"].tolist() == [False, False, True]
    assert single.table()["token"].tolist() == ["The", " sea", " is"]
