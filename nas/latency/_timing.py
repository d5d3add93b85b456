"""The measuring loop that all devices share: warm up, repeat until the median is settled, watch the machine's drift.

Before each timed execution the canary is executed: in a network a block never follows itself, and in a loop of its own
it is faster than where caches and predictors are another's.

What is to be added up should have been measured at the same time, which it cannot be. The next best: everything is
measured in several passes, there and back, so that the machine's slow changes touch all rows alike.

A sample is the mean over as many executions as fill `sample_ms`: a network's forward pass averages over the short
hiccups of a machine, and so must the samples of a block that is a hundred times shorter, or their median would leave
out what the network's latency contains.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nas.latency._row import Row

if TYPE_CHECKING:
    from nas.latency.devices import Device, Runnable

# The standard error of a median is 1.2533 sigma / sqrt(n), and a normal distribution's interquartile range 1.349 sigma.
_ERROR_OF_MEDIAN = 1.2533 / 1.349
# In ms a nanosecond is the sixth decimal; more would be noise in the files.
_DECIMALS = 6
# The canary's weights are to come from memory, as a network's do: others may be busy there while the cores are free.
_CANARIES = 32
# After this many times `max_seconds` large networks have two samples at least, and are not measured again for drift.
_PATIENCE = 4


@dataclass(frozen=True)
class Timing:
    """How long to measure. The defaults build Stable Diffusion v1.5's table on two slow cores in a few minutes.

    Attributes:
        min_repeats: samples taken at least (two will do once they took four times `max_seconds`).
        max_repeats: samples taken at most.
        min_seconds: time spent at least, all passes together.
        max_seconds: time after which no further sample is taken, all passes together.
        target_error: standard error of the median, as a fraction of it, at which it counts as settled.
        sample_ms: executions are averaged until they fill this time, what goes before each included.
        warm_up_ms: executions before the first sample, at least one.
        max_drift: a measurement is repeated if the canary moved by more than this fraction.
        retries: how often at most it is repeated at once, unless it took four times `max_seconds`; what is left is
            tried once more at the end.
        canary_repeats: executions of the canary in one reading, of which the median counts.
        passes: how often everything is measured in turn, there and back, the time divided among them; when None as
            often as making the modules anew is cheap.
    """

    min_repeats: int = 3
    max_repeats: int = 1000
    min_seconds: float = 0.6
    max_seconds: float = 3.0
    target_error: float = 0.005
    sample_ms: float = 20.0
    warm_up_ms: float = 50.0
    max_drift: float = 0.05
    retries: int = 1
    canary_repeats: int = 15
    passes: int | None = None

    def of_one_pass(self) -> Timing:
        """The same for one pass of those asked for."""
        passes = self.passes or 1
        return replace(self, min_seconds=self.min_seconds / passes, max_seconds=self.max_seconds / passes, passes=1)


@dataclass(frozen=True)
class Samples:
    """Times of one runnable.

    Attributes:
        times_ms: each the mean of some executions.
        runs: executions in all.
    """

    times_ms: tuple[float, ...]
    runs: int

    @property
    def median_ms(self) -> float:
        """Their median."""
        return statistics.median(self.times_ms)

    @property
    def seconds(self) -> float:
        """How long all executions took together."""
        return self.runs * statistics.fmean(self.times_ms) / 1000


@dataclass(frozen=True)
class Measurement:
    """Samples of one runnable, with the canary's time before and after.

    Attributes:
        samples: the times.
        before_ms: the canary just before.
        after_ms: the canary just after.
    """

    samples: Samples
    before_ms: float
    after_ms: float

    def drift(self, reference_ms: float) -> float:
        """The canary's larger deviation from its usual time, signed, as a fraction."""
        return _largest(time / reference_ms - 1 for time in (self.before_ms, self.after_ms))


class Canary:
    """A small fixed workload whose time shows whether the machine is as fast as it was.

    It is a residual block and a transformer of 64 channels on 8x8 pixels. A large convolution alone would miss the
    states of a machine in which many short operations take longer and long ones do not.

    Args:
        device: where it runs.
        precision: as of the table.
        repeats: executions in one reading.
        reference_ms: the time to compare with, such as the one that a table was measured at; the median of all
            readings when None.
    """

    def __init__(self, device: Device, precision: str, *, repeats: int = 7, reference_ms: float | None = None) -> None:
        self._runnable, self._repeats, self._reference_ms = _canary_on(device, precision), repeats, reference_ms
        self._runnable.run_ms()
        self._readings: list[float] = []

    def run_ms(self) -> float:
        """Execute it once."""
        return self._runnable.run_ms()

    def read_ms(self) -> float:
        """Time it now."""
        self._readings.append(statistics.median(self.run_ms() for _ in range(self._repeats)))
        return self._readings[-1]

    @property
    def usual_ms(self) -> float:
        """The reference, or what the machine mostly does: the median of all readings, whether it was idle at first."""
        return self._reference_ms or statistics.median(self._readings)


def _canary_on(device: Device, precision: str) -> Runnable:
    import torch
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    class Blocks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resnet = ResnetBlock2D(in_channels=64, temb_channels=128, groups=8)
            self.attention = Transformer2DModel(4, 16, in_channels=64, norm_num_groups=8, cross_attention_dim=64)

        def forward(self, states: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return self.attention(self.resnet(states, embedding), encoder_hidden_states=context, return_dict=False)[0]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = torch.randn(2, 64, 8, 8), torch.randn(2, 128), torch.randn(2, 16, 64)
        return device.load(Blocks(), inputs, {}, precision=precision, instances=_CANARIES)


def measure(runnable: Runnable, canary: Canary, timing: Timing) -> list[Measurement]:
    """Measure until the canary stays put, or retries or the time for them are used up; all attempts."""
    attempts: list[Measurement] = []
    while len(attempts) <= timing.retries:
        before_ms = canary.read_ms()
        samples = sample(runnable.run_ms, timing, before=canary.run_ms)
        attempts.append(Measurement(samples, before_ms, canary.read_ms()))
        spent_seconds = sum(attempt.samples.seconds for attempt in attempts)
        if settled(attempts[-1:], canary, timing) or spent_seconds >= _PATIENCE * timing.max_seconds:
            break
    return attempts


def settled(attempts: Sequence[Measurement], canary: Canary, timing: Timing) -> list[Measurement]:
    """The attempts during which the canary was near its usual time."""
    return [attempt for attempt in attempts if abs(attempt.drift(canary.usual_ms)) <= timing.max_drift]


def row_of(attempts: Sequence[Measurement], canary: Canary, timing: Timing) -> Row:
    """All settled attempts together; where none is, the one that comes nearest. The largest drift of them is noted."""
    usual_ms = canary.usual_ms
    counted = settled(attempts, canary, timing) or [min(attempts, key=lambda attempt: abs(attempt.drift(usual_ms)))]
    # The mean of the passes' medians, not the median of all: of two passes at different speeds it would be one's alone.
    median_ms = statistics.fmean(attempt.samples.median_ms for attempt in counted)
    low, high = np.percentile([time for attempt in counted for time in attempt.samples.times_ms], (25, 75)).tolist()
    runs = sum(attempt.samples.runs for attempt in counted)
    drift = _largest(attempt.drift(usual_ms) for attempt in counted)
    return Row(round(median_ms, _DECIMALS), round(high - low, _DECIMALS), runs, round(drift, _DECIMALS))


def sample(run_ms: Callable[[], float], timing: Timing, before: Callable[[], float] = lambda: 0.0) -> Samples:
    """Warm up, then sample until the median is settled or the time is up.

    Args:
        run_ms: executes once and gives the time.
        timing: how long.
        before: goes before every execution that counts, and gives its own time.
    """
    _fill(run_ms, timing.warm_up_ms, lambda: 0.0)
    samples: list[float] = []
    count, spent_ms = 0, 0.0
    while not _enough(samples, spent_ms / 1000, timing):
        times, others_ms = _fill(run_ms, timing.sample_ms, before)
        samples.append(statistics.fmean(times))
        count, spent_ms = count + len(times), spent_ms + sum(times) + others_ms
    return Samples(tuple(samples), count)


def _largest(drifts: Iterable[float]) -> float:
    return max(drifts, key=abs)


def _fill(run_ms: Callable[[], float], wanted_ms: float, before: Callable[[], float]) -> tuple[list[float], float]:
    # The times of as many executions as fill the time, at least one, and what went before them took in all.
    others_ms, times = before(), [run_ms()]
    while sum(times) + others_ms < wanted_ms:
        others_ms += before()
        times.append(run_ms())
    return times, others_ms


def _enough(samples: list[float], seconds: float, timing: Timing) -> bool:
    if len(samples) < timing.min_repeats:
        return len(samples) >= 2 and seconds >= _PATIENCE * timing.max_seconds
    if seconds >= timing.max_seconds or len(samples) >= timing.max_repeats:
        return True
    return seconds >= timing.min_seconds and _relative_error(samples) <= timing.target_error


def _relative_error(samples: list[float]) -> float:
    low, median, high = np.percentile(samples, (25, 50, 75)).tolist()
    return _ERROR_OF_MEDIAN * (high - low) / (median * len(samples) ** 0.5)
