"""Every figure draws, without a warning, for results of every shape; red is the first condition."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from math import sqrt

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_results import contrast_result, units_of

from activation_analysis.activations import SITES
from activation_analysis.figures import FIGURES, SITE_FIGURES, draw_all, save
from activation_analysis.figures.heatmap import bin_columns, on_grid
from activation_analysis.figures.layer_profile import expected_abs_d
from activation_analysis.figures.text import n_cells_of, plain, shorten
from activation_analysis.results import ContrastResult, StatMap

HOSTILE = "$x_{$ \\frac{ 条件_甲 😀 👩‍🔬 \x07\n\t עברית " + "very_long_name_" * 20
HOSTILE_NAMES = {
    "model": HOSTILE,
    "experiment": HOSTILE,
    "contrast": f"{HOSTILE} - {HOSTILE}",
    "conditions": (HOSTILE, "条件" * 100),
    "position": HOSTILE,
}
RESULTS = {
    "12 layers": lambda: contrast_result(n_layers=12),
    "80 layers, five sites": lambda: contrast_result(n_layers=80, sites=SITES, top_n=50),
    "one layer": lambda: contrast_result(n_layers=1, sites=("residual",), top_n=1),
    "all excluded": lambda: contrast_result(sites=("mlp",), n_excluded=10**9),
    "a layer without a tested unit": lambda: contrast_result(sites=("mlp",), untested_layer=3),
    "negative effects only": lambda: contrast_result(sites=("mlp",), sign=-1),
    "nothing significant": lambda: contrast_result(sites=("mlp",), effect=0),
    "nothing held out": lambda: contrast_result(sites=("mlp",), with_held_out=False),
    "no control": lambda: contrast_result(sites=("mlp",), control=None),
    "hostile names": lambda: contrast_result(sites=("mlp",), names=HOSTILE_NAMES),
    "wide layers": lambda: contrast_result(sites=("mlp",), widths={"mlp": 20_000}),
}
N_LAYERS, WIDTH = 12, 20_000


def refuse(name: str, error: Exception) -> None:
    raise AssertionError(f"figure {name} was not drawn") from error


def pixels(fig: Figure, dpi: int = 130) -> np.ndarray:
    """The figure as it is saved, (height, width, 3)."""
    png = io.BytesIO()
    fig.savefig(png, dpi=dpi, format="png")
    return np.asarray(Image.open(png).convert("RGB")).astype(int)


def panel_pixels(fig: Figure, panel: int, dpi: int = 130) -> np.ndarray:
    """The inside of one panel, first row at the top."""
    image = pixels(fig, dpi)
    box = fig.axes[panel].get_position()
    height, width = image.shape[:2]
    rows = slice(int(height * (1 - box.y1)) + 2, int(height * (1 - box.y0)) - 2)
    return image[rows, int(width * box.x0) + 2 : int(width * box.x1)]


def flat_map(planted: dict[tuple[int, int], float], *, width: int = WIDTH) -> ContrastResult:
    """A result whose only effects are those planted at (layer, index)."""
    units = units_of("mlp", N_LAYERS, width)
    d = np.zeros(len(units))
    for (layer, index), effect in planted.items():
        d[layer * width + index] = effect
    p = np.where(d == 0, 1.0, 1e-9)
    stat_map = StatMap(
        statistic=d,
        p_value=p,
        df=np.full(len(d), 118.0),
        effect_size=d,
        hedges_g=d,
        mean_difference=d,
        excluded=np.full(len(d), ""),
        test="welch",
        n=(60, 60),
        p_adjusted=p,
        control="holm",
        units=units,
    )
    return replace(contrast_result(sites=("mlp",)), maps={"mlp": stat_map})


@pytest.mark.parametrize("shape", RESULTS)
def test_every_figure_draws_without_a_warning(shape, tmp_path):
    result = RESULTS[shape]()
    names = []
    for name, fig in draw_all(result, on_error=refuse):
        path = save(fig, tmp_path / f"{name}.png", dpi=60)
        assert len(np.unique(np.asarray(Image.open(path)))) > 10
        names.append(name)
    assert names == [*FIGURES, *(f"{name}_{s}" for name in SITE_FIGURES for s in result.sites)]


def test_nothing_is_cut_off():
    for name, fig in draw_all(
        contrast_result(sites=("mlp",), names=HOSTILE_NAMES), on_error=refuse
    ):
        for dpi in (72, 130):
            image = pixels(fig, dpi)
            border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
            assert border.min() == 255, f"{name} at {dpi} dpi"


def test_a_failing_figure_does_not_stop_the_others(monkeypatch, caplog):
    def broken(result):
        raise ZeroDivisionError("planted")

    monkeypatch.setitem(FIGURES, "held_out", broken)
    failed = {}
    names = [name for name, _ in draw_all(contrast_result(), on_error=failed.__setitem__)]
    assert "held_out" not in names
    assert {"layer_profile", "top_units", "heatmap_mlp"} < set(names)
    assert isinstance(failed["held_out"], ZeroDivisionError)
    list(draw_all(contrast_result()))
    assert "figure held_out could not be drawn: planted" in caplog.text


def test_a_map_without_addresses_is_refused():
    result = contrast_result(sites=("mlp",))
    bare = replace(result, maps={"mlp": replace(result.maps["mlp"], units=None)})
    with pytest.raises(ValueError, match="no layer and unit addresses"):
        SITE_FIGURES["heatmap"](bare, "mlp")


def test_infinite_effects_and_missing_layers_still_draw(tmp_path):
    result = contrast_result(sites=("mlp",))
    full = result.maps["mlp"]
    kept = np.isin(full.units.layer, [0, 5, 11]) & (full.units.index < 300 + 20 * full.units.layer)
    fields = {name: value for name, value in vars(full).items() if isinstance(value, np.ndarray)}
    fields = {name: value[kept] for name, value in fields.items()}
    fields["effect_size"][[3, 400]] = [np.inf, -np.inf]
    units = replace(full.units, layer=full.units.layer[kept], index=full.units.index[kept])
    top = result.top_units.units.copy()
    top.loc[[0, 1], "effect_size"] = [np.inf, -np.inf]
    top.loc[2, "held_out_high"] = np.inf
    odd = replace(
        result,
        maps={"mlp": replace(full, units=units, **fields)},
        top_units=replace(result.top_units, units=top),
    )
    for name, fig in draw_all(odd, on_error=refuse):
        save(fig, tmp_path / f"{name}.png")


def test_red_means_that_the_first_condition_is_higher():
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map({(2, 3): 2.0}, width=8), "mlp"), 0)
    assert is_red(image).any()
    assert not is_blue(image).any()
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map({(2, 3): -2.0}, width=8), "mlp"), 0)
    assert is_blue(image).any()
    assert not is_red(image).any()


def is_red(image: np.ndarray) -> np.ndarray:
    return image[..., 0] > image[..., 2] + 60


def is_blue(image: np.ndarray) -> np.ndarray:
    return image[..., 2] > image[..., 0] + 60


def test_layer_0_is_at_the_bottom_and_unit_0_on_the_left():
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map({(0, 0): 2.0}, width=8), "mlp"), 0)
    rows, columns = np.nonzero(is_red(image))
    assert rows.min() > 0.9 * image.shape[0]
    assert columns.max() < image.shape[1] / 7


def test_positive_bars_are_red_and_to_the_right():
    result = contrast_result(sign=1)
    image = panel_pixels(FIGURES["top_units"](result), 0)
    assert is_red(image).any()
    assert not is_blue(image).any()
    units = result.top_units.units
    flipped = ["effect_size", "held_out_d", "held_out_low", "held_out_high"]
    negative = units.assign(**{column: -units[column] for column in flipped})
    mirrored = replace(result, top_units=replace(result.top_units, units=negative))
    image = panel_pixels(FIGURES["top_units"](mirrored), 0)
    assert is_blue(image).any()
    assert not is_red(image).any()


@pytest.mark.parametrize("dpi", [90, 130])
@pytest.mark.parametrize("panel", [0, 1, 2, 3])
def test_no_isolated_unit_is_lost_when_units_outnumber_pixels(panel, dpi):
    planted = {(4, index): 2.0 for index in range(137, WIDTH, 401)}
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map(planted), "mlp"), panel, dpi)
    row = image[int(image.shape[0] * (1 - 4.5 / N_LAYERS))]
    background = image[int(image.shape[0] * (1 - 8.5 / N_LAYERS)), 0]
    differs = (np.abs(row - background).max(axis=1) > 60).astype(int)
    assert (np.diff(differs) == 1).sum() == len(planted)


def test_nothing_small_is_yellow():
    weak = {(4, index): 0.3 for index in range(8)}
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map(weak, width=8), "mlp"), 1)
    assert image[..., 0].max() < 128
    strong = {(4, index): 1.0 for index in range(8)}
    image = panel_pixels(SITE_FIGURES["heatmap"](flat_map(strong, width=8), "mlp"), 1)
    assert image[..., 0].max() > 240


def test_a_bin_keeps_the_largest_magnitude_and_its_sign():
    grid = np.array([[0.1, -3.0, 2.0, np.nan, np.nan, np.nan, 0.5]])
    assert np.array_equal(bin_columns(grid, 3), [[-3.0, np.nan, 0.5]], equal_nan=True)
    assert bin_columns(grid, 1) is grid


def test_layers_of_different_width_share_a_grid():
    units = replace(
        units_of("mlp", 2, 3), layer=np.array([4, 4, 9]), index=np.array([0, 1, 0]), n_layers=10
    )
    grid = on_grid(np.array([1.0, 2.0, 3.0]), units)
    assert np.array_equal(grid, [[1, 2], [3, np.nan]], equal_nan=True)


def test_expected_abs_d_is_what_equal_groups_show():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 20_000)), rng.standard_normal((5, 20_000))
    pooled = np.sqrt((7 * a.var(axis=0, ddof=1) + 4 * b.var(axis=0, ddof=1)) / 11)
    d = (a.mean(axis=0) - b.mean(axis=0)) / pooled
    assert expected_abs_d(8, 5) == pytest.approx(np.abs(d).mean(), rel=0.02)
    # The half-normal mean, sqrt(2 / pi) standard errors, for large groups.
    assert expected_abs_d(10**6, 10**6) == pytest.approx(sqrt(2 / np.pi) * sqrt(2e-6), rel=1e-5)


def test_text_becomes_one_drawable_line():
    assert plain("a\n\tb\x07  c") == "a b c"
    assert plain("$x_{$") == "$x_{$"
    assert plain("\U0010fffe") == "□"
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert n_cells_of("条件") == 4
    assert n_cells_of(shorten("条件" * 20, 11)) <= 11


def test_drawing_leaves_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    for name, fig in draw_all(contrast_result(n_layers=2), on_error=refuse):
        save(fig, tmp_path / f"{name}.svg")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, activation_analysis.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_users_matplotlibrc_changes_nothing():
    ours = pixels(FIGURES["layer_profile"](contrast_result()))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9}):
        fig = FIGURES["layer_profile"](contrast_result())
    assert np.array_equal(pixels(fig), ours)
