"""The decisions of the greedy strategy, on judgements made up for the purpose."""

from __future__ import annotations

import pytest
from fakes import AdditiveTable
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import SearchSpace
from nas.quality import Difference, Score
from nas.search import Action, Greedy, Judgement, State

SCORE = Score.of([0.0, 1.0])


def state_of(table: AdditiveTable, budget_ms: float, **more: object) -> State:
    full = table.space.full
    defaults = {"round": 0, "final": False, "architecture": full, "latency_ms": table.latency_ms(full), "known": {}}
    figures = {"score": SCORE, "budget_ms": budget_ms, "space": table.space, "lut": table}
    return State(**{**defaults, **figures, **more})


def judged(state: State, action: Action, delta: float, *, reach: float = 0.0, round: int = 0) -> Judgement:
    """A judgement with the score difference `delta`, sure up to `reach`."""
    difference = Difference(delta, delta - reach, delta + reach)
    blank = Judgement(action, state.architecture, 0.0, 0.0, SCORE, difference, round)
    return blank.rebased(state.architecture, state.lut)


def removal(state: State, place: str, loss: float) -> Judgement:
    return judged(state, Action("remove", place), -loss)


def names(actions: list[Action]) -> list[str]:
    return [str(action) for action in actions]


def test_proposes_every_removal_while_over_the_budget(even_table: AdditiveTable, places: list[str]) -> None:
    assert names(Greedy().propose(state_of(even_table, 25.0))) == [f"remove {place}" for place in places[:10]]


def test_proposes_only_what_fits_while_under(even_table: AdditiveTable, places: list[str]) -> None:
    gone = even_table.space.full.remove(places[0]).remove(places[1])
    now = {"architecture": gone, "latency_ms": even_table.latency_ms(gone)}
    fits = Greedy().propose(state_of(even_table, 29.0, copies=False, **now))
    assert names(fits) == [f"restore {places[0]}", f"restore {places[1]}"]
    assert names(Greedy().propose(state_of(even_table, 28.5, **now))) == []
    assert len(Greedy().propose(state_of(even_table, 29.0, **now))) == 2 + 26


def test_removes_by_loss_a_millisecond(small_space: SearchSpace, places: list[str]) -> None:
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 1.0), places[1]: 4.0})
    state = state_of(table, 20.0)
    pool = [removal(state, places[0], 0.02), removal(state, places[1], 0.04), removal(state, places[2], 0.03)]
    assert names(Greedy(group_size=1).choose(state, pool)) == [f"remove {places[1]}"]
    assert names(Greedy(group_size=2).choose(state, pool)) == [f"remove {places[1]}", f"remove {places[0]}"]


def test_of_removals_that_lose_nothing_the_largest_goes_first(small_space: SearchSpace, places: list[str]) -> None:
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 1.0), places[1]: 2.0})
    state = state_of(table, 20.0)
    pool = [removal(state, places[0], -0.03), removal(state, places[1], -0.001)]
    assert names(Greedy(group_size=1).choose(state, pool)) == [f"remove {places[1]}"]


def test_the_last_removal_is_the_one_of_least_loss_that_meets_the_budget(
    small_space: SearchSpace, places: list[str]
) -> None:
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 1.0), places[0]: 9.0})
    state = state_of(table, table.latency_ms(small_space.full) - 0.7)
    # The large block is worth less a millisecond, but any block meets the budget.
    pool = [removal(state, places[0], 0.09), removal(state, places[1], 0.03), removal(state, places[2], 0.02)]
    assert names(Greedy().choose(state, pool)) == [f"remove {places[2]}"]


def test_a_share_of_the_gap_is_closed(even_table: AdditiveTable, places: list[str]) -> None:
    state = state_of(even_table, 22.0)  # 8 ms over
    pool = [removal(state, place, 0.01 * (index + 1)) for index, place in enumerate(places[:10])]
    assert len(Greedy(group_size=0.5).choose(state, pool)) == 4
    assert len(Greedy(group_size=0.51).choose(state, pool)) == 5
    assert len(Greedy(group_size=1.0).choose(state, pool)) == 8
    last = state_of(even_table, 22.0, final=True)
    assert len(Greedy(group_size=1).choose(last, pool)) == 8


def test_copies_must_gain_beyond_the_noise(even_table: AdditiveTable, places: list[str]) -> None:
    state = state_of(even_table, 31.0)
    actions = [Action("duplicate", place) for place in places[:3]]
    unsure = [judged(state, actions[0], 0.05, reach=0.06), judged(state, actions[1], -0.01)]
    assert Greedy().choose(state, unsure) == []
    sure = [*unsure, judged(state, actions[2], 0.02, reach=0.01)]
    assert Greedy().choose(state, sure) == [actions[2]]


def test_blocks_come_back_if_they_gain_at_all(even_table: AdditiveTable, places: list[str]) -> None:
    gone = even_table.space.full.remove(places[0]).remove(places[1])
    state = state_of(even_table, 29.0, architecture=gone, latency_ms=28.0, copies=False)
    actions = [Action("restore", place) for place in places[:2]]
    assert Greedy().choose(state, [judged(state, action, -0.01, reach=0.05) for action in actions]) == []
    unsure = [judged(state, actions[0], 0.01, reach=0.05), judged(state, actions[1], 0.02, reach=0.05)]
    assert Greedy().choose(state, unsure) == [actions[1]]


def test_judges_the_best_of_the_last_ranking_and_what_was_never_judged(
    even_table: AdditiveTable, places: list[str]
) -> None:
    state = state_of(even_table, 25.0)
    known = [removal(state, place, 0.01 * (index + 1)) for index, place in enumerate(places[:9])]
    state = state_of(even_table, 25.0, known={judgement.action: judgement for judgement in known})
    lazy = Greedy(candidates=2, group_size=2)
    assert names(lazy.propose(state)) == [f"remove {places[index]}" for index in (0, 1, 9)]
    # The first turned out dear; the third keeps its old value and its rank.
    fresh = [removal(state, places[0], 0.5), removal(state, places[1], 0.02), removal(state, places[9], 0.5)]
    assert names(lazy.choose(state, fresh)) == [f"remove {places[1]}", f"remove {places[2]}"]


costs = st.lists(st.floats(0.1, 5.0), min_size=10, max_size=10)
losses = st.lists(st.floats(-0.1, 0.1), min_size=10, max_size=10)


@settings(max_examples=40, deadline=None)
@given(costs=costs, losses=losses, share=st.floats(0.0, 0.99), group=st.sampled_from([1, 2, 0.25, 1.0]))
def test_a_group_never_overshoots_by_a_whole_block(
    small_space: SearchSpace, places: list[str], costs: list[float], losses: list[float], share: float, group: float
) -> None:
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 1.0), **dict(zip(places, costs, strict=False))})
    state = state_of(table, table.latency_ms(small_space.full) - share * sum(costs) - 0.001)
    pool = [removal(state, place, loss) for place, loss in zip(places, losses, strict=False)]
    group = Greedy(group_size=group).choose(state, pool)
    assert group
    saved = [table.cost_ms[action.place] for action in group]
    assert sum(saved[:-1]) < state.gap_ms  # without the last one the budget was not met yet
    assert len({action.place for action in group}) == len(group)


@pytest.mark.parametrize("exchanges", [0, 1])
def test_an_exchange_takes_one_block_for_another(small_space: SearchSpace, places: list[str], exchanges: int) -> None:
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 1.0), places[0]: 3.0})
    gone = small_space.full.remove(places[0])
    state = state_of(table, 29.0, architecture=gone, latency_ms=table.latency_ms(gone), copies=False)
    known = [removal(state, places[1], 0.01), removal(state, places[2], 0.03)]
    state = state_of(table, 31.0, architecture=gone, latency_ms=29.0, copies=False, known={j.action: j for j in known})
    greedy = Greedy(exchanges=exchanges)
    proposed = greedy.propose(state)
    assert names(proposed) == [f"restore {places[0]}"] * exchanges
    chosen = greedy.choose(state, [judged(state, action, 0.02) for action in proposed])
    assert names(chosen) == [f"restore {places[0]}", f"remove {places[1]}"] * exchanges
