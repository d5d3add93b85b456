"""The measuring loop that all devices share: warm up, repeat until the median is settled, watch the machine's drift.

Before each timed execution the canary is executed: in a network a block never follows itself, and in a loop of its own
it is faster than where caches and predictors are another's.

What is to be added up should have been measured at the same time, which it cannot be. The next best: every sample knows
the canary's time around it, and of all samples of all visits only those count that were taken while the machine was at
one speed, the best that it had for long enough. So what other programs or other tenants of the machine do for some
seconds is left out of rows and of networks alike. The canary does not see all of it, so of the samples that count the
faster half does: disturbances only ever slow down.

Around executions that take long themselves the canary is but a glance, and hardly one of them is disturbed nowhere. Of
these all samples count, and where a device can say what the consecutive parts of an execution took, each part is taken
from the sample where it was fastest: of the few samples that there are, few parts were disturbed in none.

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
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import NasError
from nas.latency._row import Row

if TYPE_CHECKING:
    from nas.latency.devices import Runnable

# The standard error of a median is 1.2533 sigma / sqrt(n), and a normal distribution's interquartile range 1.349 sigma.
_ERROR_OF_MEDIAN = 1.2533 / 1.349
# In ms a nanosecond is the sixth decimal; more would be noise in the files.
_DECIMALS = 6
# Executions of the canary before and after those of a sample: at least so many, and more around long ones, where two
# would be a glance.
_AROUND, _SHARE_AROUND = 2, 0.02
# The usual speed is one that the machine had for at least this share of the samples.
_LONG_ENOUGH = 0.1
# A machine whose canary takes this much longer or shorter than usual, as a fraction, is taken for disturbed.
MAX_DRIFT = 0.05
# Executions from this long on are not judged by the canary around them, and taken in parts.
_LONG_MS = 500.0
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
        max_drift: samples count if the canary's time around them was within this fraction of its usual time.
        extra_seconds: time for visiting again, after all passes, what has fewer than `min_repeats` samples that count.
            It is for everything together that is measured in one go.
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
    max_drift: float = MAX_DRIFT
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
        canary_ms: mean of the canary's executions before, between and after them.
        seconds: what all of it took, by the wall clock where that is more than the times add up to: a device may
            execute several instances for one time, or have a clock of its own.
        parts_ms: what the consecutive parts of a single long execution took, where the device can say.
    """

    time_ms: float
    runs: int
    canary_ms: float
    seconds: float
    parts_ms: tuple[float, ...] = ()

    def drift(self, usual_ms: float) -> float:
        """How much slower the canary was than usual, as a signed fraction."""
        return self.canary_ms / usual_ms - 1


class Canary:
    """A small fixed workload whose time shows whether the machine is as fast as it was.

    Args:
        runnable: it, ready to run.
        reference_ms: the time to compare with, such as the one that a table was measured at; the one of an undisturbed
            machine, as far as the samples show it, when None.
    """

    def __init__(self, runnable: Runnable, *, reference_ms: float | None = None) -> None:
        self._runnable, self._reference_ms = runnable, reference_ms
        self.run_ms()

    def run_ms(self) -> float:
        """Execute it once."""
        return self._runnable.run_ms()

    def usual_ms(self, samples: Sequence[Sample], max_drift: float) -> float:
        """The reference, or the least time, give or take `max_drift`, that a tenth of the samples have around them.

        Not the mean, the median or the most common time: a machine is undisturbed in one way and disturbed in many,
        which slow a canary and a network down by different amounts. Not the minimum: that is a matter of luck, or of a
        processor that is faster for its first few seconds.
        """
        if self._reference_ms:
            return self._reference_ms
        times = np.sort([sample.canary_ms for sample in samples])
        ends = np.searchsorted(times, times * (1 + max_drift), side="right")
        start = int(np.argmax(ends - np.arange(len(times)) >= _LONG_ENOUGH * len(times)))
        return float(np.median(times[start : ends[start]]))


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
    if first.time_ms < _LONG_MS:
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
    in_parts = parts_ms if len(parts_ms) > 1 and times[0] >= _LONG_MS and len(times) == 1 else ()
    seconds = max((sum(times) + sum(canaries)) / 1000, perf_counter() - started)
    return Sample(statistics.fmean(times), len(times), statistics.fmean(canaries), seconds, in_parts)


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
    return _relative_error(samples) <= timing.target_error


def _relative_error(samples: list[Sample]) -> float:
    low, median, high = np.percentile([sample.time_ms for sample in samples], (25, 50, 75)).tolist()
    return _ERROR_OF_MEDIAN * (high - low) / (median * len(samples) ** 0.5)


def undisturbed(samples: Sequence[Sample], usual_ms: float, timing: Timing) -> list[Sample]:
    """The samples around which the canary took its usual time, and all that took so long that it could not tell."""
    return [s for s in samples if not is_disturbed(s.time_ms, s.drift(usual_ms), timing.max_drift)]


def is_disturbed(time_ms: float, drift: float, max_drift: float = MAX_DRIFT) -> bool:
    """Whether the canary speaks against a measured time; around executions of seconds it cannot tell."""
    return time_ms < _LONG_MS and abs(drift) > max_drift


def is_settled(samples: Sequence[Sample], usual_ms: float, timing: Timing) -> bool:
    """Whether enough of the samples count: `min_repeats`, or all of the few that a large network has."""
    return len(undisturbed(samples, usual_ms, timing)) >= min(timing.min_repeats, len(samples))


def row_of(samples: Sequence[Sample], usual_ms: float, timing: Timing) -> Row:
    """From the samples that count; where these are too few, from those that come nearest, which the drift shows."""
    counted = undisturbed(samples, usual_ms, timing)
    few = max(timing.min_repeats, math.ceil(_LONG_ENOUGH * len(samples)))
    if len(counted) < few:
        counted = sorted(samples, key=lambda sample: abs(sample.drift(usual_ms)))[:few]
    low, high = np.percentile([sample.time_ms for sample in counted], (25, 75)).tolist()
    drift = statistics.median(sample.drift(usual_ms) for sample in counted)
    runs = sum(sample.runs for sample in counted)
    return Row(round(_faster_ms(counted), _DECIMALS), round(high - low, _DECIMALS), runs, round(drift, _DECIMALS))


def _faster_ms(samples: Sequence[Sample]) -> float:
    """The median over the faster half; where all samples are in the same parts, the fastest of each, added up."""
    if samples[0].parts_ms and len({len(sample.parts_ms) for sample in samples}) == 1:
        return sum(map(min, zip(*(sample.parts_ms for sample in samples), strict=True)))
    faster = sorted(sample.time_ms for sample in samples)[: math.ceil(len(samples) / 2)]
    return statistics.median(faster)
