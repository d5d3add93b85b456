"""The clock has the last word: what the table lets through is measured before one of the networks is the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas.architecture import Architecture
from nas.errors import DeviceError, SearchError
from nas.search._actions import Latencies, smallest
from nas.search._journal import Journal
from nas.search._rounds import Rounds, Visit

if TYPE_CHECKING:
    from torch import nn

    from nas.supernet import Supernet

# Two measurements of one network on a quiet machine differ by about so much.
NOISE = 0.01
# Where no finalist keeps the budget, the search goes on below it, at most so often.
RESUMPTIONS = 2
# While the full network takes longer than in the table the machine is disturbed. So many measurements at most.
LOOKS = 3
_EXTRA_SECONDS = 20.0  # a look's for what is not settled
_FULL = "full"

Measure = Callable[["nn.Module"], float]


@dataclass(frozen=True)
class Finalist:
    """The network that a search ends with, before it is trained on.

    Attributes:
        architecture: which.
        measured_ms: its latency; None if it was not measured.
        full_ms: latency of the full network, measured in turns with it; None if it was not measured.
        slowdown: by what fraction that is more than in the table; None if it is not known.
    """

    architecture: Architecture
    measured_ms: float | None = None
    full_ms: float | None = None
    slowdown: float | None = None

    @property
    def undisturbed_ms(self) -> float | None:
        """What it would have taken had the full network been no slower than in the table."""
        return None if self.measured_ms is None else self.measured_ms / (1 + max(self.slowdown or 0.0, 0.0))


@dataclass
class Finalists:
    """Measures the best networks of a search in turns with the full one, and has it go on where none keeps the budget.

    Attributes:
        supernet: where the networks' weights are.
        lut: latency table.
        budget_ms: what a network may take when measured on a machine that is as fast as it was for the table.
        count: how many networks are measured at most.
        measure: whether to measure on the table's device, or what to measure with.
        tell: told in a line what was found to be over the budget.
    """

    supernet: Supernet
    lut: Latencies
    budget_ms: float
    count: int
    measure: bool | Measure
    tell: Callable[[str], object]
    _resumptions: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise SearchError(f"finalists is {self.count!r}; it must be a whole number of at least 1")

    def identity(self) -> dict[str, int]:
        """What decides which networks are measured."""
        return {"finalists": 0 if self.measure is False else self.count}

    def choose(self, rounds: Rounds, journal: Journal) -> Finalist:
        """The best network of the rounds that keeps the budget when it is measured.

        Where none does, the table is too fast by at least so much: the rounds go on to a budget lower by that. Where
        that leads nowhere, the fastest of those measured is given. What was measured is kept in the journal, so that a
        run that is repeated chooses the same.

        Raises:
            SearchError: the rounds ended above the budget by the table.
        """
        best = rounds.within_budget()
        if not best:
            raise SearchError(f"the strategy ended above the budget, at {rounds.visits[-1].latency_ms:.2f} ms")
        over: list[tuple[Visit, Finalist]] = []
        while best:
            visits = best[: self.count]
            times = self._measured([visit.architecture for visit in visits], journal, f"measured {len(over)}")
            if times is None:
                return Finalist(best[0].architecture)
            for visit in visits:
                finalist = self._finalist(visit.architecture, times)
                if finalist.undisturbed_ms <= self.budget_ms * (1 + NOISE):
                    return finalist
                over.append((visit, finalist))
            best = self._go_on(rounds, over, start=visits[0])
        fastest = min((finalist for _, finalist in over), key=lambda finalist: finalist.undisturbed_ms)
        self.tell(
            f"the fastest network was measured at {fastest.measured_ms:.2f} ms: over the budget of "
            f"{self.budget_ms:.2f} ms"
        )
        return fastest

    def _go_on(self, rounds: Rounds, over: Sequence[tuple[Visit, Finalist]], *, start: Visit) -> list[Visit]:
        """Search on below the budget, from `start`; what is found there, best first, none if nothing is."""
        # Of those over the budget none is within this: each takes more than the budget, so this is below what the
        # table says of it.
        lower_ms = self.budget_ms * min(visit.latency_ms / finalist.undisturbed_ms for visit, finalist in over)
        out_of_reach = lower_ms < self.lut.latency_ms(smallest(self.supernet.space, self.lut))
        if out_of_reach or self._resumptions >= RESUMPTIONS:
            return []
        self._resumptions += 1
        self.tell(
            f"no finalist keeps the budget of {self.budget_ms:.2f} ms when it is measured: the search goes on, to "
            f"{lower_ms:.2f} ms by the table"
        )
        rounds.budget_ms = lower_ms
        rounds.run(start.architecture)
        return rounds.within_budget()

    def _measured(
        self, architectures: Sequence[Architecture], journal: Journal, note: str
    ) -> Mapping[str, float] | None:
        """Latency in ms of each and of the full network, from the note if it is there; None where not measured."""
        if self.measure is False:
            return None
        times = journal.noted(note)
        if times is None:
            networks = {str(architecture): self.supernet.candidate(architecture) for architecture in architectures}
            networks[_FULL] = self.supernet.candidate(self.supernet.space.full)
            times = self._measured_in_peace(networks)
            if times is not None:
                journal.note(note, times)
        return times

    def _measured_in_peace(self, networks: Mapping[str, nn.Module]) -> Mapping[str, float] | None:
        """The look at which the full network was fastest."""
        looks: list[dict[str, float]] = []
        while len(looks) < LOOKS and (look := self._look(networks)) is not None:
            looks.append(look)
            if (self._slowdown(look) or 0.0) <= NOISE:
                break
        return min(looks, key=lambda times: times[_FULL], default=None)

    def _look(self, networks: Mapping[str, nn.Module]) -> dict[str, float] | None:
        if callable(self.measure):
            return {name: float(self.measure(network)) for name, network in networks.items()}
        from nas.latency import PATIENT, measure_networks_ms

        try:
            rows = measure_networks_ms(networks, self.lut, timing=replace(PATIENT, extra_seconds=_EXTRA_SECONDS))
        except DeviceError:  # the table may be of a device that is elsewhere
            return None
        return {name: row.latency_ms for name, row in rows.items()}

    def _finalist(self, architecture: Architecture, times: Mapping[str, float]) -> Finalist:
        return Finalist(architecture, times[str(architecture)], times[_FULL], self._slowdown(times))

    def _slowdown(self, times: Mapping[str, float]) -> float | None:
        then = getattr(self.lut, "wholes", {}).get(self.supernet.space.full)
        return None if then is None else times[_FULL] / then.latency_ms - 1
