"""Measuring many things on one device: each in its turn, several times over, then once more what was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from nas._progress import track
from nas.errors import DeviceError
from nas.latency._kept import Kept
from nas.latency._neighbours import Neighbours, warn_if_disturbed
from nas.latency._row import Row
from nas.latency._timing import Canary, Sample, Timing, is_settled, row_of, visit
from nas.latency._visits import Visits

if TYPE_CHECKING:
    from nas.latency.devices import Runnable


class Bench:
    """A place to measure at, with a canary there.

    Args:
        canary: ready to run.
        timing: how long to measure; one pass unless it says more.
        canary_ms: the canary's time when the machine is as it should be; that of an undisturbed one, as far as
            the samples show it, when None.
        keep_mb: weights of what was loaded that may be kept between passes.

    Attributes:
        canary_ms: that time, once something was measured.
        other_work_cores: how many cores other programs kept busy during the last measurement, or since it was gone on
            with, loading left out; None if unknown.
    """

    def __init__(
        self, canary: Runnable, timing: Timing, *, canary_ms: float | None = None, keep_mb: float = 0.0
    ) -> None:
        self.timing = timing
        self._canary, self._keep_mb = Canary(canary, reference_ms=canary_ms), keep_mb
        self.canary_ms = canary_ms or 0.0
        self.other_work_cores: float | None = 0.0
        self._visits: Visits | None = None
        self._neighbours = Neighbours()

    def measure_all(
        self,
        loaders: Mapping[str, Callable[[], Runnable]],
        *,
        description: str,
        twice: Collection[str] = (),
        visits: Visits | None = None,
    ) -> dict[str, Row]:
        """Measure each; one at a time is loaded, and forgotten before the next unless there is room to keep it.

        Warns if other programs were busy.

        Args:
            loaders: by name, what makes it ready to run.
            description: for the progress bar.
            twice: names of those that are measured at the end of every pass as well: what all else depends on.
            visits: where to keep what every visit finds, and what an interrupted measurement found before.

        Raises:
            DeviceError: one cannot be run; the message has its name.
        """
        self._neighbours, kept = Neighbours(), Kept(self._keep_mb)
        loaders = {name: partial(kept.get, name, load) for name, load in loaders.items()}
        samples: dict[str, list[Sample]] = {name: [] for name in loaders}
        self._visits = visits
        names = list(loaders)
        each_turn = [*names, *(name for name in names if name in twice)]
        turns = [each_turn if number % 2 == 0 else each_turn[::-1] for number in range(self.timing.passes or 1)]
        for name in track([name for turn in turns for name in turn], description=description):
            samples[name] += self._visit(name, loaders[name])
        self._visit_again(samples, loaders)
        self.canary_ms = self._usual_ms(samples)
        self.other_work_cores = self._neighbours.busy_cores()
        warn_if_disturbed(self.other_work_cores)
        return {name: row_of(samples[name], self.canary_ms, self.timing) for name in names}

    def provenance(self) -> dict[str, float]:
        """What a table says of the last measurement: the canary's usual time, other programs' work where known."""
        cores = {} if self.other_work_cores is None else {"other_work_cores": round(self.other_work_cores, 3)}
        return {"canary_ms": round(self.canary_ms, 6), **cores}

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
        if self._visits and (known := self._visits.replay(name)) is not None:
            return known
        try:
            with self._neighbours.not_counting():
                runnable = load()
            found = self._visited(runnable)
        except DeviceError as error:
            raise DeviceError(f"while measuring {name}: {error}") from error
        if self._visits:
            self._visits.keep(name, found)
        return found

    def _visited(self, runnable: Runnable) -> list[Sample]:
        # Of a `RunnableInParts`, whose module a kit for another machine does not have.
        in_parts = getattr(runnable, "run_parts_ms", None)
        return visit(runnable.run_ms, self._canary.run_ms, self.timing.of_one_pass(), run_parts_ms=in_parts)
