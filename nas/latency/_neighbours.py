"""How busy other programs keep the machine while something is measured: the canary cannot tell if they always did."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nas._progress import say

try:
    import psutil
except ImportError:  # where measuring is all that is done, with little installed
    psutil = None

# Processor time is counted in hundredths of a second: over less than this it says nothing.
_LEAST_SECONDS = 1.0
# More than an idle desktop's own work, less than what can be seen in a row.
_WORTH_A_WARNING = 0.05


class Neighbours:
    """Counts processor time that is not this process's own, from when it is made."""

    def __init__(self) -> None:
        self._wall, self._all, self._own = _clocks()

    @contextmanager
    def not_counting(self) -> Iterator[None]:
        """For what this process has others do, such as compilers, before anything is timed."""
        before = _clocks()
        try:
            yield
        finally:
            wall, everybody, own = (now - then for now, then in zip(_clocks(), before, strict=True))
            self._wall, self._all, self._own = self._wall + wall, self._all + everybody, self._own + own

    def busy_cores(self) -> float | None:
        """Cores' worth of work done by others since then, on average.

        0 where that was too short a time to tell, None where psutil is not installed.
        """
        if psutil is None:
            return None
        wall, everybody, own = _clocks()
        seconds, others = wall - self._wall, everybody - self._all - (own - self._own)
        return max(0.0, others / seconds) if seconds >= _LEAST_SECONDS else 0.0


def warn_if_disturbed(busy_cores: float | None, *, cores: int | None = None) -> None:
    """Tell people if others worked enough to be seen in what was measured."""
    if busy_cores is None:
        return
    cores = cores or os.cpu_count() or 1
    if busy_cores > _WORTH_A_WARNING * cores:
        say(
            f"Warning: other programs kept {busy_cores:.1f} of {cores} cores busy during this measurement, which makes "
            "latencies too high. Close them and measure again."
        )


def _clocks() -> tuple[float, float, float]:
    """Seconds of the wall's clock, of all processors' work and of this process's."""
    return time.perf_counter(), _busy_seconds(), time.process_time()


def _busy_seconds() -> float:
    if psutil is None:
        return 0.0
    times = psutil.cpu_times()
    # Time of guests is in user time already.
    idle = times.idle + sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    return sum(times) - idle
