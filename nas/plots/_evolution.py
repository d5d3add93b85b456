"""The course of a search: latency and score of the current network, round by round."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from nas.architecture import Architecture
from nas.plots._rows import complete, parse
from nas.plots._style import BLUE, GREEN, INK, check_backend, new_figure, plotly_layout, plotly_module, say_empty, tidy

if TYPE_CHECKING:
    from nas.search import Evolution

_CURRENT = ("full", "keep", "result")


class Stop(NamedTuple):
    """The network that the search stood at.

    Attributes:
        latency_ms: its predicted latency.
        score: its mean score.
        removed: places that ran once more in the network before it.
        added: places that ran once less in the network before it.
    """

    latency_ms: float
    score: float
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def change(self) -> str:
        """The step that led here, for example "-3 +1"."""
        return (
            f"{f'−{len(self.removed)}' if self.removed else ''} {f'+{len(self.added)}' if self.added else ''}".strip()
        )


class EvolutionData(NamedTuple):
    """What `plot_evolution` draws: the networks that the search stood at, in order, and the latency to get under."""

    stops: tuple[Stop, ...]
    budget_ms: float


def evolution_data(result: Evolution) -> EvolutionData:
    """Read the course of a search off its history."""
    rows = complete(result.history)
    if rows.empty:
        return EvolutionData((), result.budget_ms)
    current = _one_a_network(rows[rows["action"].isin(_CURRENT)])
    networks = [parse(text) for text in current["architecture"]]
    stops = [
        Stop(row.predicted_ms, row.score, *_difference(networks[max(index - 1, 0)], networks[index]))
        for index, row in enumerate(current.itertuples())
    ]
    return EvolutionData(tuple(stops), result.budget_ms)


def plot_evolution(result: Evolution, *, backend: str = "matplotlib", score_label: str = "score") -> Any:
    """Draw latency and score of the network that the search stood at, step by step.

    Args:
        result: what `nas.evolve` returned, or `nas.Evolution.load` read.
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.
        score_label: name of the score for the axis, for example "CLIP score".

    Raises:
        NasError: no such backend.
        MissingExtraError: plotly is asked for and not installed.
    """
    data = evolution_data(result)
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(data, score_label)


def _one_a_network(rows: pd.DataFrame) -> pd.DataFrame:
    # The current network is judged again in every round, also when training alone has changed it: the last one counts.
    texts = rows["architecture"].astype(str)
    return rows[texts != texts.shift(-1)]


def _difference(before: Architecture, after: Architecture) -> tuple[tuple[str, ...], tuple[str, ...]]:
    was = Counter({place: before.runs(place) for place in before.places})
    now = Counter({place: after.runs(place) for place in after.places})
    return tuple((was - now).elements()), tuple((now - was).elements())


def _draw_matplotlib(data: EvolutionData, score_label: str) -> Any:
    figure, (upper, lower) = new_figure(width=7.2, height=5.2, rows=2, sharex=True)
    upper.set_title(
        "Course of the search: blocks removed (−) and added (+) at each step", loc="left", color=INK, fontsize=11
    )
    upper.set_ylabel("predicted latency (ms)")
    lower.set_ylabel(score_label)
    lower.set_xlabel("evolving step")
    for axes in (upper, lower):
        tidy(axes)
    if not data.stops:
        say_empty(upper, "no network was judged")
        return figure
    steps = range(len(data.stops))
    latencies = [stop.latency_ms for stop in data.stops]
    upper.plot(steps, latencies, color=BLUE, marker="o", markersize=5)
    upper.axhline(data.budget_ms, color=INK, linestyle=(0, (4, 3)), linewidth=1)
    upper.annotate("budget", (0, data.budget_ms), xytext=(0, 4), textcoords="offset points", color=INK, fontsize=9)
    upper.set_ylim(0, 1.12 * max(*latencies, data.budget_ms))
    for step, stop in zip(steps, data.stops, strict=True):
        upper.annotate(
            stop.change, (step, stop.latency_ms), xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9
        )
    scores = [stop.score for stop in data.stops]
    lower.plot(steps, scores, color=GREEN, marker="o", markersize=5)
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_plotly(data: EvolutionData, score_label: str) -> Any:
    objects = plotly_module("graph_objects")
    figure = plotly_module("subplots").make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    steps = list(range(len(data.stops)))
    texts = [_hover(stop) for stop in data.stops]
    latency = objects.Scatter(
        x=steps, y=[s.latency_ms for s in data.stops], name="latency", text=texts, mode="lines+markers", line_color=BLUE
    )
    score = objects.Scatter(
        x=steps,
        y=[stop.score for stop in data.stops],
        name=score_label,
        mode="lines+markers",
        line_color=GREEN,
    )
    figure.add_trace(latency, row=1, col=1)
    figure.add_trace(score, row=2, col=1)
    figure.add_hline(y=data.budget_ms, line_dash="dash", line_color=INK, annotation_text="budget", row=1, col=1)
    figure.update_yaxes(title_text="predicted latency (ms)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text=score_label, row=2, col=1)
    figure.update_xaxes(title_text="evolving step", dtick=1, row=2, col=1)
    return plotly_layout(figure, title="Course of the search", showlegend=False)


def _hover(stop: Stop) -> str:
    removed = [f"− {place}" for place in stop.removed]
    return "<br>".join([*removed, *(f"+ {place}" for place in stop.added)]) or "start"
