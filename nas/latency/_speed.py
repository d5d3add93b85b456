"""The speed of a machine, as the canary tells it, and what would have been measured at one speed.

What is to be added up should have been measured at the same time, which it cannot be, and few machines are at one
speed: there are other programs, other tenants of the same processor, its heat. Every sample knows the canary's time
around it. How far what is measured goes along with that, the visits tell themselves: each module is visited at several
speeds, and the logarithms of all visits' times are fitted to those of the canary's, a line for each module and one
slope for all that take about as long (an analysis of covariance, local in the logarithm of the time: on a compiled
runtime the call of a small block is hardly slowed down by what slows down a whole network more than the canary). By
that slope every sample is taken back to the speed that the machine had in the middle. Where the canary says nothing of
what is measured the slope is near 0, and samples are left as they are. Where nothing was measured at two speeds the
slope is taken for 1, of long executions for 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from nas.latency._timing import Sample

# A module's samples, visit by visit.
Visited: TypeAlias = "Sequence[Sequence[Sample]]"

# Around executions from this long on the canary is but a glance: they have a slope of their own.
LONG_MS = 500.0
# What is taken for the slopes before anything was measured: a short execution is as slow as the canary around it. Such
# changes of the canary's time as a clock's own noise makes, as a fraction, do not speak against that.
_SLOPE, _LONG_SLOPE, _NOISE = 1.0, 0.0, 0.01
# Nothing is believed to slow down so much more than the canary does.
_STEEPEST = 2.0
# What takes exp(0.5) times as long, or as short, counts for exp(-1/2) as much. On recorded visits on OpenVINO,
# with 20 held-out networks on an unsteady machine, 0.4 to 0.5 gave smaller errors than 0.7, 1 and one slope for all.
_ALIKE = 0.5
# A canary that takes so many times as long as usual was interrupted; no machine is believed to be that slow.
_INTERRUPTED = 2.0
# Less than any clock shows.
_NOTHING_MS = 1e-9


class Line(NamedTuple):
    """What one module's visits say of the slope.

    Attributes:
        log_ms: logarithm of its time, in the middle.
        squares: sum over the visits of the squares of the canary's logarithms, from their mean.
        products: that of their products with the logarithms of the times, from theirs.
    """

    log_ms: float
    squares: float
    products: float

    @classmethod
    def of(cls, visits: Visited, canary_ms: float, expected: float) -> Line:
        """From a module's visits; see `Pace` for the canary's usual time and the slope that is expected."""
        canary = np.array([np.median(_logs(visit, canary_ms)) for visit in visits])
        times = np.array([math.log(max(np.median([s.time_ms for s in visit]), _NOTHING_MS)) for visit in visits])
        from_mean = canary - canary.mean()
        noise = len(visits) * _NOISE**2
        squares = float((from_mean**2).sum()) + noise
        products = float((from_mean * (times - times.mean())).sum()) + noise * expected
        return cls(float(np.median(times)), squares, products)


@dataclass(frozen=True)
class Pace:
    """How short executions, or long ones, go along with the canary.

    Attributes:
        canary_ms: the canary's time around them at the speed that times are taken back to. Around long executions it
            runs many times in a row and is faster.
        expected: their sensitivity where the lines say nothing.
        lines: what the modules say of it.
    """

    canary_ms: float
    expected: float
    lines: tuple[Line, ...] = ()

    @classmethod
    def of(cls, modules: Collection[Visited], *, expected: float) -> Pace:
        """From modules all of which are short, or long; `expected` is the sensitivity unless they say another."""
        canary_ms = _median_ms(modules)
        return cls(canary_ms, expected, tuple(Line.of(visits, canary_ms, expected) for visits in modules))

    @property
    def sensitivity(self) -> float:
        """Executions take (canary's time / `canary_ms`) ** `sensitivity` times as long, on the whole; from 0 to 2."""
        return self._slope(np.ones(len(self.lines)))

    def sensitivity_of(self, time_ms: float) -> float:
        """The same of those that take about so long."""
        away = np.array([line.log_ms for line in self.lines]) - math.log(max(time_ms, _NOTHING_MS))
        return self._slope(np.exp(-0.5 * (away / _ALIKE) ** 2))

    def factors(self, visits: Visited) -> np.ndarray:
        """What the times of all samples of a module are to be taken times to be those at one speed."""
        samples = [sample for visit in visits for sample in visit]
        time_ms = float(np.median([sample.time_ms for sample in samples]))
        return np.exp(-self.sensitivity_of(time_ms) * _logs(samples, self.canary_ms))

    def _slope(self, weights: np.ndarray) -> float:
        squares = sum(weight * line.squares for weight, line in zip(weights, self.lines, strict=True))
        products = sum(weight * line.products for weight, line in zip(weights, self.lines, strict=True))
        return min(max(float(products / squares), 0.0), _STEEPEST) if squares else self.expected


@dataclass(frozen=True)
class Speed:
    """The speed that the times of one measurement are taken back to, and how.

    Attributes:
        canary_ms: the canary's time at it, the median.
        spread_ms: interquartile range of the canary's times, in ms: how unsteady the machine was.
        short: how executions of less than half a second go along with the canary.
        long: the same of longer ones.
        drift: how far `canary_ms` is from the time that was expected, as a signed fraction: 0.03 says that the machine
            was 3 % slower. 0 where none was.
    """

    canary_ms: float
    spread_ms: float
    short: Pace
    long: Pace
    drift: float = 0.0

    @classmethod
    def of(cls, modules: Collection[Visited], expected_ms: float | None = None) -> Speed:
        """From all visits of a measurement.

        Args:
            modules: the samples of each.
            expected_ms: the canary's time when a table was measured, say.
        """
        low, high = np.percentile(_canaries_ms(modules), (25, 75)).tolist()
        short = [visits for visits in modules if not is_long(visits)]
        long = [visits for visits in modules if is_long(visits)]
        canary_ms = _median_ms(modules)
        return cls(
            canary_ms=canary_ms,
            spread_ms=high - low,
            short=Pace.of(short, expected=_SLOPE),
            long=Pace.of(long, expected=_LONG_SLOPE),
            drift=canary_ms / expected_ms - 1 if expected_ms else 0.0,
        )

    def factors(self, visits: Visited) -> np.ndarray:
        """What the times of all samples of a module are to be taken times to be those at this speed."""
        return (self.long if is_long(visits) else self.short).factors(visits)


def is_long(visits: Visited) -> bool:
    """Whether the canary around a module says little of what went on meanwhile."""
    return bool(np.median([sample.time_ms for visit in visits for sample in visit]) >= LONG_MS)


def _canaries_ms(modules: Collection[Visited]) -> list[float]:
    return [sample.canary_ms for visits in modules for visit in visits for sample in visit]


def _median_ms(modules: Collection[Visited]) -> float:
    return float(np.median(_canaries_ms(modules))) if modules else 1.0


def _logs(samples: Sequence[Sample], usual_ms: float) -> np.ndarray:
    """Logarithms of the canary's times over its usual one."""
    limit = math.log(_INTERRUPTED)
    return np.clip(np.log([sample.canary_ms / usual_ms for sample in samples]), -limit, limit)
