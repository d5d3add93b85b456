"""What the figure of a table's validation says, and that both backends draw the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import stats

import nas
from nas import LatencyTable, SearchSpace, Workload
from nas.errors import NasError, TableError
from nas.latency import Pair, Row, Validation
from nas.plots import validation_data

# Predicted and measured in ms: exact, 8 % too low, 20 % too high, and the end of the band, 10 % too high.
TIMES = [(30.0, 30.0), (23.0, 25.0), (48.0, 40.0), (22.0, 20.0)]


@pytest.fixture
def lut(tiny_space: SearchSpace) -> LatencyTable:
    workload = Workload.of(tiny_space)
    rows = {block.signature(workload): Row(2.0, 0.1, 5) for block in tiny_space.blocks}
    shortcuts = {block.shortcut_signature(workload) for block in tiny_space.blocks} - {None}
    rows |= {name: Row(0.1, 0.0, 5) for name in shortcuts}
    networks = [str(tiny_space.full.remove(block)) for block in tiny_space.blocks[: len(TIMES)]]
    pairs = tuple(Pair(network, *times) for network, times in zip(networks, TIMES, strict=True))
    table = LatencyTable(tiny_space, workload, rows, Row(7.5, 0.1, 5), {"device": "fake"})
    table.validation = Validation(pairs)
    return table


def test_the_data_are_the_validations(lut: LatencyTable) -> None:
    data = validation_data(lut)
    assert [(point.predicted_ms, point.measured_ms) for point in data.predictions] == TIMES
    assert [point.error for point in data.predictions] == pytest.approx([0, -0.08, 0.2, 0.1])
    assert [point.within for point in data.predictions[:3]] == [True, True, False]
    assert {point.label for point in data.predictions} == {"1 block removed"}
    assert data.mean_error == pytest.approx(0.38 / 4)
    assert data.within == pytest.approx(np.mean([point.within for point in data.predictions]))
    assert data.spearman == pytest.approx(stats.spearmanr(*np.transpose(TIMES)).statistic)
    assert data.range_ms[0] < 20
    assert data.range_ms[1] > 48


def test_matplotlib_draws_what_plotly_draws(lut: LatencyTable) -> None:
    figure, twin = nas.plot_validation(lut), nas.plot_validation(lut, backend="plotly")
    (axes,) = figure.axes
    dots = [np.asarray(dots.get_offsets()) for dots in axes.collections[1:]]
    traces = [trace for trace in twin.data if trace.mode == "markers"]
    assert [len(group) for group in dots] == [len(trace.x) for trace in traces]
    for group, trace in zip(dots, traces, strict=True):
        np.testing.assert_allclose(group, np.transpose([trace.x, trace.y]))
    assert sorted(ms for _, ms in np.concatenate(dots)) == sorted(ms for ms, _ in TIMES)
    low, high = twin.data[:2]
    np.testing.assert_allclose(np.divide(low.y, low.x), 0.9)
    np.testing.assert_allclose(np.divide(high.y, high.x), 1.1)
    band = axes.collections[0].get_paths()[0].vertices
    ratios = band[:, 1] / band[:, 0]
    assert (ratios.min(), ratios.max()) == pytest.approx((0.9, 1.1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_axes_carry_units_and_the_title_the_errors(lut: LatencyTable) -> None:
    figure = nas.plot_validation(lut)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("measured (ms)", "predicted (ms)")
    title = figure.get_suptitle()
    assert "tiny on fake" in title
    assert "mean error 9.5%" in title


def test_one_network_is_enough(lut: LatencyTable) -> None:
    lut.validation = Validation(lut.validation.pairs[:1])
    figure = nas.plot_validation(lut)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "±10%",
        "predicted = measured",
        "within ±10%",
    ]


def test_a_table_without_validation_is_refused(lut: LatencyTable) -> None:
    lut.validation = None
    with pytest.raises(TableError, match="not validated"):
        nas.plot_validation(lut)


def test_unknown_backend_is_refused(lut: LatencyTable) -> None:
    with pytest.raises(NasError, match="choose matplotlib or plotly"):
        nas.plot_validation(lut, backend="gnuplot")
