"""Where the time goes: latency and weights by stage and kind of block, as in SnapFusion's bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nas.latency import breakdown
from nas.plots._style import (
    GREY,
    INK,
    KIND_COLOURS,
    KIND_NAMES,
    check_backend,
    new_figure,
    plotly_layout,
    plotly_module,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nas.latency import LatencyTable

_COLOURS = {**KIND_COLOURS, "base": GREY}
_NAMES = {**KIND_NAMES, "base": "everything else"}
_LABELS = {"latency_ms": "latency (ms)", "parameters": "weights (M)"}


class Bars(NamedTuple):
    """One kind of block in every stage.

    Attributes:
        kind: "resnet", "attention" or "base".
        latency_ms: of each stage, 0 where it has no such blocks.
        parameters: millions of weights of each stage.
    """

    kind: str
    latency_ms: tuple[float, ...]
    parameters: tuple[float, ...]


class BreakdownData(NamedTuple):
    """What `plot_breakdown` draws.

    Attributes:
        name: of the table, for the title.
        full_ms: predicted latency of the full network.
        stages: in network order, "base" last.
        bars: one entry a kind of block, the base last.
    """

    name: str
    full_ms: float
    stages: tuple[str, ...]
    bars: tuple[Bars, ...]


def breakdown_data(lut: LatencyTable) -> BreakdownData:
    """Read latency and weights by stage and kind off a table."""
    parts = {(part.stage, part.kind): part for part in breakdown(lut)}
    stages = tuple(dict.fromkeys(stage for stage, _ in parts))
    bars = []
    for kind in _COLOURS:
        found = [parts.get((stage, kind)) for stage in stages]
        latencies = tuple(part.latency_ms if part else 0.0 for part in found)
        bars.append(Bars(kind, latencies, tuple(part.parameters / 1e6 if part else 0.0 for part in found)))
    return BreakdownData(lut.name, lut.latency_ms(lut.space.full), stages, tuple(bars))


def plot_breakdown(lut: LatencyTable, *, backend: str = "matplotlib") -> Any:
    """Draw latency and weights of the full network by stage and kind of block, stacked.

    Args:
        lut: a latency table.
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.

    Raises:
        NasError: no such backend.
        MissingExtraError: plotly is asked for and not installed.
    """
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(breakdown_data(lut))


def _title(data: BreakdownData) -> str:
    return f"Where the time goes: {data.name}, {data.full_ms:.1f} ms"


def _draw_matplotlib(data: BreakdownData) -> Any:
    figure, (latencies, weights) = new_figure(width=8.4, height=5.4, rows=2, sharex=True)
    figure.suptitle(_title(data), x=0.01, ha="left", color=INK, fontsize=11)
    for axes, quantity in ((latencies, "latency_ms"), (weights, "parameters")):
        tidy(axes, grid="y")
        axes.set_ylabel(_LABELS[quantity])
        _stack(axes, data, quantity)
    handles, labels = latencies.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _stack(axes: Axes, data: BreakdownData, quantity: str) -> None:
    bottoms = [0.0] * len(data.stages)
    for bars in data.bars:
        heights = getattr(bars, quantity)
        axes.bar(data.stages, heights, bottom=bottoms, width=0.7, color=_COLOURS[bars.kind], label=_NAMES[bars.kind])
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]


def _draw_plotly(data: BreakdownData) -> Any:
    figure = plotly_module("subplots").make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    bar = plotly_module("graph_objects").Bar
    for row, (quantity, label) in enumerate(_LABELS.items(), start=1):
        for bars in data.bars:
            options = {"name": _NAMES[bars.kind], "legendgroup": bars.kind, "showlegend": row == 1}
            heights = list(getattr(bars, quantity))
            figure.add_trace(
                bar(x=list(data.stages), y=heights, marker_color=_COLOURS[bars.kind], **options), row=row, col=1
            )
        figure.update_yaxes(title_text=label, row=row, col=1)
    return plotly_layout(figure, title=_title(data), barmode="stack")
