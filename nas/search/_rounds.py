"""The rounds of a search: train, judge, choose, act."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nas._progress import track
from nas.architecture import Architecture
from nas.quality import Score
from nas.search._actions import KEEP, Action, Latencies
from nas.search._judging import COMPLETE, FIRST_LOOK, Case, Judge
from nas.search._steps import Move, Step
from nas.search._strategy import Judgement, State, Strategy, exceeds
from nas.search._weights import Weights
from nas.search_space import SearchSpace

# How many of the candidates that had a first look are judged on all prompts.
PROMOTED = 0.5


@dataclass(frozen=True)
class Visit:
    """A network that was the current one, with its latency and score."""

    architecture: Architecture
    latency_ms: float
    score: Score


@dataclass
class Rounds:
    """Runs a search from its start to its end; replays what the journal has.

    Attributes:
        space: the search space.
        lut: its latencies.
        judge: gives candidates their figures.
        weights: trains between rounds.
        strategy: decides.
        budget_ms: the budget.
        max_rounds: after so many rounds nothing is added any more, and what must still be removed goes at once.
        copies: whether duplicating can change a score.
        on_step: told of each step, and the budget it was taken for.
    """

    space: SearchSpace
    lut: Latencies
    judge: Judge
    weights: Weights
    strategy: Strategy
    budget_ms: float
    max_rounds: int
    copies: bool = True
    on_step: Callable[[Step, float], None] = lambda step, budget_ms: None
    steps: list[Step] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    _round: int = 0
    _known: dict[Action, Judgement] = field(default_factory=dict)

    def run(self, start: Architecture) -> None:
        """Search from `start` until the strategy has nothing to do any more.

        It may be called again, with a lower `budget_ms`: the rounds, and what they learned, go on.
        """
        architecture: Architecture | None = start
        while architecture is not None:
            self.weights.enter(self._round, architecture)
            state = self._look_at(self._round, architecture)
            architecture = self._advance(state)
            self._round += 1

    def within_budget(self) -> list[Visit]:
        """The networks that were the current one and keep the budget by the table, the best first."""
        within = [visit for visit in self.visits if not exceeds(visit.latency_ms, self.budget_ms)]
        return sorted(within, key=lambda visit: (-visit.score.mean, visit.latency_ms))

    def _look_at(self, round: int, architecture: Architecture) -> State:
        kept = self.judge.judge(Case(round, KEEP, architecture))
        self.visits.append(Visit(architecture, kept.latency_ms, kept.score))
        return State(
            round=round,
            final=round + 1 >= self.max_rounds,
            architecture=architecture,
            latency_ms=kept.latency_ms,
            score=kept.score,
            budget_ms=self.budget_ms,
            space=self.space,
            lut=self.lut,
            known=dict(self._known),
            exchanges=sum(step.is_exchange for step in self.steps),
            copies=self.copies,
        )

    def _advance(self, state: State) -> Architecture | None:
        """One round; None where the search ends."""
        if state.round >= self.max_rounds and not state.over:
            return None
        judged = self._judge_all(state, self.strategy.propose(state))
        chosen = self.strategy.choose(state, judged)
        if not chosen:
            return None
        self._known.update({judgement.action: judgement for judgement in judged})
        step = self._act(state, chosen)
        self._forget({action.place for action in chosen})
        self.steps.append(step)
        self.on_step(step, self.budget_ms)
        seen = any(visit.architecture == step.architecture for visit in self.visits)
        return None if seen else step.architecture

    def _judge_all(self, state: State, actions: Sequence[Action]) -> list[Judgement]:
        if self.judge.first_look is None or self.judge.first_look >= len(state.score.values):
            return self._judge_stage(state, actions, COMPLETE)
        looks = self._judge_stage(state, actions, FIRST_LOOK)
        promoted = [look.action for look in self.strategy.rank(looks)[: math.ceil(PROMOTED * len(looks))]]
        complete = self._judge_stage(state, [action for action in actions if action in promoted], COMPLETE)
        return complete + [look for look in looks if look.action not in promoted]

    def _judge_stage(self, state: State, actions: Sequence[Action], stage: str) -> list[Judgement]:
        bar = track(actions, description=f"Round {state.round}, {stage}", total=len(actions))
        return [self.judge.judge(Case(state.round, action, state.architecture, state.score, stage)) for action in bar]

    def _act(self, state: State, chosen: Sequence[Action]) -> Step:
        architecture = state.architecture
        for action in chosen:
            architecture = action.apply(architecture)
        self.space.check(architecture)
        return Step(
            round=state.round,
            moves=tuple(Move.of(self._known[action].rebased(state.architecture, self.lut)) for action in chosen),
            before=state.architecture,
            architecture=architecture,
            before_ms=state.latency_ms,
            latency_ms=self.lut.latency_ms(architecture),
            score=state.score.mean,
        )

    def _forget(self, places: set[str]) -> None:
        # Where something was done, the same action means something else from now on.
        self._known = {action: known for action, known in self._known.items() if action.place not in places}
