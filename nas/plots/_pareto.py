"""Latency against score: every candidate judged, the front, the full network, the network found, the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nas.plots._rows import bounded, complete, describe_change
from nas.plots._style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    check_backend,
    new_figure,
    plotly_layout,
    plotly_module,
    say_empty,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nas.search import Evolution


class Point(NamedTuple):
    """A network on the plane; `low` and `high` are the ends of the bar through it."""

    latency_ms: float
    score: float
    low: float
    high: float
    label: str


class ParetoData(NamedTuple):
    """What `plot_pareto` draws.

    Attributes:
        candidates: every network judged, in the order of judging.
        front: those that no other beats in both, by rising latency.
        full: the network that the search started from.
        found: the network that it returned; its interval is that of the paired difference from `full`.
        budget_ms: the latency to get under.
    """

    candidates: tuple[Point, ...]
    front: tuple[Point, ...]
    full: Point
    found: Point
    budget_ms: float


def pareto_data(result: Evolution) -> ParetoData:
    """Read the points off an evolution; networks without a finite score are left out."""
    rows = complete(result.history)
    front = result.pareto.sort_values("latency_ms")
    before, after = result.full_score.mean, result.score.mean
    difference = result.score.minus(result.full_score)
    interval = bounded(after, before + difference.low, before + difference.high)
    return ParetoData(
        candidates=tuple(_point(row.predicted_ms, row) for row in rows.itertuples()),
        front=tuple(_point(row.latency_ms, row) for row in front.itertuples()),
        full=Point(result.predicted_full_ms, before, before, before, "full network"),
        found=Point(result.predicted_ms, after, *interval, describe_change(result.architecture)),
        budget_ms=result.budget_ms,
    )


def plot_pareto(result: Evolution, *, backend: str = "matplotlib", score_label: str = "score") -> Any:
    """Draw the candidates and the Pareto front of a search.

    Args:
        result: what `nas.evolve` returned, or `nas.Evolution.load` read.
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.
        score_label: name of the score for the axis, for example "CLIP score".

    Raises:
        NasError: no such backend.
        MissingExtraError: plotly is asked for and not installed.
    """
    data = pareto_data(result)
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(data, score_label)


def _point(latency_ms: float, row: Any) -> Point:
    return Point(latency_ms, row.score, row.score, row.score, describe_change(row.architecture))


def _draw_matplotlib(data: ParetoData, score_label: str) -> Any:
    figure, axes = new_figure(width=7.2, height=4.6)
    tidy(axes)
    axes.set_xlabel("predicted latency of one UNet call (ms)")
    axes.set_ylabel(score_label)
    axes.set_title("Networks judged by the search", loc="left", color=INK)
    if not data.candidates:
        say_empty(axes, "no network was judged")
        return figure
    axes.scatter(*_xy(data.candidates), s=18, color=GREY, alpha=0.7, linewidths=0, label="candidate")
    axes.plot(
        *_xy(data.front),
        color=BLUE,
        drawstyle="steps-post",
        linewidth=1.6,
        marker="o",
        markersize=4,
        label="Pareto front",
    )
    axes.axvline(data.budget_ms, color=INK, linestyle=(0, (4, 3)), linewidth=1, label="budget")
    _mark(axes, data.full, "D", GREEN, "full network")
    _mark(axes, data.found, "*", ORANGE, "found network, 95 % interval of its difference")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _mark(axes: Axes, point: Point, marker: str, colour: str, label: str) -> None:
    bounds = [[point.score - point.low], [point.high - point.score]]
    size = 13 if marker == "*" else 7
    axes.errorbar(
        [point.latency_ms],
        [point.score],
        yerr=bounds,
        fmt=marker,
        markersize=size,
        color=colour,
        elinewidth=1.2,
        capsize=3,
        label=label,
        zorder=4,
    )


def _draw_plotly(data: ParetoData, score_label: str) -> Any:
    objects = plotly_module("graph_objects")
    figure = objects.Figure()
    figure.add_trace(_trace(objects, data.candidates, "candidate", GREY, mode="markers"))
    figure.add_trace(_trace(objects, data.front, "Pareto front", BLUE, mode="lines+markers", step=True))
    for point, name, colour in ((data.full, "full network", GREEN), (data.found, "found network", ORANGE)):
        figure.add_trace(_trace(objects, (point,), name, colour, mode="markers", size=13, interval=True))
    figure.add_vline(x=data.budget_ms, line_dash="dash", line_color=INK, annotation_text="budget")
    return plotly_layout(
        figure,
        title="Networks judged by the search",
        xaxis_title="predicted latency of one UNet call (ms)",
        yaxis_title=score_label,
    )


def _trace(
    objects: Any,
    points: tuple[Point, ...],
    name: str,
    colour: str,
    *,
    mode: str,
    size: int = 6,
    interval: bool = False,
    step: bool = False,
) -> Any:
    latencies, scores = _xy(points)
    up, down = [p.high - p.score for p in points], [p.score - p.low for p in points]
    return objects.Scatter(
        x=latencies,
        y=scores,
        mode=mode,
        name=name,
        text=[point.label for point in points],
        line_shape="hv" if step else "linear",
        marker={"color": colour, "size": size},
        error_y={"type": "data", "array": up, "arrayminus": down, "visible": interval},
    )


def _xy(points: tuple[Point, ...]) -> tuple[list[float], list[float]]:
    return [point.latency_ms for point in points], [point.score for point in points]
