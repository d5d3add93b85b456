from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from nas.errors import TableError
from nas.latency import FittedRows, fit_rows

SEEDS = st.integers(0, 2**32 - 1)
SharedData = Callable[[str], Path]


@given(SEEDS, st.integers(1, 12), st.integers(0, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_exact_sums_are_recovered(seed: int, rows: int, more: int, positive: bool) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (rows + 2 + more, rows))
    # By NumPy's own rank: only then do the networks determine every row.
    assume(np.linalg.matrix_rank(np.c_[np.ones(len(counts)), counts]) == rows + 1)
    assume(np.linalg.cond(np.c_[np.ones(len(counts)), counts]) < 1e4)
    rows_ms, base_ms = rng.uniform(0.01, 50, rows), rng.uniform(1, 100)
    fit = fit_rows(counts, base_ms + counts @ rows_ms, positive=positive)
    assert fit.identifiable.all()
    assert fit.rows_ms == pytest.approx(rows_ms, rel=1e-9, abs=1e-9)
    assert fit.base_ms == pytest.approx(base_ms, rel=1e-9, abs=1e-9)
    assert fit.stderr_ms.max() < 1e-9
    assert fit.r2 == pytest.approx(1)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_one_option_a_layer_determines_predictions_but_no_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, options = 4, 3
    choices = rng.integers(0, options, (80, layers))
    counts = np.eye(options)[choices].reshape(80, -1)
    assume((counts.sum(axis=0) > 0).all())
    rows_ms = rng.uniform(1, 9, layers * options)
    latencies_ms = 5 + counts @ rows_ms
    fit = fit_rows(counts[:60], latencies_ms[:60])
    assert not fit.identifiable.any()
    assert fit.predict_ms(counts) == pytest.approx(latencies_ms, rel=1e-9)
    # The solution of least norm is the one in which each layer's rows sum to 0, and it tells their differences.
    by_layer = rows_ms.reshape(layers, options)
    assert fit.rows_ms.reshape(layers, options) == pytest.approx(by_layer - by_layer.mean(axis=1, keepdims=True))
    assert fit.usable


def test_what_cannot_be_told_is_named() -> None:
    rng = np.random.default_rng(0)
    free, together, always = rng.integers(0, 3, 40), rng.integers(0, 3, 40), np.full(40, 2)
    counts = np.stack([free, together, together, always], axis=1)
    fit = fit_rows(counts, 4 + counts @ [1.0, 2.0, 3.0, 5.0] + rng.normal(0, 0.01, 40))
    assert fit.identifiable.tolist() == [True, False, False, False]
    assert np.isfinite(fit.stderr_ms).tolist() == [True, True, True, False]
    assert fit.rows_ms == pytest.approx([1, 2.5, 2.5, 0], abs=0.02)
    assert fit.base_ms == pytest.approx(14, abs=0.02)


def test_standard_errors_are_as_large_as_the_errors() -> None:
    rng, rows_ms = np.random.default_rng(1), np.array([1.0, 3.0, 0.5, 7.0])
    counts = rng.integers(0, 3, (60, 4))
    scores = []
    for _ in range(200):
        fit = fit_rows(counts, 20 + counts @ rows_ms + rng.normal(0, 0.3, 60))
        scores += [*((fit.rows_ms - rows_ms) / fit.stderr_ms), (fit.base_ms - 20) / fit.base_stderr_ms]
    assert np.std(scores) == pytest.approx(1, abs=0.1)


def test_standard_errors_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 3, (30, 3))
    latencies_ms = 10 + counts @ [1.0, 2.0, 3.0] + rng.normal(0, 0.2, 30)
    fit, design = fit_rows(counts, latencies_ms), np.c_[np.ones(30), counts]
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ latencies_ms
    variance = ((latencies_ms - design @ beta) ** 2).sum() / (30 - 4)
    assert [fit.base_ms, *fit.rows_ms] == pytest.approx(beta)
    assert [fit.base_stderr_ms, *fit.stderr_ms] == pytest.approx(np.sqrt(variance * np.diag(inverse)))


def test_held_out_predictions_do_not_know_the_network() -> None:
    # Each network measured three times, all wrong by the same: who predicts itself would be right.
    rng = np.random.default_rng(3)
    counts = np.repeat(rng.integers(0, 2, (12, 8)), 3, axis=0)
    latencies_ms = np.repeat(rng.uniform(5, 50, len(np.unique(counts, axis=0))), 3)
    counts = np.repeat(np.unique(counts, axis=0), 3, axis=0)
    fit = fit_rows(counts, latencies_ms)
    before = fit.held_out_ms.reshape(-1, 3)
    assert np.ptp(before, axis=1) == pytest.approx(0, abs=1e-9)
    assert fit.mean_error > 3 * np.abs(fit.predict_ms(counts) / latencies_ms - 1).mean()
    assert not fit.usable


def test_rows_can_be_kept_from_falling_below_0() -> None:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 2, (40, 6))
    latencies_ms = 10 + counts @ [0.0, 0.0, 0.0, 5.0, 6.0, 7.0] + rng.normal(0, 0.5, 40)
    free, bound = fit_rows(counts, latencies_ms), fit_rows(counts, latencies_ms, positive=True)
    assert free.rows_ms.min() < 0
    assert bound.rows_ms.min() == 0
    assert bound.predict_ms(counts).mean() == pytest.approx(latencies_ms.mean())
    assert bound.usable


def test_equal_latencies_rank_nothing() -> None:
    fit = fit_rows(np.random.default_rng(5).integers(0, 2, (30, 3)), np.full(30, 4.0))
    assert (fit.usable, fit.spearman, fit.r2) == (False, 0.0, 0.0)
    assert "Spearman correlation of 0.000" in fit.reason
    assert "are within" not in fit.reason


@pytest.mark.parametrize(
    ("counts", "latencies_ms", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "shape"),
        (np.ones((0, 2)), [], "shape"),
        (np.ones((3, 0)), [1, 2, 3], "shape"),
        ([[1, 2], [3]], [1, 2], "counts"),
        ([["many"], ["few"]], [1, 2], "counts"),
        (None, [1, 2], "counts"),
        ([[1], [-1], [0], [2]], [1, 2, 3, 4], r"counts\[1, 0\] is negative"),
        ([[1], [np.nan], [0], [2]], [1, 2, 3, 4], r"counts\[1, 0\] is not a finite"),
        ([[1], [0], [0], [2]], [1, 2, 3], "4 networks but latencies_ms has 3"),
        ([[1], [0], [0], [2]], [[1, 2, 3, 4]], "latencies_ms has the shape"),
        ([[1], [0], [0], [2]], [1, 2, -3, 4], r"latencies_ms\[2\] is -3"),
        ([[1], [0], [0], [2]], [1, 2, 0, 4], r"latencies_ms\[2\] is 0"),
        ([[1], [0], [0], [2]], [1, 2, np.inf, 4], r"latencies_ms\[2\] is not a finite"),
        ([[1, 0], [0, 1], [1, 1]], [1, 2, 3], "3 networks are too few for 2 rows"),
        ([[1], [1], [1]], [1, 2, 3], "all 3 networks have the same counts"),
    ],
)
def test_nonsense_is_refused(counts: Any, latencies_ms: Any, message: str) -> None:
    with pytest.raises(TableError, match=message):
        fit_rows(counts, latencies_ms)


def test_predictions_need_a_count_for_each_row() -> None:
    fit = fit_rows([[0], [1], [2], [3]], [1, 2, 3, 4])
    with pytest.raises(TableError, match="2 columns"):
        fit.predict_ms([[1, 2]])


# Real devices.


def on_real(shared_data: SharedData, device: str) -> tuple[FittedRows, np.ndarray, np.ndarray]:
    """A fit to 900 networks, and predicted and measured latencies of 4,100 others."""
    data = np.load(shared_data("latency_help/fbnet_latency.npz"), allow_pickle=False)
    counts = np.eye(len(data["op_names"]))[data["arch"]].reshape(len(data["arch"]), -1)
    latencies_ms = data[f"lat_{device}"]
    fit = fit_rows(counts[:900], latencies_ms[:900])
    return fit, fit.predict_ms(counts[900:]), latencies_ms[900:]


@pytest.mark.parametrize("device", ["raspi4", "pixel3"])
def test_devices_that_add_up_are_recovered(shared_data: SharedData, device: str) -> None:
    fit, predicted_ms, measured_ms = on_real(shared_data, device)
    assert predicted_ms == pytest.approx(measured_ms, rel=1e-9)
    assert fit.usable
    assert fit.mean_error < 1e-9
    assert not fit.identifiable.any()


def mean_error(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> float:
    return float(np.abs(predicted_ms / measured_ms - 1).mean())


def test_a_gpu_with_large_batches_nearly_adds_up(shared_data: SharedData) -> None:
    fit, predicted_ms, measured_ms = on_real(shared_data, "titan_rtx_64")
    assert mean_error(predicted_ms, measured_ms) < 0.005
    assert fit.usable
    assert fit.r2 > 0.99


def test_a_gpu_with_batch_1_is_reported_as_it_is(shared_data: SharedData) -> None:
    fit, predicted_ms, measured_ms = on_real(shared_data, "1080ti_1")
    assert mean_error(predicted_ms, measured_ms) == pytest.approx(0.018, abs=0.002)
    # What cross-validation says in advance is what then happens.
    assert fit.mean_error == pytest.approx(mean_error(predicted_ms, measured_ms), abs=0.002)
    assert fit.spearman == pytest.approx(spearmanr(predicted_ms, measured_ms).statistic, abs=0.02)
    assert f"mean error is {fit.mean_error:.2%}" in fit.reason


def test_a_noisy_phone_is_not_usable_and_says_why(shared_data: SharedData) -> None:
    fit, predicted_ms, measured_ms = on_real(shared_data, "pixel2")
    assert mean_error(predicted_ms, measured_ms) == pytest.approx(0.089, abs=0.005)
    assert spearmanr(predicted_ms, measured_ms).statistic == pytest.approx(0.78, abs=0.02)
    assert fit.mean_error == pytest.approx(mean_error(predicted_ms, measured_ms), abs=0.01)
    assert not fit.usable
    assert f"{fit.within_10:.1%} of 900 networks" in fit.reason
    assert f"Spearman correlation of {fit.spearman:.3f}" in fit.reason
