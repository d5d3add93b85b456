"""What can be done to an architecture in one move, and what each move does to its latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas.architecture import KEPT, Architecture
from nas.errors import NasError
from nas.search_space import SearchSpace
from nas.workload import Workload

REMOVE = "remove"
DUPLICATE = "duplicate"
RESTORE = "restore"


class Latencies(Protocol):
    """The part of a latency table that a search needs."""

    base_ms: float

    def latency_ms(self, architecture: Architecture, /) -> float:
        """The predicted latency of an architecture."""

    def require(self, workload: Workload, /) -> None:
        """Raise a `TableError` if the latencies are of another workload."""


@dataclass(frozen=True, order=True)
class Action:
    """One change at one place.

    Attributes:
        kind: "remove" (one run fewer), "duplicate" (one copy more) or "restore" (put a removed block back). Three more
            change nothing and name networks in the journal: "keep" the current one, the yardstick of a round's
            candidates; "full" and "result" those before and after the search.
        place: where; empty if nothing changes.
    """

    kind: str
    place: str = ""

    def apply(self, architecture: Architecture) -> Architecture:
        """The architecture after the action."""
        if self.kind == REMOVE:
            return architecture.remove(self.place)
        if self.kind == DUPLICATE:
            return architecture.duplicate(self.place)
        if self.kind == RESTORE:
            return architecture.with_choice(self.place, KEPT)
        return architecture

    @property
    def adds(self) -> bool:
        """Whether the network grows."""
        return self.kind in (DUPLICATE, RESTORE)

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".strip()


KEEP = Action("keep")
FULL = Action("full")
RESULT = Action("result")


def removals(space: SearchSpace, architecture: Architecture, lut: Latencies) -> list[Action]:
    """Every removal that makes the network faster, in network order."""
    actions = [Action(REMOVE, block.place) for block in space.removable(architecture)]
    now_ms = lut.latency_ms(architecture)
    return [action for action in actions if lut.latency_ms(action.apply(architecture)) < now_ms]


def additions(space: SearchSpace, architecture: Architecture, lut: Latencies, *, copies: bool = True) -> list[Action]:
    """Every removed block put back and, with `copies`, every block duplicated; whatever it costs."""
    actions = [Action(RESTORE, place) for place in architecture.removed]
    if copies:
        actions += [Action(DUPLICATE, block.place) for block in space.duplicable(architecture)]
    now_ms = lut.latency_ms(architecture)
    return [action for action in actions if lut.latency_ms(action.apply(architecture)) > now_ms]


def delta_ms(action: Action, architecture: Architecture, lut: Latencies) -> float:
    """What the action adds to the predicted latency; negative where it saves."""
    return lut.latency_ms(action.apply(architecture)) - lut.latency_ms(architecture)


def smallest(space: SearchSpace, lut: Latencies) -> Architecture:
    """The fastest architecture of the space: all that saves time is removed."""
    architecture = space.full
    for action in removals(space, architecture, lut):
        architecture = action.apply(architecture)
    return architecture


def largest(space: SearchSpace, lut: Latencies) -> Architecture:
    """Every block with as many copies as the space allows, if the table knows what copies cost."""
    return _with_all_copies(space) if can_copy(space, lut) else space.full


def can_copy(space: SearchSpace, lut: Latencies) -> bool:
    """Whether blocks may be copied and the table knows what that costs."""
    try:
        lut.latency_ms(_with_all_copies(space))
    except NasError:
        return False
    return space.max_copies > 0


def _with_all_copies(space: SearchSpace) -> Architecture:
    return Architecture(tuple((place, str(1 + space.max_copies)) for place in space.full.places))
