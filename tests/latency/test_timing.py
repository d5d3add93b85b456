from __future__ import annotations

import itertools
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from nas.errors import NasError
from nas.latency import Timing
from nas.latency._canary import CANARY_WEIGHTS, bench_on, canary_on
from nas.latency._row import Row
from nas.latency._timing import Canary, Sample, is_settled, row_of, undisturbed, visit
from nas.latency.testing import FakeDevice

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
    # The median of the faster half is the lower quartile, 0.674 sigma below the mean.
    assert row_of(noisy, 2.0, timing).latency_ms == pytest.approx(30 - 0.674 * 3, rel=4 * 0.005)


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


def test_of_executions_that_take_seconds_all_samples_count() -> None:
    # The canary was slow for the instants at which it was looked at.
    samples = [Sample(time_ms, 1, canary_ms, 5.0) for time_ms, canary_ms in ((4000, 4.0), (4100, 2.0), (5000, 2.0))]
    timing = Timing(max_drift=0.05)
    assert is_settled(samples[:2], 2.0, timing)
    row = row_of(samples, 2.0, timing)
    assert (row.latency_ms, row.count) == (4050, 3)
    short = [Sample(s.time_ms / 10, 1, s.canary_ms, 0.5) for s in samples]
    assert row_of(short, 2.0, timing).latency_ms == 410


def test_a_long_execution_need_not_be_undisturbed_as_a_whole() -> None:
    """Parts of 1, 2 and 3 s; in every execution another of them is disturbed, so no execution takes 6 s."""
    disturbed = [(1000.0, 2000.0, 4000.0), (1000.0, 3000.0, 3000.0), (2000.0, 2000.0, 3000.0)]
    turns = itertools.cycle(disturbed)
    timing = Timing(max_seconds=20.0, max_repeats=3, min_seconds=1e9)
    samples = visit(lambda: 7000.0, steady, timing, run_parts_ms=lambda: next(turns))
    # The first execution only warmed up.
    assert [sample.parts_ms for sample in samples] == disturbed[1:] + disturbed[:1]
    assert row_of(samples, 2.0, timing).latency_ms == 6000
    assert row_of([replace(sample, parts_ms=()) for sample in samples], 2.0, timing).latency_ms == 7000
    # One that was not taken in parts: then none is.
    assert row_of([*samples, Sample(6500.0, 1, 2.0, 6.5)], 2.0, timing).latency_ms == 6750


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
    assert row_of(visit(lambda: next(times), steady, timing), 2.0, timing).latency_ms == pytest.approx(1.9, rel=0.1)


def test_disturbances_that_the_canary_missed_do_not_count() -> None:
    times = itertools.cycle([100.0, 100.0, 130.0])
    timing = Timing(min_repeats=9, max_repeats=9)
    assert row_of(visit(lambda: next(times), steady, timing), 2.0, timing).latency_ms == 100.0


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


def test_samples_count_where_the_canary_took_its_usual_time() -> None:
    slow = [Sample(1.5, 1, 3.0, 0.1) for _ in range(5)]
    calm = [Sample(1.0, 1, 2.0, 0.1) for _ in range(4)]
    timing = Timing(min_repeats=4)
    assert undisturbed(slow + calm, 2.0, timing) == calm
    assert is_settled(slow + calm, 2.0, timing)
    assert row_of(slow + calm, 2.0, timing) == Row(1.0, 0.0, 4, 0.0)


def test_where_too_few_count_those_that_come_nearest_are_taken_and_the_drift_is_told() -> None:
    samples = [Sample(time_ms, 1, 2.0 * time_ms, 0.1) for time_ms in (1.0, 1.1, 1.2, 1.3, 1.4)]
    timing = Timing(min_repeats=3)
    assert not is_settled(samples, 2.0, timing)
    row = row_of(samples, 2.0, timing)
    assert (row.latency_ms, row.count) == (1.05, 3)
    assert row.drift == pytest.approx(0.1)


@pytest.mark.parametrize("calm", [20, 60])
def test_the_usual_time_is_that_of_an_undisturbed_machine(calm: int) -> None:
    # Disturbed in all kinds of ways for the rest of the time, and lucky for an instant.
    rng = random.Random(0)
    times = [rng.gauss(2.0, 0.02) for _ in range(calm)] + [rng.uniform(2.2, 4.0) for _ in range(98 - calm)] + [1.2, 1.3]
    canary = Canary(canary_on(FakeDevice(), "fp32"))
    assert canary.usual_ms([Sample(1.0, 1, time_ms, 0.1) for time_ms in times], 0.05) == pytest.approx(2.0, rel=0.03)


def test_a_reference_replaces_what_the_machine_mostly_does() -> None:
    canary = Canary(canary_on(FakeDevice(), "fp32"), reference_ms=200.0)
    assert canary.usual_ms([Sample(1.0, 1, CANARY_MS, 1.0)], 0.05) == 200.0
    (row,) = measured(FakeDevice(), Timing(extra_seconds=0), 1, canary_ms=200.0).values()
    assert row.drift == pytest.approx(CANARY_MS / 200 - 1)


def test_what_was_measured_while_the_machine_was_slow_is_measured_again() -> None:
    # It is slow during the whole of the first visit to the first three blocks.
    device = FakeDevice(speed=lambda clock: 1.5 if 600 < clock < 12_000 else 1.0)
    rows = measured(device, Timing(min_seconds=2.0, max_seconds=3.0), 12)
    assert {round(row.latency_ms, 6) for row in rows.values()} == {0.11}
    assert {row.drift for row in rows.values()} == {0.0}


def test_drift_that_stays_is_recorded_with_its_sign() -> None:
    device = FakeDevice(speed=lambda clock: 1.2 if clock > 70_000 else 1.0)
    rows = measured(device, Timing(extra_seconds=0, min_seconds=7.0, max_seconds=10.5), 12)
    assert sorted({round(row.drift, 3) for row in rows.values()}) == [0.0, 0.2]


def test_measuring_again_ends_when_its_time_is_over() -> None:
    def clock_after(extra_seconds: float) -> float:
        device = FakeDevice(speed=lambda clock: 1.2)
        timing = Timing(extra_seconds=extra_seconds, min_repeats=3, max_seconds=10.5)
        measured(device, timing, 8, canary_ms=CANARY_MS)
        return device.clock_ms

    # Warming up does not count, which with a canary thousands of times as slow as the block is almost half of a visit.
    assert 105_000 < clock_after(105) - clock_after(0) < 157_000


def test_the_spread_is_that_of_all_samples_that_count() -> None:
    rng = random.Random(0)
    timing = Timing(max_seconds=1e9, max_repeats=4000, target_error=0)
    row = row_of(visit(lambda: rng.gauss(30, 3.0), steady, timing), 2.0, timing)
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
    bench_on(device, "fp32", Timing(passes=2)).measure_all(loaders, description="", twice={"base"})
    assert order == ["base", "row", "other row", "base", "base", "other row", "row", "base"]


def test_of_many_samples_the_nearest_tenth_is_taken_where_too_few_count() -> None:
    # One of forty was taken at the usual speed, and says little by itself.
    samples = [Sample(1.0 + n / 100, 1, 2.0 + n / 10, 0.1) for n in range(2, 41)] + [Sample(1.5, 1, 2.0, 0.1)]
    row = row_of(samples, 2.0, Timing(min_repeats=1))
    assert row.count == 4
    assert row.latency_ms == 1.025


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
