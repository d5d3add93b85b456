"""The speed of a machine, as the canary tells it, and what would have been measured at one speed.

What is to be added up should have been measured at the same time, which it cannot be, and few machines are at one
speed: there are other programs, other tenants of the same processor, its heat. Every sample knows the canary's time
around it. How far what is measured goes along with that, the samples tell themselves: each module is measured at
several speeds, and the logarithms of all times are fitted to those of the canary's, a line for each module and one
slope for all (an analysis of covariance). By that slope every sample is taken back to the speed that the machine had in
the middle. Where the canary says nothing of what is measured the slope is near 0, and samples are left as they are.
Where nothing was measured at two speeds the slope is taken for 1, of long executions for 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nas.latency._timing import Sample

# Around executions from this long on the canary is but a glance: they have a slope of their own.
LONG_MS = 500.0
# What is taken for the slopes before anything was measured: a short execution is as slow as the canary around it. Such
# changes of the canary's time as a clock's own noise makes, as a fraction, do not speak against that.
_SLOPE, _LONG_SLOPE, _NOISE = 1.0, 0.0, 0.01
# A canary that takes so many times as long as usual was interrupted, which says nothing of the machine's speed.
_INTERRUPTED = 2.0
# Times are taken back to a speed that the machine had: between these quantiles of the canary's times.
_SLOWEST, _FASTEST = 0.95, 0.05


@dataclass(frozen=True)
class Speed:
    """The speed that the times of one measurement are taken back to, and how.

    Attributes:
        canary_ms: the canary's time at it.
        spread_ms: interquartile range of the canary's times, in ms: how unsteady the machine was.
        sensitivity: what is measured takes (canary's time / `canary_ms`) ** `sensitivity` times as long as at that
            speed; between 0 and 1.
        long_sensitivity: the same of executions that take half a second and more.
        drift: how far `canary_ms` is from the time asked for, as a signed fraction: 0.03 says that the machine was 3 %
            slower. 0 where none was asked for.
    """

    canary_ms: float
    spread_ms: float = 0.0
    sensitivity: float = 0.0
    long_sensitivity: float = 0.0
    drift: float = 0.0

    @classmethod
    def of(cls, modules: Collection[Sequence[Sample]], reference_ms: float | None = None) -> Speed:
        """From all samples of a measurement.

        Args:
            modules: the samples of each.
            reference_ms: the canary's time at the speed to take times back to, such as the one that a table was
                measured at. If the machine never had it, the nearest that it had is taken. The median when None.
        """
        times = [sample.canary_ms for samples in modules for sample in samples]
        fastest, low, median, high, slowest = np.quantile(times, (_FASTEST, 0.25, 0.5, 0.75, _SLOWEST)).tolist()
        canary_ms = min(max(reference_ms, fastest), slowest) if reference_ms else median
        return cls(
            canary_ms=canary_ms,
            spread_ms=high - low,
            sensitivity=_slope(_part(modules, long=False), median, expected=_SLOPE),
            long_sensitivity=_slope(_part(modules, long=True), median, expected=_LONG_SLOPE),
            drift=canary_ms / reference_ms - 1 if reference_ms else 0.0,
        )

    def factor(self, sample: Sample) -> float:
        """What a sample's time is to be taken times to be that at this speed."""
        slope = self.long_sensitivity if is_long(sample) else self.sensitivity
        return math.exp(-slope * float(_log_canary([sample], self.canary_ms)[0]))


def is_long(sample: Sample) -> bool:
    """Whether the canary around it says little of what went on meanwhile."""
    return sample.time_ms >= LONG_MS


def _part(modules: Iterable[Sequence[Sample]], *, long: bool) -> list[list[Sample]]:
    return [[sample for sample in samples if is_long(sample) == long] for samples in modules]


def _slope(modules: Iterable[Sequence[Sample]], usual_ms: float, *, expected: float) -> float:
    """Of log time over log canary within modules, by least squares; from 0 to 1."""
    squares = products = 0.0
    for samples in filter(None, modules):
        canary = _log_canary(samples, usual_ms)
        time = np.log([sample.time_ms for sample in samples])
        noise = len(samples) * _NOISE**2
        squares += float(((canary - canary.mean()) ** 2).sum()) + noise
        products += float(((canary - canary.mean()) * (time - time.mean())).sum()) + noise * expected
    return min(max(products / squares, 0.0), 1.0) if squares else expected


def _log_canary(samples: Sequence[Sample], usual_ms: float) -> np.ndarray:
    """Logarithms of the canary's times over its usual one."""
    limit = math.log(_INTERRUPTED)
    return np.clip(np.log([sample.canary_ms / usual_ms for sample in samples]), -limit, limit)
