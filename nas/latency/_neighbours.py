"""How busy other programs keep the machine while something is measured: the canary cannot tell if they always did."""

from __future__ import annotations

import os
import time

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
        self._wall, self._all, self._own = time.perf_counter(), _busy_seconds(), time.process_time()

    def busy_cores(self) -> float | None:
        """Cores' worth of work done by others since then, on average.

        0 where that was too short a time to tell, None where psutil is not installed.
        """
        if psutil is None:
            return None
        seconds = time.perf_counter() - self._wall
        others = _busy_seconds() - self._all - (time.process_time() - self._own)
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


def _busy_seconds() -> float:
    if psutil is None:
        return 0.0
    times = psutil.cpu_times()
    # Time of guests is in user time already.
    idle = times.idle + sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    return sum(times) - idle
