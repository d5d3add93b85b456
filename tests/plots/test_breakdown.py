"""What the bar figure of a table says, and that both backends draw the same."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

import nas
from nas import LatencyTable, SearchSpace, Workload
from nas.errors import NasError
from nas.latency import Row, breakdown
from nas.plots import breakdown_data


@pytest.fixture
def lut(tiny_space: SearchSpace) -> LatencyTable:
    rng, workload = random.Random(0), Workload.of(tiny_space)
    names = {block.signature(workload) for block in tiny_space.blocks}
    rows = {name: Row(rng.uniform(1, 9), 0.1, 5) for name in sorted(names)}
    shortcuts = {block.shortcut_signature(workload) for block in tiny_space.blocks} - {None}
    rows |= {name: Row(0.1, 0.0, 5) for name in shortcuts}
    return LatencyTable(tiny_space, workload, rows, Row(7.5, 0.1, 5), {"device": "fake"})


def test_the_data_are_the_breakdowns(lut: LatencyTable) -> None:
    data = breakdown_data(lut)
    assert data.stages == ("down.0", "down.1", "down.2", "mid", "up.0", "up.1", "up.2", "base")
    expected = {(part.stage, part.kind): (part.latency_ms, part.parameters / 1e6) for part in breakdown(lut)}
    found = {
        (stage, bars.kind): (ms, millions)
        for bars in data.bars
        for stage, ms, millions in zip(data.stages, bars.latency_ms, bars.parameters, strict=True)
        if millions
    }
    assert found == expected
    total = sum(sum(bars.latency_ms) for bars in data.bars)
    assert total == pytest.approx(data.full_ms)
    assert data.full_ms == lut.latency_ms(lut.space.full)


def test_matplotlib_stacks_what_plotly_stacks(lut: LatencyTable) -> None:
    figure, twin = nas.plot_breakdown(lut), nas.plot_breakdown(lut, backend="plotly")
    drawn = [[bar.get_height() for bar in bars] for axes in figure.axes for bars in axes.containers]
    np.testing.assert_allclose(drawn, [trace.y for trace in twin.data])
    assert twin.layout.barmode == "stack"
    tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    sums = [sum(heights) for heights in zip(*drawn[:3], strict=True)]
    assert max(tops) == pytest.approx(max(sums))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_axes_carry_units(lut: LatencyTable) -> None:
    labels = [axes.get_ylabel() for axes in nas.plot_breakdown(lut).axes]
    assert labels == ["latency (ms)", "weights (M)"]


def test_unknown_backend_is_refused(lut: LatencyTable) -> None:
    with pytest.raises(NasError, match="choose matplotlib or plotly"):
        nas.plot_breakdown(lut, backend="gnuplot")
