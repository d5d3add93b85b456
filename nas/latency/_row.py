"""One measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.errors import TableError

# A time must be more than 0: this stands where there is next to none.
NOTHING_MS = 1e-12


@dataclass(frozen=True)
class Row:
    """A measured latency.

    Attributes:
        latency_ms: what an execution takes at one speed of the machine: the median of all samples taken back to it; of
            executions of half a second and more the lower quartile, of each consecutive part where these are known.
        spread_ms: their interquartile range, in ms.
        count: timed executions.
        drift: how far that speed is from the one asked for, by the time of the canary (a small fixed workload that is
            timed around each sample), as a signed fraction: 0.03 says that the machine was 3 % slower. 0
            where none was asked for, as in a table.

    Raises:
        TableError: a time that no clock can have shown.
    """

    latency_ms: float
    spread_ms: float
    count: int
    drift: float = 0.0

    def __post_init__(self) -> None:
        _require_number("latency_ms", self.latency_ms, self.latency_ms > 0, "more than 0")
        _require_number("spread_ms", self.spread_ms, self.spread_ms >= 0, "0 or more")
        _require_number("drift", self.drift, self.drift > -1, "more than -1")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise TableError(f"count is {self.count!r}; it must be a whole number of at least 1")


def _require_number(name: str, value: float, in_range: bool, expected: str) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not in_range:
        raise TableError(f"{name} is {value!r}; it must be a finite number, {expected}")
