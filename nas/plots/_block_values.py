"""What each block is worth: the score that goes with it against the time that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nas.plots._rows import bounded, complete, parse
from nas.plots._style import (
    GREY,
    INK,
    KIND_COLOURS,
    KIND_NAMES,
    check_backend,
    new_figure,
    plotly_layout,
    plotly_module,
    say_empty,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nas.search import Evolution


class BlockValue(NamedTuple):
    """One block as it was judged.

    Attributes:
        place: where it is in the network.
        kind: "resnet" or "attention".
        lost: score that its removal costs; negative where the network got better without it.
        interval: the 95 % interval of `lost`, paired by prompt.
        saved_ms: predicted latency that its removal saves.
        kept: whether it is still in the network found.
    """

    place: str
    kind: str
    lost: float
    interval: tuple[float, float]
    saved_ms: float
    kept: bool

    @property
    def value(self) -> float:
        """Score per millisecond: what the search ranks by."""
        return self.lost / self.saved_ms


class BlockValueData(NamedTuple):
    """What `plot_block_values` draws: the blocks, the most valuable a millisecond first, and the round of judging."""

    blocks: tuple[BlockValue, ...]
    round: int


def block_value_data(result: Evolution, *, round: int = 0) -> BlockValueData:
    """Read the value of every block that could be removed in a round; round 0 judges them in the full network."""
    rows = complete(result.history)
    if not rows.empty:
        rows = rows[(rows["action"] == "remove") & (rows["round"] == round) & (rows["delta_ms"] < 0)]
    found = result.architecture
    blocks = [
        BlockValue(
            place=row.place,
            kind=row.place.rsplit(".", 2)[1],
            lost=-row.delta_score,
            interval=bounded(-row.delta_score, -row.delta_high, -row.delta_low),
            saved_ms=-row.delta_ms,
            kept=parse(found).runs(row.place) > 0,
        )
        for row in rows.itertuples()
    ]
    return BlockValueData(tuple(sorted(blocks, key=lambda block: (-block.value, block.place))), round)


def plot_block_values(
    result: Evolution, *, round: int = 0, backend: str = "matplotlib", score_label: str = "score"
) -> Any:
    """Draw what each block's removal costs in score and saves in time, the most valuable a millisecond on top.

    Args:
        result: what `nas.evolve` returned, or `nas.Evolution.load` read.
        round: the round whose judgements are drawn; round 0 starts from the full network.
        backend: "matplotlib" or "plotly"; each returns its own kind of figure.
        score_label: name of the score for the axis, for example "CLIP score".

    Raises:
        NasError: no such backend.
        MissingExtraError: plotly is asked for and not installed.
    """
    data = block_value_data(result, round=round)
    draw = _draw_matplotlib if check_backend(backend) == "matplotlib" else _draw_plotly
    return draw(data, score_label)


def _title(data: BlockValueData) -> str:
    where = "the full network" if data.round == 0 else f"round {data.round}"
    return f"What each block of {where} is worth, the most valuable a millisecond on top"


def _draw_matplotlib(data: BlockValueData, score_label: str) -> Any:
    height = 1.6 + 0.2 * max(len(data.blocks), 8)
    figure, (losses, savings) = new_figure(width=8.4, height=height, columns=2, sharey=True, width_ratios=(3, 2))
    figure.suptitle(_title(data), x=0.01, ha="left", color=INK, fontsize=11)
    for axes, label in ((losses, f"{score_label} lost without it"), (savings, "latency saved without it (ms)")):
        tidy(axes, grid="x")
        axes.set_xlabel(label)
    if not data.blocks:
        say_empty(losses, "no removal was judged in this round")
        return figure
    _bars(losses, data, [block.lost for block in data.blocks])
    _bars(savings, data, [block.saved_ms for block in data.blocks])
    _intervals(losses, data)
    losses.axvline(0, color=INK, linewidth=0.8)
    losses.set_yticks(range(len(data.blocks)), [block.place for block in data.blocks], fontsize=8)
    losses.set_ylim(len(data.blocks) - 0.4, -0.6)
    _legend(figure)
    return figure


def _bars(axes: Axes, data: BlockValueData, lengths: list[float]) -> None:
    colours = [KIND_COLOURS[block.kind] for block in data.blocks]
    bars = axes.barh(range(len(lengths)), lengths, height=0.72, color=colours, edgecolor=colours, linewidth=1)
    for bar, block in zip(bars, data.blocks, strict=True):
        if not block.kept:
            bar.set_facecolor("white")


def _intervals(axes: Axes, data: BlockValueData) -> None:
    below = [block.lost - block.interval[0] for block in data.blocks]
    above = [block.interval[1] - block.lost for block in data.blocks]
    lost = [block.lost for block in data.blocks]
    axes.errorbar(lost, range(len(lost)), xerr=[below, above], fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    kinds = [Patch(color=colour, label=KIND_NAMES[kind]) for kind, colour in KIND_COLOURS.items()]
    removed = Patch(facecolor="white", edgecolor=GREY, label="not in the network found")
    figure.legend(handles=[*kinds, removed], loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)


def _draw_plotly(data: BlockValueData, score_label: str) -> Any:
    subplots = plotly_module("subplots").make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=(0.6, 0.4))
    for kind, colour in KIND_COLOURS.items():
        blocks = [block for block in data.blocks if block.kind == kind]
        for column in (1, 2):
            subplots.add_trace(_plotly_bars(blocks, kind, colour, column), row=1, col=column)
    subplots.update_xaxes(title_text=f"{score_label} lost without it", row=1, col=1)
    subplots.update_xaxes(title_text="latency saved without it (ms)", row=1, col=2)
    order = [block.place for block in reversed(data.blocks)]
    subplots.update_yaxes(categoryorder="array", categoryarray=order, showticklabels=True, col=1)
    return plotly_layout(subplots, title=_title(data), barmode="overlay", height=160 + 18 * max(len(order), 8))


def _plotly_bars(blocks: list[BlockValue], kind: str, colour: str, column: int) -> Any:
    lengths = [block.lost if column == 1 else block.saved_ms for block in blocks]
    interval = {
        "type": "data",
        "array": [block.interval[1] - block.lost for block in blocks],
        "arrayminus": [block.lost - block.interval[0] for block in blocks],
        "visible": column == 1,
    }
    return plotly_module("graph_objects").Bar(
        x=lengths,
        y=[block.place for block in blocks],
        orientation="h",
        name=KIND_NAMES[kind],
        legendgroup=kind,
        showlegend=column == 1,
        marker={
            "color": [colour if block.kept else "white" for block in blocks],
            "line": {"color": colour, "width": 1},
        },
        text=["" if block.kept else "removed" for block in blocks] if column == 2 else None,
        error_x=interval,
    )
