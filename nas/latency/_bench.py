"""Measuring many things on one device: each in its turn, several times over, then once more what was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from nas._progress import track
from nas.errors import DeviceError
from nas.latency._neighbours import Neighbours, warn_if_disturbed
from nas.latency._row import Row
from nas.latency._timing import Canary, Measurement, Timing, measure, row_of, settled
from nas.latency.devices import Device, Runnable


class Bench:
    """A device with a canary on it.

    Args:
        device: where to measure.
        precision: of the canary, as of what is measured.
        timing: how long to measure; one pass unless it says more.
        canary_ms: the canary's time when the machine is as it should be; what it mostly is when None.

    Attributes:
        other_work_cores: how many cores other programs kept busy during the last measurement.
    """

    def __init__(self, device: Device, precision: str, timing: Timing, *, canary_ms: float | None = None) -> None:
        self.device, self.timing = device, timing
        self.canary = Canary(device, precision, repeats=timing.canary_repeats, reference_ms=canary_ms)
        self.other_work_cores = 0.0

    def measure_all(self, loaders: Mapping[str, Callable[[], Runnable]], *, description: str) -> dict[str, Row]:
        """Measure each; one at a time is loaded, and forgotten before the next. Warns if other programs were busy.

        Args:
            loaders: by name, what makes it ready to run.
            description: for the progress bar.

        Raises:
            DeviceError: the device cannot run one; the message has its name.
        """
        neighbours = Neighbours()
        attempts: dict[str, list[Measurement]] = {name: [] for name in loaders}
        names = list(loaders)
        turns = [names if number % 2 == 0 else names[::-1] for number in range(self.timing.passes or 1)]
        for name in track([name for turn in turns for name in turn], description=description):
            attempts[name] += self._measure(name, loaders[name], self.timing.of_one_pass())
        # Only now it is known what the canary's usual time is: the machine may have been slow when the work began.
        once = replace(self.timing, retries=0)
        for name in track(self._drifted(attempts), description="Measuring again what drifted"):
            attempts[name] += self._measure(name, loaders[name], once)
        self.other_work_cores = neighbours.busy_cores()
        warn_if_disturbed(self.other_work_cores)
        return {name: row_of(attempts[name], self.canary, self.timing) for name in names}

    def _drifted(self, attempts: Mapping[str, list[Measurement]]) -> list[str]:
        return [name for name, found in attempts.items() if not settled(found, self.canary, self.timing)]

    def _measure(self, name: str, load: Callable[[], Runnable], timing: Timing) -> list[Measurement]:
        try:
            return measure(load(), self.canary, timing)
        except DeviceError as error:
            raise DeviceError(f"while measuring {name}: {error}") from error
