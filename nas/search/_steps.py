"""What a search did, round by round, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nas.architecture import Architecture
from nas.search._actions import REMOVE
from nas.search._strategy import Judgement


@dataclass(frozen=True)
class Move:
    """One action that was done, with the figures it was chosen for.

    Attributes:
        action: "remove", "duplicate" or "restore".
        place: where.
        delta_ms: what it adds to the predicted latency; negative where it saves.
        delta_score: what it alone did to the score when it was last judged.
        low: lower end of that difference's 95 % interval.
        high: upper end.
        value: `delta_score / delta_ms`.
        judged: round of that judgement.
    """

    action: str
    place: str
    delta_ms: float
    delta_score: float
    low: float
    high: float
    value: float
    judged: int

    @classmethod
    def of(cls, judgement: Judgement) -> Move:
        """What is worth keeping of a judgement."""
        action, difference = judgement.action, judgement.difference
        figures = difference.mean, difference.low, difference.high, judgement.value
        return cls(action.kind, action.place, judgement.delta_ms, *figures, judgement.round)


@dataclass(frozen=True)
class Step:
    """What one round did.

    Attributes:
        round: its number, from 0.
        moves: what was done together.
        before: the network before.
        architecture: the network after.
        before_ms: predicted latency before.
        latency_ms: predicted latency after.
        score: score of the network before.
    """

    round: int
    moves: tuple[Move, ...]
    before: Architecture
    architecture: Architecture
    before_ms: float
    latency_ms: float
    score: float

    @property
    def is_exchange(self) -> bool:
        """Whether it added something in the place of something else."""
        kinds = {move.action for move in self.moves}
        return REMOVE in kinds and len(kinds) > 1

    def lines(self, *, name: str, budget_ms: float) -> Iterator[str]:
        """For people, one line a move: what, what it does to latency and score, and where that leads."""
        latency_ms = self.before_ms
        for move in self.moves:
            latency_ms += move.delta_ms
            what = f"round {self.round} {move.action} {move.place} {move.delta_ms:+.2f} ms"
            worth = f"{name} {move.delta_score:+.4f} ({move.value:.2g} per ms)"
            yield f"{what}, {worth} -> {latency_ms:.2f} ms (budget {budget_ms:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "before": str(self.before), "architecture": str(self.architecture)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Step:
        """What `to_dict` gave."""
        moves = tuple(Move(**move) for move in data["moves"])
        before, architecture = Architecture.parse(data["before"]), Architecture.parse(data["architecture"])
        return cls(**{**data, "moves": moves, "before": before, "architecture": architecture})
