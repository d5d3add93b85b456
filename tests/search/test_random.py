"""Random architectures of a given latency."""

from __future__ import annotations

import random

import pytest
from fakes import AdditiveTable

from nas import SearchSpace
from nas.errors import BudgetError
from nas.search import random_architecture_at


@pytest.mark.parametrize("seed", range(5))
def test_just_under_the_budget(small_space: SearchSpace, table: AdditiveTable, seed: int) -> None:
    budget_ms = 0.75 * table.latency_ms(small_space.full)
    found = random_architecture_at(small_space, table, budget_ms, random.Random(seed))
    assert table.latency_ms(found) <= budget_ms
    assert not found.added
    assert all(table.latency_ms(found.with_choice(place, "1")) > budget_ms for place in found.removed)
    assert found == random_architecture_at(small_space, table, budget_ms, random.Random(seed))


def test_different_seeds_differ(small_space: SearchSpace, table: AdditiveTable) -> None:
    budget_ms = 0.75 * table.latency_ms(small_space.full)
    found = {random_architecture_at(small_space, table, budget_ms, random.Random(seed)) for seed in range(10)}
    assert len(found) > 5


def test_an_impossible_budget(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    with pytest.raises(BudgetError, match=r"the smallest takes 20\.00 ms"):
        random_architecture_at(small_space, even_table, 19.0, random.Random(0))
