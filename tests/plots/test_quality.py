"""The curves of an evaluation: data first, then both backends against them."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

import nas
from nas.errors import NasError
from nas.plots import quality_data
from nas.quality import Distance, Evaluation, QualityPoint, Score

MODELS = ("full, 50 steps", "evolved, 8 steps")


def point(model: str, scale: float, *, fid: bool = False) -> QualityPoint:
    """More guidance, more like the prompt; nearest to the real pictures at 4."""
    score, distance = 0.2 + scale / 100, 0.1 + (scale - 4) ** 2 / 100
    return QualityPoint(
        model,
        scale,
        50,
        "DDIMScheduler",
        Score.of([score - 0.01, score, score + 0.01]),
        Distance.of([distance - 0.02, distance, distance + 0.02], [distance] * 4),
        Distance.of([2 * distance - 0.02, 2 * distance, 2 * distance + 0.02], [2 * distance] * 4),
        Distance.of([9.0], [9.0]) if fid else None,
    )


@pytest.fixture
def evaluation() -> Evaluation:
    scales = [1 + 0.5 * index for index in range(19)]
    # Guidance in any order; a curve goes by rising guidance.
    return Evaluation(tuple(point(model, scale) for model in MODELS for scale in scales[::-1]))


def test_the_data_are_the_evaluations(evaluation: Evaluation) -> None:
    data = quality_data(evaluation, "cmmd")
    assert [curve.model for curve in data.curves] == list(MODELS)
    dots = data.curves[0].dots
    assert [dot.guidance_scale for dot in dots] == [1 + 0.5 * index for index in range(19)]
    assert [dot.clip_score for dot in dots] == pytest.approx([0.2 + dot.guidance_scale / 100 for dot in dots])
    source = evaluation.point(MODELS[0], 1.5)
    assert dots[1].distance == source.cmmd.value
    assert (dots[1].low, dots[1].high) == (source.cmmd.low, source.cmmd.high)
    assert (dots[1].clip_low, dots[1].clip_high) == (source.clip_score.low, source.clip_score.high)


def test_first_last_and_nearest_are_labelled_or_all_of_a_few(evaluation: Evaluation) -> None:
    labels = [dot.label for dot in quality_data(evaluation).curves[0].dots]
    assert [label for label in labels if label] == ["1", "4", "10"]
    few = Evaluation(tuple(point("a", scale) for scale in (1.0, 2.5, 4.0)))
    assert [dot.label for dot in quality_data(few).curves[0].dots] == ["1", "2.5", "4"]


def test_intervals_without_bounds_are_not_drawn() -> None:
    (curve,) = quality_data(Evaluation((point("a", 1, fid=True),)), "fid").curves
    assert curve.dots[0][3:6] == (9, 9, 9)
    assert all(math.isfinite(value) for value in curve.dots[0][:6])


@pytest.mark.parametrize("distance", ["kid", "cmmd"])
def test_matplotlib_draws_what_plotly_draws(evaluation: Evaluation, distance: str) -> None:
    figure = nas.plot_quality(evaluation, distance=distance)
    twin = nas.plot_quality(evaluation, distance=distance, backend="plotly")
    data = quality_data(evaluation, distance)
    (axes,) = figure.axes
    assert len(axes.lines) == len(twin.data) == 2
    for curve, line, trace in zip(data.curves, axes.lines, twin.data, strict=True):
        expected = [(dot.clip_score, dot.distance) for dot in curve.dots]
        np.testing.assert_allclose(np.transpose(line.get_data()), expected)
        np.testing.assert_allclose(np.transpose([trace.x, trace.y]), expected)
        assert line.get_label() == trace.name == curve.model
        assert line.get_color() == trace.line.color
        assert list(trace.text) == [dot.label for dot in curve.dots]
    shown = [text.get_text() for text in axes.texts if text.get_text()]
    assert shown == [dot.label for curve in data.curves for dot in curve.dots if dot.label]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_both_draw_the_intervals_of_labelled_dots(evaluation: Evaluation) -> None:
    dots = [
        dot if dot.label else dot._replace(clip_low=dot[0], clip_high=dot[0], low=dot.distance, high=dot.distance)
        for dot in quality_data(evaluation).curves[0].dots
    ]
    assert sum(dot.low < dot.high for dot in dots) == 3
    (axes,) = nas.plot_quality(evaluation).axes
    across, up = (np.array(bars.get_segments()) for bars in axes.collections[:2])
    np.testing.assert_allclose(across[:, :, 0], [(dot.clip_low, dot.clip_high) for dot in dots])
    np.testing.assert_allclose(up[:, :, 1], [(dot.low, dot.high) for dot in dots])
    trace = nas.plot_quality(evaluation, backend="plotly").data[0]
    np.testing.assert_allclose(np.add(trace.x, trace.error_x.array), [dot.clip_high for dot in dots])
    np.testing.assert_allclose(np.subtract(trace.x, trace.error_x.arrayminus), [dot.clip_low for dot in dots])
    np.testing.assert_allclose(np.add(trace.y, trace.error_y.array), [dot.high for dot in dots])
    np.testing.assert_allclose(np.subtract(trace.y, trace.error_y.arrayminus), [dot.low for dot in dots])


def test_axes_say_what_is_better(evaluation: Evaluation) -> None:
    figure = nas.plot_quality(evaluation)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "CLIP score (higher is better)"
    assert axes.get_ylabel() == "KID over CLIP's features (lower is better)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(MODELS)


def test_more_models_than_colours_are_told_apart() -> None:
    many = Evaluation(tuple(point(f"model {index}", 1.0) for index in range(12)))
    (axes,) = nas.plot_quality(many).axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 12


def test_an_empty_evaluation_says_so() -> None:
    (axes,) = nas.plot_quality(Evaluation(())).axes
    assert axes.texts[0].get_text() == "no model was evaluated"
    assert len(nas.plot_quality(Evaluation(()), backend="plotly").data) == 0


def test_what_is_not_there_is_refused(evaluation: Evaluation) -> None:
    with pytest.raises(NasError, match="no distance 'fud'"):
        nas.plot_quality(evaluation, distance="fud")
    with pytest.raises(NasError, match="has no fid; evaluate with inception="):
        nas.plot_quality(evaluation, distance="fid")
    with pytest.raises(NasError, match="backend"):
        nas.plot_quality(evaluation, backend="gnuplot")
