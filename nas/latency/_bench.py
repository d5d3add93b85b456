"""Measuring many things on one device: each in its turn, then once more what was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from nas._progress import track
from nas.errors import DeviceError
from nas.latency._neighbours import Neighbours, warn_if_disturbed
from nas.latency._row import Row
from nas.latency._timing import Canary, Measurement, Timing, measure, steadiest
from nas.latency.devices import Device, Runnable


class Bench:
    """A device with a canary on it.

    Args:
        device: where to measure.
        precision: of the canary, as of what is measured.
        timing: how long to measure.

    Attributes:
        other_work_cores: how many cores other programs kept busy during the last measurement.
    """

    def __init__(self, device: Device, precision: str, timing: Timing) -> None:
        self.device, self.timing = device, timing
        self.canary = Canary(device, precision, repeats=timing.canary_repeats)
        self.other_work_cores = 0.0

    def measure_all(self, loaders: Mapping[str, Callable[[], Runnable]], *, description: str) -> dict[str, Row]:
        """Measure each; one at a time is loaded, and forgotten before the next. Warns if other programs were busy.

        Args:
            loaders: by name, what makes it ready to run.
            description: for the progress bar.

        Raises:
            DeviceError: the device cannot run one; the message has its name.
        """
        done, neighbours = {}, Neighbours()
        for name in track(loaders, description=description, total=len(loaders)):
            done[name] = [_measure(name, loaders[name], self.canary, self.timing)]
        # Only now it is known what the canary's usual time is: the machine may have been slow when the work began.
        once = replace(self.timing, retries=0)
        for name in track(self._drifted(done), description="Measuring again what drifted"):
            done[name].append(_measure(name, loaders[name], self.canary, once))
        self.other_work_cores = neighbours.busy_cores()
        warn_if_disturbed(self.other_work_cores)
        usual_ms = self.canary.usual_ms
        return {name: steadiest(attempts, self.canary).against(usual_ms) for name, attempts in done.items()}

    def _drifted(self, done: Mapping[str, list[Measurement]]) -> list[str]:
        usual_ms = self.canary.usual_ms
        drifts = {name: steadiest(attempts, self.canary).drift(usual_ms) for name, attempts in done.items()}
        return [name for name, drift in drifts.items() if abs(drift) > self.timing.max_drift]


def _measure(name: str, load: Callable[[], Runnable], canary: Canary, timing: Timing) -> Measurement:
    try:
        return measure(load(), canary, timing)
    except DeviceError as error:
        raise DeviceError(f"while measuring {name}: {error}") from error
