"""Measuring many things on one device: each in its turn, several times over, then once more what was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from nas._progress import track
from nas.errors import DeviceError
from nas.latency._kept import Kept
from nas.latency._neighbours import Neighbours, warn_if_disturbed
from nas.latency._row import Row
from nas.latency._timing import Canary, Sample, Timing, is_settled, row_of, visit
from nas.latency.devices import Device, Runnable


class Bench:
    """A device with a canary on it.

    Args:
        device: where to measure.
        precision: of the canary, as of what is measured.
        timing: how long to measure; one pass unless it says more.
        canary_ms: the canary's time when the machine is as it should be; that of an undisturbed one, as far as
            the samples show it, when None.

    Attributes:
        canary_ms: that time, once something was measured.
        other_work_cores: how many cores other programs kept busy during the last measurement.
    """

    def __init__(self, device: Device, precision: str, timing: Timing, *, canary_ms: float | None = None) -> None:
        self.device, self.timing = device, timing
        self._canary = Canary(device, precision, reference_ms=canary_ms)
        self.canary_ms, self.other_work_cores = canary_ms or 0.0, 0.0

    def measure_all(
        self, loaders: Mapping[str, Callable[[], Runnable]], *, description: str, twice: Collection[str] = ()
    ) -> dict[str, Row]:
        """Measure each; one at a time is loaded, and forgotten before the next unless loading is slow on the device.

        Warns if other programs were busy.

        Args:
            loaders: by name, what makes it ready to run.
            description: for the progress bar.
            twice: names of those that are measured at the end of every pass as well: what all else depends on.

        Raises:
            DeviceError: the device cannot run one; the message has its name.
        """
        neighbours, kept = Neighbours(), Kept(self.device.keep_mb)
        loaders = {name: partial(kept.get, name, load) for name, load in loaders.items()}
        samples: dict[str, list[Sample]] = {name: [] for name in loaders}
        names = list(loaders)
        each_turn = [*names, *(name for name in names if name in twice)]
        turns = [each_turn if number % 2 == 0 else each_turn[::-1] for number in range(self.timing.passes or 1)]
        for name in track([name for turn in turns for name in turn], description=description):
            samples[name] += self._visit(name, loaders[name])
        self._visit_again(samples, loaders)
        self.canary_ms = self._usual_ms(samples)
        self.other_work_cores = neighbours.busy_cores()
        warn_if_disturbed(self.other_work_cores)
        return {name: row_of(samples[name], self.canary_ms, self.timing) for name in names}

    def _visit_again(self, samples: dict[str, list[Sample]], loaders: Mapping[str, Callable[[], Runnable]]) -> None:
        # Only now it is known what the canary's usual time is: the machine may have been slow when the work began.
        seconds_left = self.timing.extra_seconds
        while seconds_left > 0 and (disturbed := self._disturbed(samples)):
            for name in track(disturbed, description="Measuring again what was disturbed"):
                found = self._visit(name, loaders[name])
                samples[name] += found
                seconds_left -= sum(sample.seconds for sample in found)
                if seconds_left <= 0:
                    break

    def _disturbed(self, samples: Mapping[str, list[Sample]]) -> list[str]:
        usual_ms = self._usual_ms(samples)
        return [name for name, found in samples.items() if not is_settled(found, usual_ms, self.timing)]

    def _usual_ms(self, samples: Mapping[str, list[Sample]]) -> float:
        return self._canary.usual_ms([sample for found in samples.values() for sample in found], self.timing.max_drift)

    def _visit(self, name: str, load: Callable[[], Runnable]) -> list[Sample]:
        try:
            return visit(load().run_ms, self._canary.run_ms, self.timing.of_one_pass())
        except DeviceError as error:
            raise DeviceError(f"while measuring {name}: {error}") from error
