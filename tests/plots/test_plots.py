"""What the three plots of a search say, and that each is drawn by both backends."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import nas
from nas.errors import MissingExtraError, NasError
from nas.plots import block_value_data, evolution_data, pareto_data, plot_pictures
from nas.quality import Score

PLOTS = [nas.plot_pareto, nas.plot_block_values, nas.plot_evolution]


def draws_png(figure: object) -> bool:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    return buffer.getvalue().startswith(b"\x89PNG")


def test_pareto_data_takes_complete_rows_and_sorts_the_front(result: SimpleNamespace) -> None:
    data = pareto_data(result)
    assert len(data.candidates) == len(result.history) - 1
    assert [point.latency_ms for point in data.front] == [55.0, 60.0, 100.0]
    assert (data.full.latency_ms, data.full.label) == (100.0, "full network")
    assert (data.found.latency_ms, data.found.label) == (60.0, "5 blocks removed, 1 block added")


def test_the_found_networks_interval_is_that_of_the_paired_difference(result: SimpleNamespace) -> None:
    difference = stats.ttest_rel(result.score.values, result.full_score.values).confidence_interval()
    data = pareto_data(result)
    assert (data.found.low, data.found.high) == pytest.approx((0.3 + difference.low, 0.3 + difference.high))


def test_one_prompt_has_no_interval(result: SimpleNamespace) -> None:
    result.score, result.full_score = Score.of([0.2]), Score.of([0.3])
    found = pareto_data(result).found
    assert found.low == found.score == found.high
    assert draws_png(nas.plot_pareto(result))


def test_pareto_data_leaves_out_networks_without_a_score(result: SimpleNamespace) -> None:
    result.history.loc[4, "score"] = np.nan
    assert len(pareto_data(result).candidates) == len(result.history) - 2


def test_block_values_are_sorted_by_score_a_millisecond(result: SimpleNamespace, tiny_space: nas.SearchSpace) -> None:
    blocks = block_value_data(result).blocks
    expected = {block.place: 0.01 * (i % 5 - 1) / (i + 1) for i, block in enumerate(tiny_space.blocks)}
    assert {block.place: block.value for block in blocks} == pytest.approx(expected)
    values = [block.value for block in blocks]
    assert values == sorted(values, reverse=True)
    assert {block.place for block in blocks if not block.kept} == set(result.architecture.removed)


def test_block_value_intervals_enclose_the_loss(result: SimpleNamespace) -> None:
    for block in block_value_data(result).blocks:
        assert block.interval == pytest.approx((block.lost - 0.002, block.lost + 0.004))


def test_evolution_names_what_went_and_came(result: SimpleNamespace, tiny_space: nas.SearchSpace) -> None:
    data = evolution_data(result)
    assert [stop.latency_ms for stop in data.stops] == [100.0, 55.0, 60.0]
    assert data.stops[0].removed == data.stops[0].added == ()
    assert data.stops[1].removed == tuple(block.place for block in tiny_space.blocks[3:8])
    assert data.stops[2].added == (tiny_space.blocks[10].place,)
    assert [stop.change for stop in data.stops] == ["", "−5", "+1"]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("fixture", ["result", "empty_result", "one_row_result"])
def test_matplotlib_draws(plot: object, fixture: str, request: pytest.FixtureRequest) -> None:
    assert draws_png(plot(request.getfixturevalue(fixture)))


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("fixture", ["result", "empty_result", "one_row_result"])
def test_plotly_draws(plot: object, fixture: str, request: pytest.FixtureRequest) -> None:
    figure = plot(request.getfixturevalue(fixture), backend="plotly", score_label="CLIP score")
    assert "CLIP score" in figure.to_json()


def test_twins_show_the_same_points(result: SimpleNamespace) -> None:
    drawn = nas.plot_pareto(result).axes[0].collections[0].get_offsets()
    twin = nas.plot_pareto(result, backend="plotly").data[0]
    np.testing.assert_allclose(drawn, np.column_stack([twin.x, twin.y]))


def test_axes_carry_units(result: SimpleNamespace) -> None:
    axes = nas.plot_pareto(result, score_label="CLIP score").axes[0]
    assert "(ms)" in axes.get_xlabel()
    assert "CLIP score" in axes.get_ylabel()


@pytest.mark.parametrize("plot", PLOTS)
def test_unknown_backend_is_refused(plot: object, result: SimpleNamespace) -> None:
    with pytest.raises(NasError, match="choose matplotlib or plotly"):
        plot(result, backend="gnuplot")


def test_missing_plotly_names_the_extra(result: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"nas\[plotly\]"):
        nas.plot_pareto(result, backend="plotly")


def test_pictures_stand_beside_each_other() -> None:
    pictures = {name: np.full((4, 8, 8, 3), shade, np.uint8) for name, shade in (("full", 20), ("evolved", 200))}
    figure = plot_pictures(pictures, [f"prompt {i}" for i in range(4)], group_titles=("seen", "unseen"))
    shades = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes if axes.images]
    assert shades == [20, 200] * 4
    assert draws_png(figure)


def test_pictures_must_fit_the_prompts() -> None:
    with pytest.raises(NasError, match="3 prompts in 2 groups"):
        plot_pictures({"full": np.zeros((3, 8, 8, 3), np.uint8)}, ["a", "b", "c"], group_titles=("x", "y"))
