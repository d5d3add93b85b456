"""Measuring many things on one device: each in its turn, several times over, then once more what is not settled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from nas._progress import track
from nas.errors import DeviceError
from nas.latency._kept import Kept
from nas.latency._neighbours import Neighbours, warn_if_disturbed
from nas.latency._row import Row
from nas.latency._speed import Speed
from nas.latency._timing import Sample, Timing, is_settled, relative_error_of, row_of, visit
from nas.latency._visits import Visits

if TYPE_CHECKING:
    from nas.latency.devices import Runnable


# What a table says of the machine while it was measured: see `Speed`, and `Bench.other_work_cores`.
PROVENANCE = ("canary_ms", "canary_spread_ms", "canary_sensitivity", "canary_sensitivity_long", "other_work_cores")


class Bench:
    """A place to measure at, with a canary there.

    Args:
        canary: ready to run.
        timing: how long to measure; one pass unless it says more.
        canary_ms: the canary's time that is expected, such as when a table was measured; the rows' drift is against it.
        keep_mb: weights of what was loaded that may be kept between passes.

    Attributes:
        speed: the one that all times were taken back to, once something was measured.
        other_work_cores: how many cores other programs kept busy during the last measurement, or since it was gone on
            with, loading left out; None if unknown.
    """

    def __init__(
        self, canary: Runnable, timing: Timing, *, canary_ms: float | None = None, keep_mb: float = 0.0
    ) -> None:
        self.timing = timing
        self._canary, self._canary_ms, self._keep_mb = canary, canary_ms, keep_mb
        canary.run_ms()  # which warms it up
        self.speed: Speed | None = None
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
        visited: dict[str, list[list[Sample]]] = {name: [] for name in loaders}
        self._visits = visits
        names = list(loaders)
        each_turn = [*names, *(name for name in names if name in twice)]
        turns = [each_turn if number % 2 == 0 else each_turn[::-1] for number in range(self.timing.passes or 1)]
        for name in track([name for turn in turns for name in turn], description=description):
            visited[name].append(self._visit(name, loaders[name]))
        self._visit_again(visited, loaders)
        self.speed = self._speed(visited)
        self.other_work_cores = self._neighbours.busy_cores()
        warn_if_disturbed(self.other_work_cores)
        return {name: row_of(visited[name], self.speed) for name in names}

    def provenance(self) -> dict[str, float]:
        """What a table says of the last measurement, by names of `PROVENANCE`: the speed, others' work where known."""
        if self.speed is None:
            return {}
        speed, cores = self.speed, self.other_work_cores
        found = (speed.canary_ms, speed.spread_ms, speed.short.sensitivity, speed.long.sensitivity, cores)
        named = zip(PROVENANCE, found, strict=True)
        return {name: round(value, 6) for name, value in named if value is not None}

    def _visit_again(
        self, visited: dict[str, list[list[Sample]]], loaders: Mapping[str, Callable[[], Runnable]]
    ) -> None:
        seconds_left = self.timing.extra_seconds
        while seconds_left > 0 and (unsettled := self._unsettled(visited)):
            for name in track(unsettled, description="Measuring again what is not settled"):
                visited[name].append(self._visit(name, loaders[name]))
                seconds_left -= sum(sample.seconds for sample in visited[name][-1])
                if seconds_left <= 0:
                    break

    def _unsettled(self, visited: Mapping[str, list[list[Sample]]]) -> list[str]:
        """The least settled first."""
        speed = self._speed(visited)
        found = [name for name, visits in visited.items() if not is_settled(visits, speed, self.timing)]
        return sorted(found, key=lambda name: -relative_error_of(visited[name], speed))

    def _speed(self, visited: Mapping[str, list[list[Sample]]]) -> Speed:
        return Speed.of(visited.values(), self._canary_ms)

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
