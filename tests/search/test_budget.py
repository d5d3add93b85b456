"""What a budget may be, and what is said before a long run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import AdditiveTable

from nas import SearchSpace, Supernet
from nas.errors import ArchitectureError, BudgetError, SearchError, TableError
from nas.latency import Pair, Validation
from nas.search import profile
from nas.search._budget import safety_margin


@pytest.mark.parametrize("budget_ms", [0, -1.0, float("nan"), float("inf"), "12", None, True, [3.0]])
def test_a_budget_is_a_positive_number(small_space: SearchSpace, even_table: AdditiveTable, budget_ms: object) -> None:
    with pytest.raises(BudgetError, match=r"a positive number of milliseconds; attainable is 20\.00 ms to 30\.00"):
        profile(small_space, even_table).for_budget(budget_ms)


def test_a_budget_below_the_smallest_network(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    with pytest.raises(BudgetError, match=r"the budget of 19\.99 ms is below the smallest network, which takes 20\."):
        profile(small_space, even_table).for_budget(19.99)
    assert profile(small_space, even_table).for_budget(20.0).smallest_ms == 20.0


def test_a_safety_margin_lowers_what_the_search_aims_at(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    outlook = profile(small_space, even_table)
    assert outlook.for_budget(25.0, safety_margin=0.25).budget_ms == 20.0
    with pytest.raises(
        BudgetError, match=r"the budget of 19\.20 ms, 24\.00 ms less a safety margin of 25\.0%, is below the smallest"
    ):
        outlook.for_budget(24.0, safety_margin=0.25)
    with pytest.raises(BudgetError, match="a positive number"):
        outlook.for_budget("24", safety_margin=0.25)


class Validated(AdditiveTable):
    """Of five networks one was 25 % slower than predicted."""

    validation = Validation(tuple(Pair("mid.resnet=1,1", 4.0, ms) for ms in (3.0, 4.0, 4.0, 4.0, 5.0)))


def test_the_margin_is_a_quantile_of_the_tables_errors(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    table = Validated(small_space, even_table.cost_ms)
    assert safety_margin(table, 1.0) == pytest.approx(0.25)
    assert safety_margin(table, 0.5) == 0
    with pytest.raises(TableError, match="no validation; measure it with"):
        safety_margin(even_table, 0.9)
    for wrong in (0, 1.5, "0.9", True, float("nan")):
        with pytest.raises(SearchError, match="margin is"):
            safety_margin(table, wrong)


def test_a_budget_above_the_full_network_needs_something_to_add(
    small_space: SearchSpace, even_table: AdditiveTable
) -> None:
    assert profile(small_space, even_table).for_budget(31.0).largest_ms == 58.0
    alone = replace(small_space, max_copies=0)
    with pytest.raises(BudgetError, match="nothing can be added"):
        profile(alone, replace(even_table, space=alone)).for_budget(30.0)


def test_a_table_without_copies_has_nothing_to_add(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    class NoCopies(AdditiveTable):
        def latency_ms(self, architecture: object) -> float:
            if architecture.added:
                raise TableError("the table has no rows for copies")
            return super().latency_ms(architecture)

    table = NoCopies(small_space, even_table.cost_ms, even_table.base_ms)
    assert profile(small_space, table).largest_ms == 30.0
    with pytest.raises(BudgetError, match="nothing can be added"):
        profile(small_space, table).for_budget(40.0)


def test_blocks_that_save_nothing_stay(small_space: SearchSpace, even_table: AdditiveTable, places: list[str]) -> None:
    table = replace(even_table, cost_ms={**even_table.cost_ms, places[0]: -0.5})
    assert profile(small_space, table).smallest_ms == table.latency_ms(small_space.empty.with_choice(places[0], "1"))


def test_weights_are_counted_as_the_networks_have_them(
    tiny_unet: torch.nn.Module, small_space: SearchSpace, even_table: AdditiveTable
) -> None:
    supernet = Supernet(tiny_unet, small_space)
    outlook = profile(small_space, even_table)
    largest = small_space.full
    for block in small_space.blocks:
        largest = largest.duplicate(block)
    for name, network in {"smallest": small_space.empty, "full": small_space.full, "largest": largest}.items():
        assert outlook.parameters[name] == sum(p.numel() for p in supernet.extract(network).parameters())


def test_the_table_for_people(small_space: SearchSpace, even_table: AdditiveTable) -> None:
    outlook = profile(small_space, even_table).for_budget(24)
    frame = outlook.to_frame()
    assert frame.index.tolist() == ["smallest", "typical", "full", "largest"]
    assert frame.latency_ms.is_monotonic_increasing
    assert np.isclose(frame.share_of_full["smallest"], 20 / 30)
    lines = str(outlook).splitlines()
    assert lines[2].split()[:6] == ["full", "30.00", "ms", "100%", "of", "full"]
    assert lines[-1].split()[:4] == ["budget", "24.00", "ms", "80%"]


def test_a_foreign_architecture_is_still_an_error(even_table: AdditiveTable, tiny_config: dict) -> None:
    other = SearchSpace.from_config({**tiny_config, "layers_per_block": 1}, name="other")
    with pytest.raises(ArchitectureError):
        profile(other, even_table)
