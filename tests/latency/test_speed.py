from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.latency._speed import Speed
from nas.latency._timing import Sample


def times_ms(speed: Speed, samples: list[Sample]) -> list[float]:
    return [sample.time_ms * speed.factor(sample) for sample in samples]


def measured(time_ms: float, slope: float, canaries_ms: list[float]) -> list[Sample]:
    """A module that takes so long while the canary takes 2 ms."""
    return [Sample(time_ms * (canary_ms / 2) ** slope, 1, canary_ms, 0.1) for canary_ms in canaries_ms]


@given(
    slope=st.floats(0, 1),
    times=st.lists(st.floats(0.01, 200), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_what_goes_along_with_the_canary_is_taken_back_exactly(slope: float, times: list[float], seed: int) -> None:
    rng = random.Random(seed)
    canaries = [[rng.uniform(1.6, 3.0) for _ in range(9)] for _ in times]
    speed = Speed.of([measured(time_ms, slope, found) for time_ms, found in zip(times, canaries, strict=True)])
    assert speed.canary_ms == pytest.approx(np.median(canaries))
    assert speed.sensitivity == pytest.approx(slope, abs=0.01)
    for time_ms, found in zip(times, canaries, strict=True):
        expected = time_ms * (speed.canary_ms / 2) ** slope
        assert times_ms(speed, measured(time_ms, slope, found)) == pytest.approx([expected] * 9, rel=0.01)


def test_the_slope_is_that_of_a_regression_with_a_line_for_each_module() -> None:
    rng = np.random.default_rng(0)
    modules, columns, logs = [], [], []
    for number in range(5):
        canary = rng.uniform(1.5, 4.0, 20)
        time = 10.0**number / 1000 * canary**0.6 * np.exp(rng.normal(0, 0.05, 20))
        modules.append([Sample(float(t), 1, float(c), 0.1) for t, c in zip(time, canary, strict=True)])
        columns.append(np.column_stack([np.log(canary), *(np.full(20, float(number == other)) for other in range(5))]))
        logs.append(np.log(time))
    slope = np.linalg.lstsq(np.vstack(columns), np.concatenate(logs), rcond=None)[0][0]
    assert Speed.of(modules).sensitivity == pytest.approx(slope, rel=0.01)


def test_a_canary_that_says_nothing_changes_nothing() -> None:
    rng = random.Random(0)
    samples = [Sample(10.0, 1, rng.uniform(1.0, 3.0), 0.1) for _ in range(50)]
    speed = Speed.of([samples])
    assert speed.sensitivity == pytest.approx(0, abs=0.01)
    assert times_ms(speed, samples) == pytest.approx([10.0] * 50, rel=0.01)


def test_what_was_measured_at_one_speed_each_is_as_slow_as_the_canary_unless_it_is_long() -> None:
    early, late = measured(5.0, 1.0, [2.0] * 4), measured(7.0, 1.0, [2.6] * 5)
    speed = Speed.of([early, late])
    assert speed.canary_ms == 2.6
    assert times_ms(speed, early) == pytest.approx([1.3 * 5.0] * 4)
    assert times_ms(speed, late) == pytest.approx([1.3 * 7.0] * 5)
    long = measured(5000.0, 0.0, [2.0] * 4)
    assert times_ms(Speed.of([long, late]), long) == [5000.0] * 4


def test_long_executions_have_a_slope_of_their_own() -> None:
    short, long = measured(5.0, 1.0, [1.5, 2.0, 3.0]), measured(5000.0, 0.3, [1.6, 2.2, 2.8])
    speed = Speed.of([short, long])
    assert (speed.sensitivity, speed.long_sensitivity) == pytest.approx((1.0, 0.3), abs=0.01)
    assert np.ptp(times_ms(speed, short)) < 0.05
    assert np.ptp(times_ms(speed, long)) < 50


def test_a_canary_that_was_interrupted_says_nothing_of_the_speed() -> None:
    samples = [*measured(5.0, 1.0, [1.6, 1.8, 2.0, 2.2, 2.4]), Sample(5.0, 1, 400.0, 0.1)]
    speed = Speed.of([samples])
    assert times_ms(speed, samples)[-1] > 0.45 * 5.0
    assert times_ms(Speed(2.0, sensitivity=1.0), samples)[-1] == pytest.approx(2.5)


@pytest.mark.parametrize(("asked", "found"), [(1.0, 1.55), (2.0, 2.0), (9.0, 2.45)])
def test_the_speed_is_one_that_the_machine_had(asked: float, found: float) -> None:
    samples = [Sample(1.0, 1, float(canary_ms), 0.1) for canary_ms in np.linspace(1.5, 2.5, 21)]
    speed = Speed.of([samples], asked)
    assert speed.canary_ms == pytest.approx(found)
    assert speed.drift == pytest.approx(found / asked - 1)
    assert Speed.of([samples]).canary_ms == pytest.approx(2.0)
    assert Speed.of([samples]).drift == 0
