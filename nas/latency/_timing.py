"""The measuring loop that all devices share: warm up, repeat until the median is settled, watch the canary.

Before each timed execution the canary is executed: in a network a block never follows itself, and in a loop of its own
it is faster than where caches and predictors are another's.

What was measured at different speeds of the machine is taken back to one, see `_speed`; the median of that counts. Of
executions that take long the lower quartile does; where a device can say what their consecutive parts took, of each.

A sample is the mean over as many executions as fill `sample_ms`: a network's forward pass averages over the short
hiccups of a machine, and so must the samples of a block that is a hundred times shorter, or their median would leave
out what the network's latency contains.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from time import perf_counter

import numpy as np

from nas.errors import NasError
from nas.latency._row import Row
from nas.latency._speed import LONG_MS, Speed, Visited, is_long

# The standard error of a median is 1.2533 sigma / sqrt(n), and a normal distribution's interquartile range 1.349 sigma.
_ERROR_OF_MEDIAN = 1.2533 / 1.349
# In ms a nanosecond is the sixth decimal; more would be noise in the files.
_DECIMALS = 6
# Executions of the canary before and after those of a sample: at least so many, and more around long ones, where two
# would be a glance.
_AROUND, _SHARE_AROUND = 2, 0.02
# What is visited again, after all passes, has this many times the error that a visit aims at.
_WELL_ENOUGH = 2.0
# Fewer samples say nothing of how far they scatter.
_FEWEST_TO_SETTLE = 3
# After this many times `max_seconds` large networks have two samples at least, and are not waited for any longer.
_PATIENCE = 4


@dataclass(frozen=True)
class Timing:
    """How long to measure. The defaults build Stable Diffusion v1.5's table on two slow cores in a few minutes.

    Attributes:
        min_repeats: samples taken at least, all passes together (two a visit will do once they took four times
            `max_seconds`).
        max_repeats: samples taken at most.
        min_seconds: time spent at least, all passes together.
        max_seconds: time after which no further sample is taken, all passes together.
        target_error: standard error of the median, as a fraction of it, at which it counts as settled.
        sample_ms: executions are averaged until they fill this time, the canary before each included; by the device's
            clock or the wall's, whichever says so first.
        warm_up_ms: executions before the first sample of a visit, at least one, by the same clocks; of what takes
            `max_seconds` itself the first execution counts.
        extra_seconds: time for visiting again, after all passes, what is not settled when it is taken back to one speed
            of the machine, to twice `target_error`. It is for everything together that is measured in one go; loading
            does not count.
        passes: how often everything is measured in turn, there and back, the time divided among them; when None as
            often as making the modules anew is cheap.

    Raises:
        NasError: a number makes no sense.
    """

    min_repeats: int = 2
    max_repeats: int = 1000
    min_seconds: float = 0.6
    max_seconds: float = 3.0
    target_error: float = 0.005
    sample_ms: float = 20.0
    warm_up_ms: float = 50.0
    extra_seconds: float = 60.0
    passes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), "int" in field.type
            if field.name == "passes" and value is None:
                continue
            kind = int if whole else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= whole:  # NaN as well
                least = "whole number of at least 1" if whole else "number of at least 0"
                raise NasError(f"{field.name} is {value!r}; it must be a {least}")

    def of_one_pass(self) -> Timing:
        """The same for one pass of those asked for."""
        passes = self.passes or 1
        return replace(
            self,
            min_repeats=math.ceil(self.min_repeats / passes),
            min_seconds=self.min_seconds / passes,
            max_seconds=self.max_seconds / passes,
            passes=1,
        )


@dataclass(frozen=True)
class Sample:
    """Some executions in a row.

    Attributes:
        time_ms: their mean.
        runs: how many.
        canary_ms: median of the canary's executions before, between and after them.
        seconds: what all of it took, by the wall clock where that is more than the times add up to: a device may
            execute several instances for one time, or have a clock of its own.
        parts_ms: what the consecutive parts of a single long execution took, where the device can say.
    """

    time_ms: float
    runs: int
    canary_ms: float
    seconds: float
    parts_ms: tuple[float, ...] = ()


def visit(
    run_ms: Callable[[], float],
    canary_ms: Callable[[], float],
    timing: Timing,
    *,
    run_parts_ms: Callable[[], Sequence[float]] | None = None,
) -> list[Sample]:
    """Warm up, then sample until the median is settled or the time is up.

    Args:
        run_ms: executes once and gives the time.
        canary_ms: executes the canary once and gives its time.
        timing: how long.
        run_parts_ms: executes once and gives the times of consecutive parts; for long executions, because to look at
            the clock in between takes time itself.
    """

    def run_whole() -> Sequence[float]:
        return (run_ms(),)

    run = run_parts_ms or run_whole
    first = _sample(run, canary_ms, 0.0, 0.0)
    if first.time_ms < LONG_MS:
        run = run_whole
    samples = [first] if first.time_ms >= 1000 * timing.max_seconds > 0 else []
    warm_up_ms, started = first.time_ms, perf_counter()
    while max(warm_up_ms, first.time_ms + _ms_since(started)) < timing.warm_up_ms:
        warm_up_ms += run_ms()
    while not _enough(samples, timing):
        samples.append(_sample(run, canary_ms, timing.sample_ms, first.time_ms))
    return samples


def _sample(
    run: Callable[[], Sequence[float]], canary_ms: Callable[[], float], wanted_ms: float, expected_ms: float
) -> Sample:
    started = perf_counter()
    canaries = _fill(canary_ms, _SHARE_AROUND * expected_ms)
    parts_ms = tuple(run())
    times = [sum(parts_ms)]
    while max(sum(times) + sum(canaries), _ms_since(started)) < wanted_ms:
        canaries.append(canary_ms())
        times.append(sum(run()))
    canaries += _fill(canary_ms, _SHARE_AROUND * times[-1])
    in_parts = parts_ms if len(parts_ms) > 1 and times[0] >= LONG_MS and len(times) == 1 else ()
    seconds = max((sum(times) + sum(canaries)) / 1000, perf_counter() - started)
    return Sample(statistics.fmean(times), len(times), statistics.median(canaries), seconds, in_parts)


def _ms_since(started: float) -> float:
    """By the wall clock: a device may execute many instances for the time that it gives, or hang on a cable."""
    return 1000 * (perf_counter() - started)


def _fill(canary_ms: Callable[[], float], wanted_ms: float) -> list[float]:
    times = [canary_ms() for _ in range(_AROUND)]
    while sum(times) < wanted_ms:
        times.append(canary_ms())
    return times


def _enough(samples: list[Sample], timing: Timing) -> bool:
    seconds = sum(sample.seconds for sample in samples)
    if len(samples) < timing.min_repeats:
        return len(samples) >= 2 and seconds >= _PATIENCE * timing.max_seconds
    if seconds >= timing.max_seconds or len(samples) >= timing.max_repeats:
        return True
    if seconds < timing.min_seconds or len(samples) < _FEWEST_TO_SETTLE:
        return False
    return relative_error([sample.time_ms for sample in samples]) <= timing.target_error


def is_settled(visits: Visited, speed: Speed, timing: Timing) -> bool:
    """Whether there are enough samples, and they agree on what an execution takes at one speed of the machine."""
    return relative_error_of(visits, speed) <= _WELL_ENOUGH * timing.target_error


def relative_error_of(visits: Visited, speed: Speed) -> float:
    """How unsure a module's time at one speed of the machine is, as a fraction of it; infinite of a single sample."""
    times_ms = _times_ms(visits) * speed.factors(visits)
    return relative_error(times_ms) if len(times_ms) > 1 else math.inf


def row_of(visits: Visited, speed: Speed) -> Row:
    """What an execution takes at one speed of the machine: the median, of long executions see `_long_ms`."""
    times_ms = _times_ms(visits) * speed.factors(visits)
    low, median, high = np.percentile(times_ms, (25, 50, 75)).tolist()
    latency_ms = _long_ms(visits, speed) if is_long(visits) else median
    runs = sum(sample.runs for visit in visits for sample in visit)
    return Row(round(latency_ms, _DECIMALS), round(high - low, _DECIMALS), runs, round(speed.drift, _DECIMALS))


def _times_ms(visits: Visited) -> np.ndarray:
    return np.array([sample.time_ms for visit in visits for sample in visit])


def _long_ms(visits: Visited, speed: Speed) -> float:
    """The lower quartile; where all samples are in the same parts, that of each part, added up.

    Hardly an execution of seconds is disturbed nowhere, and the canary does not see it, so the median would be that of
    disturbed executions. The fastest of each part would depend on how many samples there are still more.
    """
    samples = [sample for visit in visits for sample in visit]
    in_parts = samples[0].parts_ms and len({len(sample.parts_ms) for sample in samples}) == 1
    parts_ms = np.array([sample.parts_ms if in_parts else (sample.time_ms,) for sample in samples])
    return float(np.quantile(parts_ms * speed.factors(visits)[:, None], 0.25, axis=0).sum())


def relative_error(times_ms: Sequence[float] | np.ndarray) -> float:
    """The standard error of their median, as a fraction of it."""
    low, median, high = np.percentile(times_ms, (25, 50, 75)).tolist()
    return _ERROR_OF_MEDIAN * (high - low) / (median * len(times_ms) ** 0.5)
