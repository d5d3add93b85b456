"""Quality of models against guidance: similarity to the prompt against distance from real pictures, a line a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import NasError
from nas.plots._rows import bounded
from nas.plots._style import (
    INK,
    MARKERS,
    SERIES,
    check_backend,
    new_figure,
    plotly_layout,
    plotly_module,
    say_empty,
    tidy,
)

if TYPE_CHECKING:
    from nas.quality import Evaluation, QualityPoint

DISTANCE_LABELS = {
    "kid": "KID over CLIP's features (lower is better)",
    "cmmd": "CMMD (lower is better)",
    "fid": "FID (lower is better)",
}
_SCORE_LABEL = "CLIP score (higher is better)"
_ALL_LABELLED = 6


class QualityDot(NamedTuple):
    """A model at one guidance.

    Attributes:
        clip_score: mean cosine of picture and prompt.
        clip_low: lower end of its 95 % interval.
        clip_high: upper end.
        distance: to the real pictures.
        low: lower end of its 95 % interval.
        high: upper end.
        guidance_scale: guidance.
        label: what stands beside the dot; empty where labels would cover each other.
    """

    clip_score: float
    clip_low: float
    clip_high: float
    distance: float
    low: float
    high: float
    guidance_scale: float
    label: str


class QualityCurve(NamedTuple):
    """A model's dots by rising guidance."""

    model: str
    dots: tuple[QualityDot, ...]


class QualityData(NamedTuple):
    """What `plot_quality` draws.

    Attributes:
        distance: "kid", "cmmd" or "fid".
        curves: one a model.
    """

    distance: str
    curves: tuple[QualityCurve, ...]


def quality_data(evaluation: Evaluation, distance: str = "kid") -> QualityData:
    """Read the curves off an evaluation. Intervals without bounds, of a few pictures, are left out.

    Raises:
        NasError: there is no such distance, or the evaluation was made without it.
    """
    if distance not in DISTANCE_LABELS:
        raise NasError(f"there is no distance {distance!r}; choose {', '.join(DISTANCE_LABELS)}")
    if any(getattr(point, distance) is None for point in evaluation.points):
        raise NasError(f"the evaluation has no {distance}; evaluate with inception=, a network for FID")
    curves = [QualityCurve(model, _dots(evaluation.curve(model), distance)) for model in evaluation.models]
    return QualityData(distance, tuple(curves))


def _dots(points: tuple[QualityPoint, ...], name: str) -> tuple[QualityDot, ...]:
    nearest = min(points, key=lambda point: getattr(point, name).value)
    shown = (points[0], nearest, points[-1])
    return tuple(_dot(point, name, labelled=len(points) <= _ALL_LABELLED or point in shown) for point in points)


def _dot(point: QualityPoint, name: str, *, labelled: bool) -> QualityDot:
    score, distance = point.clip_score, getattr(point, name)
    label = f"{point.guidance_scale:g}" if labelled else ""
    score_interval = bounded(score.mean, score.low, score.high)
    interval = bounded(distance.value, distance.low, distance.high)
    return QualityDot(score.mean, *score_interval, distance.value, *interval, point.guidance_scale, label)


def plot_quality(evaluation: Evaluation, *, distance: str = "kid", backend: str = "matplotlib") -> Any:
    """Draw the CLIP score against the distance from real pictures, one line a model, with 95 % intervals.

    Beside the dots stands the guidance: of the first, the last and the nearest, or of all if they are few; these carry
    their intervals, which would cover each other otherwise.

    Args:
        evaluation: what `nas.evaluate` returned, or `Evaluation.load` read.
        distance: "kid", "cmmd" or "fid".
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.

    Raises:
        NasError: no such backend or distance, or the evaluation was made without it.
        MissingExtraError: plotly is asked for and not installed.
    """
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(quality_data(evaluation, distance))


def _looks(data: QualityData) -> list[tuple[QualityCurve, str, tuple[str, str]]]:
    markers = list(MARKERS.items())
    return [
        (curve, SERIES[index % len(SERIES)], markers[index % len(markers)]) for index, curve in enumerate(data.curves)
    ]


def _draw_matplotlib(data: QualityData) -> Any:
    figure, axes = new_figure(width=7.2, height=5.4)
    tidy(axes)
    axes.set(xlabel=_SCORE_LABEL, ylabel=DISTANCE_LABELS[data.distance])
    axes.set_title("Quality against guidance", loc="left", color=INK)
    if not data.curves:
        say_empty(axes, "no model was evaluated")
        return figure
    for curve, colour, (marker, _) in _looks(data):
        x, y = _xy(curve)
        across, up = _errors(curve)
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.35, zorder=2)
        axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=curve.model, zorder=3)
        for dot in curve.dots:
            place = {"xytext": (5, 4), "textcoords": "offset points"}
            axes.annotate(dot.label, (dot.clip_score, dot.distance), **place, fontsize=8, color=colour, zorder=4)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _draw_plotly(data: QualityData) -> Any:
    objects = plotly_module("graph_objects")
    figure = objects.Figure()
    for curve, colour, (_, marker) in _looks(data):
        x, y = _xy(curve)
        (left, right), (down, up) = _errors(curve)
        bars = {"type": "data", "color": colour, "thickness": 0.8, "width": 0}
        trace = objects.Scatter(
            x=x,
            y=y,
            mode="lines+markers+text",
            name=curve.model,
            text=[dot.label for dot in curve.dots],
            textposition="top right",
            hovertext=[f"guidance {dot.guidance_scale:g}" for dot in curve.dots],
            line={"color": colour},
            marker={"color": colour, "symbol": marker, "size": 7},
            error_x={**bars, "array": right, "arrayminus": left},
            error_y={**bars, "array": up, "arrayminus": down},
        )
        figure.add_trace(trace)
    labels = {"xaxis_title": _SCORE_LABEL, "yaxis_title": DISTANCE_LABELS[data.distance]}
    return plotly_layout(figure, title="Quality against guidance", **labels)


def _xy(curve: QualityCurve) -> tuple[list[float], list[float]]:
    return [dot.clip_score for dot in curve.dots], [dot.distance for dot in curve.dots]


def _errors(curve: QualityCurve) -> tuple[list[list[float]], list[list[float]]]:
    """How far the intervals reach, left and right, down and up; nowhere at dots without a label."""
    dots = [dot if dot.label else _without_interval(dot) for dot in curve.dots]
    across = [[dot.clip_score - dot.clip_low for dot in dots], [dot.clip_high - dot.clip_score for dot in dots]]
    return across, [[dot.distance - dot.low for dot in dots], [dot.high - dot.distance for dot in dots]]


def _without_interval(dot: QualityDot) -> QualityDot:
    return dot._replace(clip_low=dot.clip_score, clip_high=dot.clip_score, low=dot.distance, high=dot.distance)
