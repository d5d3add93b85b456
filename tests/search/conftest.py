"""A small search whose every figure is known: ten blocks that may go, additive latencies and scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from fakes import AdditiveScorer, AdditiveTable, QuickSupernet

import nas
from nas import Evolution, SearchSpace


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small to share out; on a busy machine threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def places(tiny_config: dict) -> list[str]:
    return [block.place for block in SearchSpace.from_config(tiny_config).blocks]


@pytest.fixture(scope="session")
def small_space(tiny_config: dict, places: list[str]) -> SearchSpace:
    """The tiny space, of which only the first ten blocks may be removed."""
    return SearchSpace.from_config(tiny_config, name="small", context_length=5, fixed=frozenset(places[10:]))


@pytest.fixture
def supernet(tiny_unet: UNet2DConditionModel, small_space: SearchSpace) -> QuickSupernet:
    return QuickSupernet(tiny_unet, small_space)


@pytest.fixture
def table(small_space: SearchSpace) -> AdditiveTable:
    """Blocks cost 0.5 to 2 ms each."""
    rng = random.Random(1)
    return AdditiveTable(small_space, {block.place: rng.uniform(0.5, 2.0) for block in small_space.blocks})


@pytest.fixture
def even_table(small_space: SearchSpace) -> AdditiveTable:
    """Blocks cost 1 ms each, the base 2 ms."""
    return AdditiveTable(small_space, {block.place: 1.0 for block in small_space.blocks}, base_ms=2.0)


@pytest.fixture
def scorer(small_space: SearchSpace) -> AdditiveScorer:
    """Blocks are worth 0.01 to 0.1 each."""
    rng = random.Random(2)
    return AdditiveScorer({block.place: rng.uniform(0.01, 0.1) for block in small_space.blocks})


@pytest.fixture
def evolve(
    supernet: QuickSupernet, table: AdditiveTable, scorer: AdditiveScorer, tmp_path: Path
) -> Callable[..., Evolution]:
    """`nas.evolve` with everything filled in that a test does not say."""

    def run(**options: object) -> Evolution:
        defaults = {"supernet": supernet, "lut": table, "scorer": scorer, "workdir": tmp_path / "run", "measure": False}
        given = {**defaults, **options}
        network, lut = given.pop("supernet"), given.pop("lut")
        if "budget_ms" not in given:
            given["budget_ms"] = 0.8 * lut.latency_ms(network.space.full)
        return nas.evolve(network, lut, **given)

    return run
