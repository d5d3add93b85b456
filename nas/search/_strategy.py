"""What a search strategy sees and decides. A new strategy is one file with a class of this protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.quality import Difference, Score
from nas.search._actions import Action, Latencies, delta_ms
from nas.search_space import SearchSpace

# Latencies are sums of rows in floating point: a budget is met if it is met up to this share of it.
ROUNDING = 1e-9


def exceeds(latency_ms: float, budget_ms: float) -> bool:
    """Whether a latency is above a budget by more than rounding."""
    return latency_ms > budget_ms * (1 + ROUNDING)


@dataclass(frozen=True)
class Judgement:
    """One action with its figures.

    Attributes:
        action: what would be done.
        architecture: the network after this action alone.
        latency_ms: its predicted latency.
        delta_ms: latency after minus before; negative where time is saved.
        score: the candidate's score.
        difference: candidate minus current network, paired by prompt.
        round: when it was judged.
        complete: whether all prompts were used, not only those of the first look.
    """

    action: Action
    architecture: Architecture
    latency_ms: float
    delta_ms: float
    score: Score
    difference: Difference
    round: int
    complete: bool = True

    @property
    def value(self) -> float:
        """Score per millisecond that the block is worth: what a removal loses, what an addition gains."""
        return self.difference.mean / self.delta_ms if self.delta_ms else 0.0

    def rebased(self, current: Architecture, lut: Latencies) -> Judgement:
        """The judgement as if it had been made of another current network: old score difference, present latencies."""
        change_ms = delta_ms(self.action, current, lut)
        return replace(
            self,
            architecture=self.action.apply(current),
            latency_ms=lut.latency_ms(current) + change_ms,
            delta_ms=change_ms,
        )


@dataclass(frozen=True)
class State:
    """Where a search stands when a strategy is asked.

    Attributes:
        round: number of the round, from 0.
        final: whether this is the last round in which blocks may be removed step by step.
        architecture: the current network.
        latency_ms: its predicted latency.
        score: its score in this round.
        budget_ms: the latency to get under.
        space: the search space.
        lut: its latencies.
        known: the latest judgement of every action judged so far, those of earlier rounds included.
        exchanges: in how many steps a block was added and another removed.
        copies: whether duplicating can change a score at all (an identity copy that is not trained before it is judged
            cannot).
    """

    round: int
    final: bool
    architecture: Architecture
    latency_ms: float
    score: Score
    budget_ms: float
    space: SearchSpace
    lut: Latencies
    known: Mapping[Action, Judgement]
    exchanges: int = 0
    copies: bool = True

    @property
    def gap_ms(self) -> float:
        """What must still be saved; zero or negative once the budget is met."""
        return self.latency_ms - self.budget_ms

    @property
    def over(self) -> bool:
        """Whether the budget is not met yet."""
        return exceeds(self.latency_ms, self.budget_ms)

    def recall(self, action: Action) -> Judgement | None:
        """The latest judgement of an action, brought to the current network; None if it was never judged."""
        known = self.known.get(action)
        return known and known.rebased(self.architecture, self.lut)


class Strategy(Protocol):
    """Decides what is judged in a round and what is done.

    Both methods must be functions of their arguments alone: a run that was killed is replayed through them.
    """

    def describe(self) -> Mapping[str, Any]:
        """What identifies the strategy and its options, as JSON can hold it."""

    def propose(self, state: State) -> Sequence[Action]:
        """The actions to be judged in this round; none ends the search."""

    def rank(self, judgements: Sequence[Judgement]) -> list[Judgement]:
        """The judgements of a round, the most attractive first."""

    def choose(self, state: State, judged: Sequence[Judgement]) -> Sequence[Action]:
        """The actions, each at another place, to be done together; none ends the search."""
