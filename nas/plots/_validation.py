"""What a table predicts against what whole networks took, with the band of ±10 %."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import TableError
from nas.plots._rows import describe_change
from nas.plots._style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    check_backend,
    new_figure,
    plotly_layout,
    plotly_module,
    tidy,
)

if TYPE_CHECKING:
    from nas.latency import LatencyTable

# As `nas lut validate` judges, and nn-Meter (MobiSys 2021) counts.
_TOLERANCE = 0.10
_MARGIN = 0.05
_COLOURS = {True: BLUE, False: ORANGE}


class Prediction(NamedTuple):
    """One network of a validation.

    Attributes:
        measured_ms: end to end.
        predicted_ms: by the table.
        error: (predicted - measured) / measured, a signed fraction.
        within: whether that is within the tolerance.
        label: how the network differs from the full one.
    """

    measured_ms: float
    predicted_ms: float
    error: float
    within: bool
    label: str


class ValidationData(NamedTuple):
    """What `plot_validation` draws.

    Attributes:
        name: of the table, for the title.
        predictions: in the order of measuring.
        tolerance: half the width of the band, a fraction.
        range_ms: from where to where both axes go; all networks are inside.
        mean_error: mean of the absolute errors, a fraction.
        within: share of the networks inside the band.
        spearman: rank correlation of predicted and measured.
    """

    name: str
    predictions: tuple[Prediction, ...]
    tolerance: float
    range_ms: tuple[float, float]
    mean_error: float
    within: float
    spearman: float


def validation_data(lut: LatencyTable) -> ValidationData:
    """Read the networks off a table's validation.

    Raises:
        TableError: the table has none.
    """
    if lut.validation is None:
        raise TableError(f"the table {lut.name!r} was not validated; call its validate() or `nas lut validate FILE`")
    found = lut.validation
    predictions = tuple(
        Prediction(
            pair.measured_ms,
            pair.predicted_ms,
            pair.error,
            abs(pair.error) <= _TOLERANCE,
            describe_change(pair.architecture),
        )
        for pair in found.pairs
    )
    times = [ms for point in predictions for ms in (point.measured_ms, point.predicted_ms)]
    range_ms = min(times) * (1 - _MARGIN), max(times) * (1 + _MARGIN)
    return ValidationData(
        lut.name, predictions, _TOLERANCE, range_ms, found.mean_error, found.within_10, found.spearman
    )


def plot_validation(lut: LatencyTable, *, backend: str = "matplotlib") -> Any:
    """Draw predicted against measured latency of the networks that a table was validated with, and the ±10 % band.

    Args:
        lut: a latency table after `validate`, or one that was stored with its validation.
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.

    Raises:
        TableError: the table has no validation.
        NasError: no such backend.
        MissingExtraError: plotly is asked for and not installed.
    """
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(validation_data(lut))


def _title(data: ValidationData) -> str:
    figures = f"mean error {data.mean_error:.1%}, {data.within:.0%} within ±{data.tolerance:.0%}"
    return f"Predicted against measured: {data.name}\n{figures}, rank correlation {data.spearman:.3f}"


def _band(data: ValidationData) -> tuple[list[float], list[float], list[float]]:
    ends = list(data.range_ms)
    return ends, [ms * (1 - data.tolerance) for ms in ends], [ms * (1 + data.tolerance) for ms in ends]


def _groups(data: ValidationData) -> list[tuple[str, str, list[Prediction]]]:
    names = {True: f"within ±{data.tolerance:.0%}", False: "outside"}
    groups = [
        (names[within], _COLOURS[within], [point for point in data.predictions if point.within == within])
        for within in names
    ]
    return [group for group in groups if group[2]]


def _draw_matplotlib(data: ValidationData) -> Any:
    figure, axes = new_figure(width=5.4, height=5.4)
    tidy(axes)
    ends, low, high = _band(data)
    axes.fill_between(ends, low, high, color=GREY, alpha=0.25, linewidth=0, label=f"±{data.tolerance:.0%}")
    axes.plot(ends, ends, color=INK, linestyle=(0, (4, 3)), linewidth=1, label="predicted = measured")
    for name, colour, points in _groups(data):
        axes.scatter(*_xy(points), s=24, color=colour, linewidths=0, label=name, zorder=3)
    axes.set(xlim=data.range_ms, ylim=data.range_ms, aspect="equal", xlabel="measured (ms)", ylabel="predicted (ms)")
    figure.suptitle(_title(data), x=0.01, ha="left", color=INK, fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _draw_plotly(data: ValidationData) -> Any:
    objects = plotly_module("graph_objects")
    figure = objects.Figure()
    ends, low, high = _band(data)
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_trace(objects.Scatter(x=ends, y=low, showlegend=False, **edge))
    figure.add_trace(objects.Scatter(x=ends, y=high, fill="tonexty", name=f"±{data.tolerance:.0%}", **edge))
    line = {"color": INK, "dash": "dash", "width": 1}
    figure.add_trace(objects.Scatter(x=ends, y=ends, mode="lines", line=line, name="predicted = measured"))
    for name, colour, points in _groups(data):
        figure.add_trace(_trace(objects, name, colour, points))
    figure.update_xaxes(title_text="measured (ms)", range=data.range_ms)
    figure.update_yaxes(title_text="predicted (ms)", range=data.range_ms, scaleanchor="x")
    return plotly_layout(figure, title=_title(data).replace("\n", "<br>"))


def _trace(objects: Any, name: str, colour: str, points: list[Prediction]) -> Any:
    measured, predicted = _xy(points)
    text = [f"{point.label}: {point.error:+.1%}" for point in points]
    marker = {"color": colour, "size": 7}
    return objects.Scatter(x=measured, y=predicted, mode="markers", name=name, text=text, marker=marker)


def _xy(points: list[Prediction]) -> tuple[list[float], list[float]]:
    return [point.measured_ms for point in points], [point.predicted_ms for point in points]
