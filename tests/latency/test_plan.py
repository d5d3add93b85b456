from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nas import SearchSpace, Workload
from nas.latency._plan import BASE, Plan, evenly_among


@given(few=st.integers(0, 30), many=st.integers(0, 200))
def test_what_is_spread_evenly_is_in_order_and_everywhere(few: int, many: int) -> None:
    first, second = {-1 - n: "few" for n in range(few)}, dict.fromkeys(range(many), "many")
    both = evenly_among(first, second)
    assert both == {**first, **second}
    assert [name for name in both if name < 0] == list(first)
    assert [name for name in both if name >= 0] == list(second)
    # Of every stretch of the order about the same share is of the few.
    seen = 0
    for done, name in enumerate(both, start=1):
        seen += name < 0
        assert abs(seen - done * few / len(both)) <= 1


def test_networks_held_out_are_among_the_rows(tiny_space: SearchSpace) -> None:
    workload = Workload.of(tiny_space)
    options = {"home": "cpu", "copies": True, "whole_networks": 2}
    plan = Plan.of(tiny_space, workload, held_out=3, seed=1, **options)
    names = list(plan.subjects)
    assert names[:3] == [BASE, *plan.wholes]
    places = [names.index(name) for name in plan.held_out]
    assert places == sorted(places)
    assert min(places) > 3
    assert max(places) < len(names) - 1
    assert min(second - first for first, second in pairwise(places)) > 1
    assert [name for name in names if name not in plan.held_out] == list(
        Plan.of(tiny_space, workload, **options).subjects
    )
    assert plan.networks == {BASE, *plan.wholes, *plan.held_out}
