from __future__ import annotations

import itertools
import random

import pytest
import torch

from nas.latency import Timing
from nas.latency._timing import Canary, measure, sample
from nas.latency.testing import FakeDevice


def test_a_steady_block_is_timed_exactly_and_briefly() -> None:
    row = sample(lambda: 4.0, Timing(min_seconds=0.2, sample_ms=20))
    assert (row.median_ms, row.spread_ms) == (4.0, 0.0)
    assert row.count * 4.0 == 200


def test_a_noisy_block_is_timed_until_its_median_is_settled() -> None:
    rng = random.Random(0)
    timing = Timing(max_seconds=1e9, max_repeats=10**6, target_error=0.005)
    calm = sample(lambda: rng.gauss(30, 0.3), timing)
    noisy = sample(lambda: rng.gauss(30, 3.0), timing)
    assert noisy.count > 10 * calm.count
    assert noisy.median_ms == pytest.approx(30, rel=4 * 0.005)
    assert noisy.spread_ms == pytest.approx(1.349 * 3.0, rel=0.2)


def test_the_time_is_limited_however_noisy_a_block_is() -> None:
    rng = random.Random(0)
    row = sample(lambda: rng.uniform(10, 1000), Timing(max_seconds=3.0))
    assert row.count * row.median_ms < 2 * 3000


@pytest.mark.parametrize(("time_ms", "samples"), [(2_500, 3), (4_000, 3), (20_000, 2)])
def test_slow_networks_are_timed_a_few_times_only(time_ms: float, samples: int) -> None:
    assert sample(lambda: time_ms, Timing(max_seconds=3.0)).count == samples


def test_hiccups_count_as_they_do_in_a_network() -> None:
    # One execution in ten takes ten times as long: the median of single executions would be 1.0, and that of a network
    # of a hundred blocks 190.
    times = itertools.cycle([1.0] * 9 + [10.0])
    assert sample(lambda: next(times), Timing(sample_ms=100)).median_ms == pytest.approx(1.9, rel=0.1)


def test_the_first_executions_are_not_counted() -> None:
    times = itertools.chain([1000.0] + [10.0] * 4, itertools.repeat(1.0))
    row = sample(lambda: next(times), Timing(warm_up_ms=1040))
    assert row.median_ms == 1.0


def test_what_was_measured_while_the_machine_was_slow_is_measured_again() -> None:
    # A canary reading takes 7 x 36.928 ms. The machine is slow from within the first measurement until after it.
    device = FakeDevice(speed=lambda clock: 1.5 if 600 < clock < 1200 else 1.0)
    canary = Canary(device, "fp32")
    canary.read_ms()
    runnable = device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32")
    timing = Timing(min_seconds=0.2, max_seconds=3.0, retries=3)
    measurement = measure(runnable, canary, timing)
    assert measurement.row.median_ms == pytest.approx(0.11)
    assert measurement.drift(canary.usual_ms) == 0.0


def test_drift_that_stays_is_recorded_with_its_sign() -> None:
    # Half of the readings are taken before it slows down, so that the usual time is still the old one.
    device = FakeDevice(speed=lambda clock: 1.2 if clock > 3000 else 1.0)
    canary = Canary(device, "fp32")
    while device.clock_ms < 3000:
        canary.read_ms()
    runnable = device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32")
    measurement = measure(runnable, canary, Timing(retries=1))
    assert measurement.against(canary.usual_ms).drift == pytest.approx(0.2)
