from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.latency._speed import Pace, Speed
from nas.latency._timing import Sample

Visits = list[list[Sample]]


def times_ms(speed: Speed, visits: Visits) -> list[float]:
    samples = [sample for visit in visits for sample in visit]
    return [sample.time_ms * factor for sample, factor in zip(samples, speed.factors(visits), strict=True)]


def visited(time_ms: float, slope: float, canaries_ms: list[float]) -> Visits:
    """A module that takes so long while the canary takes 2 ms, visited at these speeds."""
    return [[Sample(time_ms * (canary_ms / 2) ** slope, 1, canary_ms, 0.1)] * 2 for canary_ms in canaries_ms]


@given(
    slope=st.floats(0, 1),
    times=st.lists(st.floats(0.01, 200), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_what_goes_along_with_the_canary_is_taken_back(slope: float, times: list[float], seed: int) -> None:
    rng = random.Random(seed)
    canaries = [[rng.uniform(1.6, 3.0) for _ in range(9)] for _ in times]
    speed = Speed.of([visited(time_ms, slope, found) for time_ms, found in zip(times, canaries, strict=True)])
    assert speed.canary_ms == speed.short.canary_ms == pytest.approx(np.median(canaries))
    assert speed.short.sensitivity == pytest.approx(slope, abs=0.01)
    for time_ms, found in zip(times, canaries, strict=True):
        expected = time_ms * (speed.canary_ms / 2) ** slope
        assert times_ms(speed, visited(time_ms, slope, found)) == pytest.approx([expected] * 18, rel=0.01)


def test_the_slope_is_that_of_a_regression_with_a_line_for_each_module() -> None:
    rng = np.random.default_rng(0)
    modules, columns, logs = [], [], []
    for number in range(5):
        canary = rng.uniform(1.6, 3.0, 20)
        time = 10.0**number / 1000 * canary**0.6 * np.exp(rng.normal(0, 0.05, 20))
        modules.append([[Sample(float(t), 1, float(c), 0.1)] for t, c in zip(time, canary, strict=True)])
        columns.append(np.column_stack([np.log(canary), *(np.full(20, float(number == other)) for other in range(5))]))
        logs.append(np.log(time))
    slope = np.linalg.lstsq(np.vstack(columns), np.concatenate(logs), rcond=None)[0][0]
    assert Speed.of(modules).short.sensitivity == pytest.approx(slope, rel=0.01)


def test_the_noise_of_single_samples_does_not_hide_how_visits_differ() -> None:
    """Each canary is off by a tenth; between visits the machine is slower by up to a half."""
    rng = np.random.default_rng(1)

    def module(time_ms: float) -> Visits:
        speeds = rng.uniform(1.0, 1.5, 4)
        canaries = 2 * speeds[:, None] * np.exp(rng.normal(0, 0.1, (4, 20)))
        return [[Sample(time_ms * s, 1, float(c), 0.1) for c in row] for s, row in zip(speeds, canaries, strict=True)]

    modules = [module(time_ms) for time_ms in np.geomspace(0.1, 100, 20)]
    assert Speed.of(modules).short.sensitivity == pytest.approx(1, abs=0.08)
    by_sample = [[[sample] for visit in visits for sample in visit] for visits in modules]
    assert Speed.of(by_sample).short.sensitivity < 0.75


def test_a_canary_that_says_nothing_changes_nothing() -> None:
    rng = random.Random(0)
    visits = [[Sample(10.0, 1, rng.uniform(1.0, 3.0), 0.1)] for _ in range(50)]
    speed = Speed.of([visits])
    assert speed.short.sensitivity == pytest.approx(0, abs=0.01)
    assert times_ms(speed, visits) == pytest.approx([10.0] * 50, rel=0.01)


def test_what_was_measured_at_one_speed_each_is_as_slow_as_the_canary_unless_it_is_long() -> None:
    early, late = visited(5.0, 1.0, [2.0] * 2), visited(7.0, 1.0, [2.6] * 3)
    speed = Speed.of([early, late])
    assert speed.canary_ms == 2.6
    assert times_ms(speed, early) == pytest.approx([1.3 * 5.0] * 4)
    assert times_ms(speed, late) == pytest.approx([1.3 * 7.0] * 6)
    long = visited(5000.0, 0.0, [2.0] * 4)
    assert times_ms(Speed.of([long, late]), long) == [5000.0] * 8


def test_long_executions_have_a_pace_of_their_own() -> None:
    # In a row, around a long one, the canary is faster; that is no reason to take the long one for slower.
    short, long = visited(5.0, 1.0, [1.8, 2.4, 3.6]), visited(5000.0, 0.3, [1.5, 2.0, 3.0])
    speed = Speed.of([short, long])
    assert (speed.short.sensitivity, speed.long.sensitivity) == pytest.approx((1.0, 0.3), abs=0.01)
    assert (speed.short.canary_ms, speed.long.canary_ms) == (2.4, 2.0)
    assert np.ptp(times_ms(speed, short)) < 0.05
    assert times_ms(speed, long) == pytest.approx([5000.0] * 6, rel=0.01)


def test_each_goes_along_as_far_as_what_takes_about_as_long() -> None:
    """As on a compiled runtime: calls of small blocks hardly slow down, whole networks more than the canary."""
    slopes = {0.1: 0.4, 0.15: 0.4, 5.0: 1.3, 7.0: 1.3}
    modules = {time_ms: visited(time_ms, slope, [1.6, 2.0, 2.6]) for time_ms, slope in slopes.items()}
    pace = Speed.of(modules.values()).short
    for time_ms, slope in slopes.items():
        assert pace.sensitivity_of(time_ms) == pytest.approx(slope, abs=0.02)
    assert pace.sensitivity == pytest.approx(0.85, abs=0.02)
    assert 0.4 < pace.sensitivity_of(0.8) < 1.3


def test_those_visited_at_one_speed_are_believed_to_be_like_their_likes() -> None:
    steady, moving = visited(6.0, 1.0, [2.5] * 4), visited(5.0, 0.5, [1.6, 2.0, 2.6])
    assert Speed.of([steady, moving]).short.sensitivity_of(6.0) == pytest.approx(0.5, abs=0.01)


def test_a_slope_that_no_machine_has_is_not_believed() -> None:
    assert Speed.of([visited(5.0, 3.0, [1.6, 2.0, 2.6])]).short.sensitivity == 2
    assert Speed.of([visited(5.0, -1.0, [1.6, 2.0, 2.6])]).short.sensitivity == 0


def test_a_module_is_long_or_short_as_a_whole() -> None:
    around = [[Sample(time_ms, 1, 2.0 * time_ms / 450, 0.5)] for time_ms in (430.0, 450.0, 470.0, 585.0)]
    speed = Speed.of([around])
    assert speed.long == Pace(1.0, 0.0)
    assert np.ptp(times_ms(speed, around)) < 2


def test_a_canary_that_was_interrupted_is_not_believed() -> None:
    visits = [*visited(5.0, 1.0, [1.8, 2.0, 2.2]), [Sample(5.0, 1, 400.0, 0.1)]]
    factors = Pace(2.0, 1.0).factors([visit[:1] for visit in visits])
    assert factors.tolist() == pytest.approx([2 / 1.8, 1.0, 2 / 2.2, 0.5])


def test_a_clock_that_shows_nothing_is_survived() -> None:
    speed = Speed.of([[[Sample(0.0, 1, 2.0, 0.1)], [Sample(1.0, 1, 2.0, 0.1)]]])
    assert 0 <= speed.short.sensitivity <= 2


def test_the_drift_is_against_what_was_expected() -> None:
    visits = [[Sample(1.0, 1, float(canary_ms), 0.1)] for canary_ms in np.linspace(1.5, 2.5, 21)]
    assert Speed.of([visits], 1.6).drift == pytest.approx(0.25)
    assert Speed.of([visits]).drift == 0
    assert Speed.of([visits]).spread_ms == pytest.approx(0.5)
