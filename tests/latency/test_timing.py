from __future__ import annotations

import itertools
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from nas.errors import NasError
from nas.latency import Timing
from nas.latency._canary import CANARY_WEIGHTS, bench_on
from nas.latency._row import Row
from nas.latency._speed import Pace, Speed
from nas.latency._timing import Sample, is_settled, row_of, visit
from nas.latency.testing import FakeDevice

STEADY = Speed(2.0, 0.0, Pace(2.0, 0.0), Pace(2.0, 0.0))
FOLLOWED = Speed(2.0, 0.0, Pace(2.0, 1.0), Pace(2.0, 1.0))
# At 1e-3 ms a weight.
CANARY_MS = CANARY_WEIGHTS / 1000


def steady() -> float:
    """A canary that always takes as long."""
    return 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("passes", 0), ("passes", 1.5), ("min_repeats", True), ("max_seconds", -1.0), ("target_error", float("nan"))],
)
def test_numbers_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(NasError, match=f"{name} is"):
        Timing(**{name: value})


def measured(device: FakeDevice, timing: Timing, loads: int, *, canary_ms: float | None = None) -> dict[str, Row]:
    loaders = {str(i): lambda: device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32") for i in range(loads)}
    return bench_on(device, "fp32", timing, canary_ms=canary_ms).measure_all(loaders, description="")


def test_a_steady_block_is_timed_exactly_and_briefly() -> None:
    samples = visit(lambda: 4.0, steady, Timing(min_seconds=0.2, sample_ms=20))
    assert {sample.time_ms for sample in samples} == {4.0}
    assert sum(sample.seconds for sample in samples) == pytest.approx(0.2, abs=0.03)


def test_the_time_spent_counts_whatever_a_device_says_an_execution_took(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 0.0

    def as_of_ten_instances() -> float:
        nonlocal spent
        spent += 0.25
        return 2.0

    monkeypatch.setattr("nas.latency._timing.perf_counter", lambda: spent)
    timing = Timing(min_seconds=1.0, max_seconds=2.0, sample_ms=0, warm_up_ms=0, target_error=0)
    samples = visit(as_of_ten_instances, lambda: 0.1, timing)
    assert [sample.seconds for sample in samples] == [0.25] * 4


def test_a_noisy_block_is_timed_until_its_median_is_settled() -> None:
    rng = random.Random(0)
    timing = Timing(max_seconds=1e9, max_repeats=10**6, target_error=0.005)
    calm = visit(lambda: rng.gauss(30, 0.3), steady, timing)
    noisy = visit(lambda: rng.gauss(30, 3.0), steady, timing)
    assert len(noisy) > 10 * len(calm)
    assert row_of([noisy], STEADY).latency_ms == pytest.approx(30, rel=4 * 0.005)


def test_the_time_is_limited_however_noisy_a_block_is() -> None:
    rng = random.Random(0)
    samples = visit(lambda: rng.uniform(10, 1000), steady, Timing(max_seconds=3.0))
    assert sum(sample.seconds for sample in samples) < 2 * 3


def test_two_samples_do_not_settle_anything() -> None:
    """Blocks of 0.6 s in passes of 1.5 s: one sample has no spread, and was taken for settled."""
    assert len(visit(lambda: 600.0, steady, Timing(max_seconds=3.0, passes=2).of_one_pass())) == 3


@pytest.mark.parametrize(
    ("time_ms", "passes", "samples"), [(2_500, 1, 2), (4_000, 1, 2), (20_000, 1, 2), (20_000, 2, 1), (2_500, 2, 1)]
)
def test_slow_networks_are_timed_a_few_times_only(time_ms: float, passes: int, samples: int) -> None:
    assert len(visit(lambda: time_ms, steady, Timing(max_seconds=3.0, passes=passes).of_one_pass())) == samples


def test_of_executions_that_take_seconds_the_lower_quartile_counts() -> None:
    samples = [Sample(time_ms, 1, 2.0, 5.0) for time_ms in (5000.0, 4000.0, 4400.0, 4100.0, 9000.0)]
    assert (row_of([samples], STEADY).latency_ms, row_of([samples], STEADY).count) == (4100, 5)
    short = [Sample(sample.time_ms / 10, 1, 2.0, 0.5) for sample in samples[:-1]]
    assert row_of([short], STEADY).latency_ms == 425
    # Each is taken back to one speed first.
    slower = [replace(sample, time_ms=1.5 * sample.time_ms, canary_ms=3.0) for sample in samples]
    assert row_of([slower], FOLLOWED).latency_ms == pytest.approx(4100)
    assert row_of([slower], STEADY).latency_ms == pytest.approx(1.5 * 4100)


def test_a_long_execution_need_not_be_undisturbed_as_a_whole() -> None:
    """Parts of 1, 2 and 3 s; in every execution another of them is disturbed, so no execution takes 6 s."""
    disturbed = [(1000.0, 2000.0, 4000.0), (1000.0, 3000.0, 3000.0), (2000.0, 2000.0, 3000.0)]
    turns = itertools.cycle(disturbed)
    timing = Timing(max_seconds=20.0, max_repeats=3, min_seconds=1e9)
    samples = visit(lambda: 7000.0, steady, timing, run_parts_ms=lambda: next(turns))
    # The first execution only warmed up.
    assert [sample.parts_ms for sample in samples] == disturbed[1:] + disturbed[:1]
    assert row_of([samples], STEADY).latency_ms == 6000
    assert row_of([[replace(sample, parts_ms=()) for sample in samples]], STEADY).latency_ms == 7000
    # One that was not taken in parts: then none is.
    assert row_of([samples, [Sample(6500.0, 1, 2.0, 6.5)]], STEADY).latency_ms == 6875


def test_short_executions_are_not_taken_in_parts() -> None:
    asked = []
    timing = Timing(min_seconds=0.2, sample_ms=20, warm_up_ms=0)
    samples = visit(lambda: 4.0, steady, timing, run_parts_ms=lambda: asked.append(1) or (40.0, 40.0))
    assert len(asked) == 1
    assert {(sample.time_ms, sample.parts_ms) for sample in samples} == {(4.0, ())}


def test_hiccups_count_as_they_do_in_a_network() -> None:
    # One execution in ten takes ten times as long: the median of single executions would be 1.0, and that of a network
    # of a hundred blocks 190.
    times = itertools.cycle([1.0] * 9 + [10.0])
    timing = Timing(sample_ms=300)
    assert row_of([visit(lambda: next(times), steady, timing)], STEADY).latency_ms == pytest.approx(1.9, rel=0.1)


def test_disturbances_that_the_canary_missed_do_not_count() -> None:
    times = itertools.cycle([100.0, 100.0, 130.0])
    timing = Timing(min_repeats=9, max_repeats=9)
    assert row_of([visit(lambda: next(times), steady, timing)], STEADY).latency_ms == 100.0


def test_the_canary_is_watched_for_longer_around_long_executions() -> None:
    order: list[str] = []
    samples = visit(lambda: order.append("block") or 4000.0, lambda: order.append("canary") or 2.0, Timing(passes=1))
    assert order.count("block") == len(samples) == 2
    assert order.count("canary") >= 3 * 40


def test_the_first_executions_are_not_counted() -> None:
    times = itertools.chain([1000.0] + [10.0] * 4, itertools.repeat(1.0))
    assert {sample.time_ms for sample in visit(lambda: next(times), steady, Timing(warm_up_ms=1040))} == {1.0}


def test_the_canary_goes_around_and_between_the_executions_that_count() -> None:
    order: list[str] = []

    def run_ms(name: str, time_ms: float) -> float:
        order.append(name)
        return time_ms

    timing = Timing(min_repeats=2, max_repeats=2, min_seconds=0, sample_ms=11, warm_up_ms=6)
    samples = visit(lambda: run_ms("block", 3.0), lambda: run_ms("canary", 2.0), timing)
    around = ["canary", "canary"]
    warm_up = [*around, "block", *around, "block"]
    assert order == warm_up + [*around, "block", "canary", "block", *around] * 2
    assert samples == [Sample(3.0, 2, 2.0, 0.016)] * 2


def test_samples_are_enough_when_they_agree_on_what_an_execution_takes_at_one_speed() -> None:
    samples = [Sample(0.5 * canary_ms, 1, canary_ms, 0.1) for canary_ms in (2.0, 2.2, 3.0, 2.6)]
    timing = Timing(target_error=0.01)
    assert is_settled([samples[:2], samples[2:]], FOLLOWED, timing)
    assert not is_settled([samples], STEADY, timing)
    assert not is_settled([samples[:1]], FOLLOWED, timing)


def test_rows_are_what_they_are_at_one_speed_whenever_they_were_measured() -> None:
    # Every block is measured at one speed only, as if a neighbour had come for good, but for one.
    device = FakeDevice(speed=lambda clock: 1.2 if clock > 70_000 else 1.0)
    rows = measured(device, Timing(extra_seconds=0, min_seconds=7.0, max_seconds=10.5), 12)
    times = [row.latency_ms for row in rows.values()]
    assert max(times) == pytest.approx(min(times), rel=0.01)
    assert {row.drift for row in rows.values()} == {0.0}


def test_the_drift_is_that_of_the_machine_in_the_middle() -> None:
    # Slower by a half for two fifths of the time.
    device = FakeDevice(speed=lambda clock: 1.0 + 0.5 * (clock % 50_000 > 30_000))
    (row,) = measured(device, Timing(min_seconds=200, max_seconds=200), 1, canary_ms=0.8 * CANARY_MS).values()
    assert row.latency_ms == pytest.approx(0.11, rel=0.01)
    assert row.drift == pytest.approx(0.25)


def test_what_is_not_settled_is_measured_again() -> None:
    def samples_of(extra_seconds: float) -> int:
        # Some instants are slower than others, for a block more than for the canary.
        device = FakeDevice(speed=lambda clock: 1 + (0.3 if clock * 7919 % 100 < 40 else 0))
        timing = Timing(max_repeats=3, min_seconds=0, sample_ms=0, extra_seconds=extra_seconds)
        return sum(row.count for row in measured(device, timing, 4).values())

    assert samples_of(60) > samples_of(0)


def test_measuring_again_ends_when_its_time_is_over() -> None:
    def clock_after(extra_seconds: float) -> float:
        device = FakeDevice(speed=lambda clock: 1 + clock * 7919 % 100 / 1000)
        timing = Timing(extra_seconds=extra_seconds, min_repeats=3, max_seconds=10.5, target_error=0)
        measured(device, timing, 8)
        return device.clock_ms

    # Warming up does not count, which with a canary thousands of times as slow as the block is almost half of a visit.
    assert 105_000 < clock_after(105) - clock_after(0) < 157_000


def test_the_spread_is_that_of_all_samples_that_count() -> None:
    rng = random.Random(0)
    timing = Timing(max_seconds=1e9, max_repeats=4000, target_error=0)
    row = row_of([visit(lambda: rng.gauss(30, 3.0), steady, timing)], STEADY)
    assert row.spread_ms == pytest.approx(1.349 * 3.0, rel=0.1)
    assert row.count == 4000


def test_the_time_is_shared_among_the_passes() -> None:
    whole = Timing(min_repeats=3, min_seconds=0.6, max_seconds=3.0, passes=2)
    assert whole.of_one_pass() == Timing(min_repeats=2, min_seconds=0.3, max_seconds=1.5, passes=1)


def test_what_all_else_depends_on_is_measured_at_both_ends_of_a_pass() -> None:
    order: list[str] = []
    device = FakeDevice()

    def load(name: str) -> object:
        order.append(name)
        return device.load(torch.nn.Linear(10, 10), (), {}, precision="fp32")

    loaders = {name: partial(load, name) for name in ("base", "row", "other row")}
    bench_on(device, "fp32", Timing(passes=2, extra_seconds=0)).measure_all(loaders, description="", twice={"base"})
    assert order == ["base", "row", "other row", "base", "base", "other row", "row", "base"]


def test_a_device_that_runs_many_for_one_time_is_not_warmed_up_many_times_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of whose executions, 62.5 ms each, the mean over the instances is given."""
    spent, runs = 0.0, 0

    def run_ms() -> float:
        nonlocal spent, runs
        spent, runs = spent + 0.0625, runs + 1
        return 1.0

    monkeypatch.setattr("nas.latency._timing.perf_counter", lambda: spent)
    timing = Timing(min_repeats=1, max_repeats=1, sample_ms=125, warm_up_ms=125, target_error=0)
    (sample,) = visit(run_ms, lambda: 0.1, timing)
    assert (runs, sample.runs) == (1 + 2 + 2, 2)
