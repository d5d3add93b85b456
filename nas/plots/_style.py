"""The look that all plots share. Colours are Okabe and Ito's, which people tell apart whatever their colour vision."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nas.errors import MissingExtraError, NasError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#A8ADB4", "#2B2F36"
SKY, PURPLE, AMBER = "#56B4E9", "#CC79A7", "#E69F00"
# For lines that have no colour of their own; with their markers, as there may be more lines than colours.
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, INK)
MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "X": "x"}
KIND_COLOURS = {"resnet": BLUE, "attention": ORANGE}
KIND_NAMES = {"resnet": "residual block", "attention": "attention block"}
BACKENDS = ("matplotlib", "plotly")


def new_figure(*, width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure that belongs to no global state, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def tidy(axes: Axes, *, grid: str = "both") -> None:
    """No frame, a faint grid behind the data, quiet ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(visible=True, axis=grid, color="#E6E8EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)


def say_empty(axes: Axes, message: str) -> None:
    """Say why there is nothing to see."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=GREY)


def plotly_module(name: str) -> Any:
    """A module of plotly, or the error that names the extra.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    try:
        return importlib.import_module(f"plotly.{name}")
    except ImportError as error:
        raise MissingExtraError("plotly is not installed; pip install 'nas[plotly]'") from error


def plotly_layout(figure: Any, **layout: Any) -> Any:
    """The same look for plotly."""
    figure.update_layout(template="plotly_white", font={"color": INK}, hovermode="closest", **layout)
    return figure


def check_backend(backend: str) -> str:
    """The backend's name, if there is one of that name.

    Raises:
        NasError: there is none.
    """
    if backend not in BACKENDS:
        raise NasError(f"there is no plotting backend {backend!r}; choose matplotlib or plotly")
    return backend
