"""The clock has the last word: finalists are measured, and a search whose finalists are all too slow goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import AdditiveScorer, AdditiveTable, QuickSupernet

from nas import Architecture, Evolution
from nas.errors import SearchError
from nas.search._strategy import exceeds

Search = Callable[..., Evolution]


class Clock:
    """Networks take `slower` times what the table says, and those named their own multiple of it."""

    def __init__(self, table: AdditiveTable, slower: float, **special: float) -> None:
        self.table, self.slower, self.special = table, slower, special
        self.asked: list[Architecture] = []

    def __call__(self, network: SimpleNamespace) -> float:
        self.asked.append(network.architecture)
        return self.table.latency_ms(network.architecture) * self.special.get(str(network.architecture), self.slower)


def test_the_best_finalist_that_keeps_the_budget_is_the_result(
    tiny_unet: torch.nn.Module, evolve: Search, even_table: AdditiveTable, scorer: AdditiveScorer, tmp_path: Path
) -> None:
    scorer.copy_worth = 0.5
    supernet = QuickSupernet(tiny_unet, even_table.space, duplicate_init="plain")
    options = {"supernet": supernet, "lut": even_table, "group_size": 1, "budget_ms": 32.5}
    right = Clock(even_table, 1.0)
    first = evolve(workdir=tmp_path / "right", measure=right, **options)
    two_copies, one_copy, full, full_again = right.asked
    assert first.architecture == two_copies
    assert full == full_again == even_table.space.full
    too_slow = Clock(even_table, 1.0, **{str(two_copies): 1.1})
    found = evolve(workdir=tmp_path / "wrong", measure=too_slow, **options)
    assert found.architecture == one_copy
    assert found.measured_ms == 31.0
    assert found.steps == first.steps


@pytest.mark.parametrize("slower", [1.03, 1.1, 1.2])
def test_where_no_finalist_keeps_the_budget_the_search_goes_on_below_it(
    evolve: Search, table: AdditiveTable, tmp_path: Path, slower: float
) -> None:
    budget_ms, lines = 0.8 * table.latency_ms(table.space.full), []
    trusting = evolve(workdir=tmp_path / "trusting", group_size=1, budget_ms=budget_ms)
    assert trusting.predicted_ms * slower > budget_ms * 1.01
    found = evolve(
        workdir=tmp_path / "careful",
        group_size=1,
        budget_ms=budget_ms,
        measure=Clock(table, slower),
        report=lines.append,
    )
    assert found.budget_ms == budget_ms
    assert found.measured_ms == pytest.approx(found.predicted_ms * slower)
    assert found.measured_ms <= budget_ms * 1.01
    assert found.steps[: len(trusting.steps)] == trusting.steps
    assert [step.round for step in found.steps] == sorted({step.round for step in found.steps})
    assert not exceeds(found.predicted_ms, budget_ms / slower)
    assert sum("the search goes on" in line for line in lines) == 1


def test_a_noisy_clock_is_given_the_benefit(evolve: Search, table: AdditiveTable, tmp_path: Path) -> None:
    trusting = evolve(workdir=tmp_path / "trusting", group_size=1)
    slower = 1.005 * trusting.budget_ms / trusting.predicted_ms
    found = evolve(workdir=tmp_path / "measured", group_size=1, measure=Clock(table, slower), finalists=1)
    assert found.architecture == trusting.architecture
    assert found.measured_ms > found.budget_ms


def test_a_repeated_run_measures_nothing_anew_and_chooses_the_same(
    evolve: Search, table: AdditiveTable, tmp_path: Path
) -> None:
    options = {"group_size": 1, "workdir": tmp_path / "run"}
    first = evolve(measure=Clock(table, 1.1), **options)
    other = Clock(table, 1.0)  # by which the search would have ended sooner
    again = evolve(measure=other, **options)
    assert other.asked == []
    assert again.architecture == first.architecture
    assert again.history.equals(first.history)
    assert (again.measured_ms, again.full_ms) == (first.measured_ms, first.full_ms)


def test_out_of_reach_the_fastest_is_given_and_people_are_told(
    evolve: Search, table: AdditiveTable, tmp_path: Path
) -> None:
    lines, clock = [], Clock(table, 10.0)
    found = evolve(group_size=1, measure=clock, report=lines.append)
    assert found.measured_ms == min(clock.table.latency_ms(a) * 10.0 for a in clock.asked)
    told = f"measured at {found.measured_ms:.2f} ms: over the budget of {found.budget_ms:.2f} ms"
    assert any(told in line for line in lines)


def test_the_search_goes_on_only_so_often(evolve: Search, table: AdditiveTable) -> None:
    budget_ms, asked, lines = 0.8 * table.latency_ms(table.space.full), [], []

    def ever_slower(network: SimpleNamespace) -> float:
        asked.append(network.architecture)
        return 1.03 * budget_ms + 0.01 * len(asked)

    found = evolve(measure=ever_slower, budget_ms=budget_ms, group_size=1, finalists=1, report=lines.append)
    assert sum("the search goes on" in line for line in lines) == 2
    assert next(a for a in asked if a != table.space.full) == found.architecture


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "three"])
def test_finalists_are_a_whole_number(evolve: Search, tmp_path: Path, count: object) -> None:
    with pytest.raises(SearchError, match=r"finalists is .*; it must be a whole number of at least 1"):
        evolve(finalists=count)
    assert not (tmp_path / "run").exists()


def test_another_number_of_finalists_is_another_run(evolve: Search, table: AdditiveTable) -> None:
    evolve(measure=Clock(table, 1.0), finalists=1)
    with pytest.raises(SearchError, match="finalists"):
        evolve(measure=Clock(table, 1.0), finalists=2)
