from __future__ import annotations

import itertools
import random

import pytest
import torch

from nas.latency import Timing
from nas.latency._bench import Bench
from nas.latency._timing import Canary, Samples, measure, row_of, sample
from nas.latency.testing import FakeDevice


def test_a_steady_block_is_timed_exactly_and_briefly() -> None:
    samples = sample(lambda: 4.0, Timing(min_seconds=0.2, sample_ms=20))
    assert set(samples.times_ms) == {4.0}
    assert samples.runs * 4.0 == 200


def test_a_noisy_block_is_timed_until_its_median_is_settled() -> None:
    rng = random.Random(0)
    timing = Timing(max_seconds=1e9, max_repeats=10**6, target_error=0.005)
    calm = sample(lambda: rng.gauss(30, 0.3), timing)
    noisy = sample(lambda: rng.gauss(30, 3.0), timing)
    assert noisy.runs > 10 * calm.runs
    assert noisy.median_ms == pytest.approx(30, rel=4 * 0.005)


def test_the_time_is_limited_however_noisy_a_block_is() -> None:
    rng = random.Random(0)
    samples = sample(lambda: rng.uniform(10, 1000), Timing(max_seconds=3.0))
    assert samples.runs * samples.median_ms < 2 * 3000


@pytest.mark.parametrize(("time_ms", "samples"), [(2_500, 3), (4_000, 3), (20_000, 2)])
def test_slow_networks_are_timed_a_few_times_only(time_ms: float, samples: int) -> None:
    assert sample(lambda: time_ms, Timing(max_seconds=3.0)).runs == samples


def test_hiccups_count_as_they_do_in_a_network() -> None:
    # One execution in ten takes ten times as long: the median of single executions would be 1.0, and that of a network
    # of a hundred blocks 190.
    times = itertools.cycle([1.0] * 9 + [10.0])
    assert sample(lambda: next(times), Timing(sample_ms=100)).median_ms == pytest.approx(1.9, rel=0.1)


def test_the_first_executions_are_not_counted() -> None:
    times = itertools.chain([1000.0] + [10.0] * 4, itertools.repeat(1.0))
    assert sample(lambda: next(times), Timing(warm_up_ms=1040)).median_ms == 1.0


def test_what_was_measured_while_the_machine_was_slow_is_measured_again() -> None:
    # A canary reading takes 173.8 ms. The machine is slow from within the first measurement until after it.
    device = FakeDevice(speed=lambda clock: 1.5 if 600 < clock < 1400 else 1.0)
    canary = Canary(device, "fp32", repeats=1)
    canary.read_ms()
    runnable = device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32")
    timing = Timing(min_seconds=0.2, max_seconds=3.0, retries=3)
    row = row_of(measure(runnable, canary, timing), canary, timing)
    assert row.median_ms == pytest.approx(0.11)
    assert row.drift == 0.0


def test_drift_that_stays_is_recorded_with_its_sign() -> None:
    # Half of the readings are taken before it slows down, so that the usual time is still the old one.
    device = FakeDevice(speed=lambda clock: 1.2 if clock > 3000 else 1.0)
    canary = Canary(device, "fp32", repeats=1)
    while device.clock_ms < 3000:
        canary.read_ms()
    runnable = device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32")
    timing = Timing(retries=1)
    assert row_of(measure(runnable, canary, timing), canary, timing).drift == pytest.approx(0.2)


def test_passes_there_and_back_take_a_steady_change_of_the_machine_out_of_the_rows() -> None:
    # It slows down so slowly that two readings of the canary in a row are alike.
    def difference(passes: int) -> float:
        device = FakeDevice(speed=lambda clock: 1 + clock / 1e7)
        bench = Bench(device, "fp32", Timing(passes=passes, max_drift=1.0))
        loaders = {str(i): lambda: device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32") for i in range(40)}
        rows = [row.median_ms for row in bench.measure_all(loaders, description="").values()]
        return max(rows) / min(rows) - 1

    assert difference(passes=1) > 0.02
    assert difference(passes=2) < 0.002


def test_the_canary_goes_before_every_execution_that_counts() -> None:
    order: list[str] = []

    def run_ms(name: str, time_ms: float) -> float:
        order.append(name)
        return time_ms

    timing = Timing(min_repeats=2, min_seconds=0, sample_ms=10, warm_up_ms=6)
    samples = sample(lambda: run_ms("block", 3.0), timing, before=lambda: run_ms("canary", 2.0))
    assert order == ["block"] * 2 + ["canary", "block"] * 4
    assert samples == Samples((3.0, 3.0), 4)


def test_a_reference_replaces_what_the_machine_mostly_does() -> None:
    canary = Canary(FakeDevice(), "fp32", reference_ms=200.0)
    assert canary.read_ms() == pytest.approx(173.824)
    assert canary.usual_ms == 200.0


def test_the_spread_is_that_of_all_samples() -> None:
    rng = random.Random(0)
    canary = Canary(FakeDevice(), "fp32")
    timing = Timing(max_seconds=1e9, max_repeats=4000, target_error=0)

    class Noisy:
        def run_ms(self) -> float:
            return rng.gauss(30, 3.0)

    row = row_of(measure(Noisy(), canary, timing), canary, timing)
    assert row.spread_ms == pytest.approx(1.349 * 3.0, rel=0.1)
    assert row.count == 4000


def test_the_time_is_shared_among_the_passes() -> None:
    whole = Timing(min_seconds=0.6, max_seconds=3.0, passes=2)
    assert whole.of_one_pass() == Timing(min_seconds=0.3, max_seconds=1.5, passes=1)
