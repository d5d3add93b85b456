"""The paper's search: remove what is worth least a millisecond, then add what is worth most.

Algorithm 1 of SnapFusion (https://arxiv.org/abs/2306.00980), with its open points as options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.errors import SearchError
from nas.search._actions import RESTORE, Action, additions, delta_ms, removals
from nas.search._strategy import ROUNDING, Judgement, State


@dataclass(frozen=True)
class Greedy:
    """Removes while over the budget, adds while under it what fits and gains.

    Attributes:
        group_size: how many actions are done at a time: a number of them (int), or the share of the remaining gap that
            they close together (float in (0, 1]). Large groups need fewer rounds and trust values that were measured
            one by one.
        candidates: None judges every possible action in every round. A number k judges only the k that ranked best when
            last judged (and those never judged); the others keep their old value in the ranking. That is k instead of
            some dozens of evaluations a round, at the price of old values: a block that has become cheap to remove
            since it was last judged is not noticed.
        exchanges: how many additions may be made that only fit if another block goes in the same step. Which one goes
            is decided by the values of earlier rounds; what comes of it is judged as a whole, and the best network of
            all rounds wins. 0 stops when nothing fits any more.
    """

    group_size: int | float = 0.5
    candidates: int | None = None
    exchanges: int = 0

    def __post_init__(self) -> None:
        whole = isinstance(self.group_size, int) and self.group_size >= 1
        share = isinstance(self.group_size, float) and 0 < self.group_size <= 1
        if isinstance(self.group_size, bool) or not (whole or share):
            raise SearchError(f"group_size is {self.group_size!r}; give a whole number from 1 or a share in (0, 1]")
        if self.candidates is not None and self.candidates < 1:
            raise SearchError(f"candidates is {self.candidates!r}; give None for all blocks or a number of at least 1")
        if self.exchanges < 0:
            raise SearchError(f"exchanges is {self.exchanges!r}; give a number of at least 0")

    def describe(self) -> Mapping[str, Any]:
        return {
            "name": "greedy",
            "group_size": self.group_size,
            "candidates": self.candidates,
            "exchanges": self.exchanges,
        }

    def propose(self, state: State) -> Sequence[Action]:
        actions = self._possible(state)
        if self.candidates is None:
            return actions
        old = [judgement for action in actions if (judgement := state.recall(action))]
        best = {judgement.action for judgement in self.rank(old)[: self.candidates]}
        return [action for action in actions if action in best or action not in state.known]

    def rank(self, judgements: Sequence[Judgement]) -> list[Judgement]:
        return sorted(judgements, key=_attraction)

    def choose(self, state: State, judged: Sequence[Judgement]) -> Sequence[Action]:
        now = {judgement.action: judgement for judgement in judged}
        pool = [now.get(action) or state.recall(action) for action in self._possible(state)]
        ranked = self.rank([judgement for judgement in pool if judgement])
        if state.over:
            return self._removal_group(state, ranked)
        return self._addition_group(state, ranked)

    def _possible(self, state: State) -> list[Action]:
        if state.over:
            return removals(state.space, state.architecture, state.lut)
        actions = additions(state.space, state.architecture, state.lut, copies=state.copies)
        if state.exchanges < self.exchanges:
            return actions
        return [action for action in actions if delta_ms(action, state.architecture, state.lut) <= _room_ms(state)]

    def _removal_group(self, state: State, ranked: list[Judgement]) -> list[Action]:
        missing_ms = state.gap_ms - state.budget_ms * ROUNDING
        group: list[Action] = []
        saved_ms = 0.0
        while ranked and not self._enough(state, len(group), saved_ms):
            last = _cheapest_that_saves(ranked, missing_ms - saved_ms)
            # The next in rank would meet the budget anyway: take whichever does so at the least loss.
            taken = last if last and -ranked[0].delta_ms >= missing_ms - saved_ms else ranked[0]
            ranked = [judgement for judgement in ranked if judgement is not taken]
            group.append(taken.action)
            saved_ms -= taken.delta_ms
            if saved_ms >= missing_ms:
                break
        return group

    def _enough(self, state: State, taken: int, saved_ms: float) -> bool:
        if state.final or taken == 0:
            return False
        if isinstance(self.group_size, int):
            return taken >= self.group_size
        return saved_ms >= self.group_size * state.gap_ms

    def _addition_group(self, state: State, ranked: list[Judgement]) -> list[Action]:
        gains = [judgement for judgement in ranked if _gains(judgement)]
        room_ms = _room_ms(state)
        group: list[Action] = []
        spent_ms = 0.0
        for judgement in gains:
            if group and self._full(group, spent_ms, room_ms):
                break
            if spent_ms + judgement.delta_ms <= room_ms and not _same_place(judgement.action, group):
                group.append(judgement.action)
                spent_ms += judgement.delta_ms
        return group or _best_exchange(state, gains)

    def _full(self, group: list[Action], spent_ms: float, room_ms: float) -> bool:
        if isinstance(self.group_size, int):
            return len(group) >= self.group_size
        return spent_ms >= self.group_size * room_ms


def _gains(judgement: Judgement) -> bool:
    """Whether an addition is worth it: a copy must gain beyond the noise, a block of the full network need not.

    Putting one back where there is room costs nothing, and that it helps is likely before it is measured.
    """
    sure = judgement.difference.settled or judgement.action.kind == RESTORE
    return sure and judgement.difference.mean > 0


def _room_ms(state: State) -> float:
    return -state.gap_ms + state.budget_ms * ROUNDING


def _best_exchange(state: State, gains: list[Judgement]) -> list[Action]:
    """An addition and the removal that makes room for it, by what is known of both alone; nothing if none gains."""
    possible = removals(state.space, state.architecture, state.lut)
    losses = [judgement for action in possible if (judgement := state.recall(action))]
    pairs = [
        (gain.difference.mean + loss.difference.mean, gain.action, loss.action)
        for gain in gains
        for loss in losses
        if gain.action.place != loss.action.place and gain.delta_ms + loss.delta_ms <= _room_ms(state)
    ]
    net, *actions = max(pairs, default=(0.0,))
    return actions if net > 0 else []


def _attraction(judgement: Judgement) -> tuple[int, float, str]:
    """Sort key: removals by loss a millisecond, least first; additions by gain a millisecond, most first.

    Among removals that lose nothing the ratio would prefer whichever saves least time, so there the one that saves most
    leads.
    """
    if judgement.action.adds:
        return 0, -judgement.value, judgement.action.place
    if judgement.value <= 0:
        return 0, judgement.delta_ms, judgement.action.place
    return 1, judgement.value, judgement.action.place


def _cheapest_that_saves(judgements: list[Judgement], missing_ms: float) -> Judgement | None:
    enough = [judgement for judgement in judgements if -judgement.delta_ms >= missing_ms]
    return min(enough, key=lambda j: (-j.difference.mean, -j.delta_ms, j.action.place), default=None)


def _same_place(action: Action, group: list[Action]) -> bool:
    return any(action.place == other.place for other in group)
