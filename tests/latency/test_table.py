from __future__ import annotations

import copy
import dataclasses
import random
import subprocess
import sys

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Architecture, LatencyTable, SearchSpace, Workload
from nas.errors import ArchitectureError, TableError
from nas.latency import Row, Timing
from nas.latency.testing import FakeDevice
from nas.unet import apply_architecture, share_structure

SEEDS = st.integers(0, 2**32 - 1)


def priced(space: SearchSpace, *, seed: int = 0, copies: bool = True) -> LatencyTable:
    """A table with random prices, shortcuts cheaper than blocks."""
    rng, workload, rows = random.Random(seed), Workload.of(space), {}
    for block in space.blocks:
        rows[block.signature(workload)] = Row(rng.uniform(1, 9), 0.1, 5)
        if shortcut := block.shortcut_signature(workload):
            rows[shortcut] = Row(rng.uniform(0.1, 0.5), 0.1, 5)
    if copies:
        for block in space.blocks:
            rows.setdefault(block.signature(workload, copy=True), Row(rng.uniform(1, 9), 0.1, 5))
    return LatencyTable(space, workload, rows, Row(7.5, 0.1, 5), {"device": "fake"})


def with_copies(space: SearchSpace, rng: random.Random) -> Architecture:
    """A random architecture in which some blocks that are left are doubled."""
    architecture = space.sample(rng)
    for block in space.duplicable(architecture):
        if rng.random() < 0.3:
            architecture = architecture.duplicate(block)
    return architecture


def parameters_of(unet: UNet2DConditionModel, space: SearchSpace, architecture: Architecture) -> int:
    network = share_structure(unet)
    apply_architecture(network, space, architecture)
    return sum(parameter.numel() for parameter in network.parameters())


def by_hand(table: LatencyTable, architecture: Architecture) -> float:
    """The sum as the definition has it."""
    total = table.base.latency_ms
    for block in table.space.blocks:
        runs = architecture.runs(block)
        if runs and block.place not in table.space.fixed:
            total += table.rows[block.signature(table.workload)].latency_ms
            if shortcut := block.shortcut_signature(table.workload):
                total -= table.rows[shortcut].latency_ms
        for _ in range(runs - 1):
            total += table.rows[block.signature(table.workload, copy=True)].latency_ms
    return total


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_latency_is_base_plus_rows_less_shortcuts_plus_copies(tiny_space: SearchSpace, seed: int) -> None:
    table = priced(tiny_space, seed=seed % 7)
    architecture = with_copies(tiny_space, random.Random(seed))
    assert table.latency_ms(architecture) == pytest.approx(by_hand(table, architecture))


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_each_action_changes_the_latency_by_its_own_price(tiny_space: SearchSpace, seed: int) -> None:
    rng, table = random.Random(seed), priced(tiny_space)
    architecture = tiny_space.sample(rng, keep=0.7)
    for block in tiny_space.removable(architecture)[:3]:
        saved = table.latency_ms(architecture) - table.latency_ms(architecture.remove(block))
        added = table.latency_ms(architecture.duplicate(block)) - table.latency_ms(architecture)
        assert saved == pytest.approx(table.block_ms(block))
        assert added == pytest.approx(table.copy_ms(block))


def test_many_are_predicted_as_one(tiny_space: SearchSpace) -> None:
    table, rng = priced(tiny_space), random.Random(0)
    architectures = [with_copies(tiny_space, rng) for _ in range(20)]
    counts = np.array([[a.runs(place) for place in a.places] for a in architectures])
    single = [table.latency_ms(a) for a in architectures]
    np.testing.assert_allclose(table.latencies_ms(architectures), single)
    np.testing.assert_allclose(table.latencies_ms(iter(architectures)), single)
    np.testing.assert_allclose(table.latencies_ms(counts), single)
    np.testing.assert_allclose(table.latencies_ms(counts.astype(np.uint8)), single)
    assert table.latencies_ms([]).shape == (0,)


def test_the_empty_network_costs_the_base(tiny_space: SearchSpace) -> None:
    table = priced(tiny_space)
    assert table.latency_ms(tiny_space.empty) == table.base_ms == 7.5


def test_fixed_blocks_are_part_of_the_base(
    tiny_space: SearchSpace, tiny_unet: UNet2DConditionModel, quick: Timing
) -> None:
    space = dataclasses.replace(tiny_space, fixed=frozenset({"mid.attention.0", "down.1.resnet.0"}))
    table = LatencyTable.measure(space, device=FakeDevice(ms_per_parameter=1.0), timing=quick)
    assert table.latency_ms(space.empty) == table.base_ms
    for architecture in (space.empty, space.full, space.full.duplicate("mid.attention.0")):
        assert table.latency_ms(architecture) == pytest.approx(parameters_of(tiny_unet, space, architecture))


def test_a_measured_table_predicts_an_additive_device_exactly(
    fake_table: LatencyTable, tiny_space: SearchSpace, tiny_unet: UNet2DConditionModel
) -> None:
    rng = random.Random(0)
    for architecture in (tiny_space.empty, tiny_space.full, *(with_copies(tiny_space, rng) for _ in range(5))):
        parameters = parameters_of(tiny_unet, tiny_space, architecture)
        assert fake_table.latency_ms(architecture) == pytest.approx(1e-3 * parameters)


def test_a_table_without_copies_says_so_when_asked_for_one(tiny_config: dict, quick: Timing) -> None:
    # With one ResNet a stage, none of them takes as many channels as it gives, as its copy does.
    config = {**tiny_config, "layers_per_block": 1}
    space = SearchSpace.from_config(config, name="thin", context_length=5)
    table = LatencyTable.measure(space, device=FakeDevice(), copies=False, timing=quick)
    table.latency_ms(space.full)
    table.latency_ms(space.full.duplicate("mid.attention.0"))
    with pytest.raises(TableError, match="copies=True"):
        table.latency_ms(space.full.duplicate("down.1.resnet.0"))
    with pytest.raises(TableError, match="copies=True"):
        table.copy_ms("down.1.resnet.0")


def test_architectures_of_another_space_are_refused(fake_table: LatencyTable) -> None:
    with pytest.raises(ArchitectureError):
        fake_table.latency_ms(Architecture.parse("down.0.resnet=1,1"))


@pytest.mark.parametrize(
    "counts", [np.ones(28, int), np.ones((2, 27), int), np.ones((2, 28)), np.full((1, 28), -1), np.full((1, 28), 3)]
)
def test_matrices_that_are_no_runs_are_refused(fake_table: LatencyTable, counts: np.ndarray) -> None:
    with pytest.raises(TableError, match="counts"):
        fake_table.latencies_ms(counts)


def test_missing_rows_are_named(fake_table: LatencyTable) -> None:
    name = next(iter(fake_table.rows))
    rows = {key: row for key, row in fake_table.rows.items() if key != name}
    with pytest.raises(TableError, match="lacks"):
        dataclasses.replace(fake_table, rows=rows)


def test_a_base_above_the_whole_is_refused(fake_table: LatencyTable) -> None:
    rows = {name: Row(100.0 if name.startswith("shortcut") else 0.1, 0.0, 3) for name in fake_table.rows}
    with pytest.raises(TableError, match="base"):
        dataclasses.replace(fake_table, rows=rows)


def test_require_names_what_differs(fake_table: LatencyTable) -> None:
    fake_table.require(fake_table.workload)
    fake_table.require(batch_size=2, precision="fp32")
    for wanted in ({"batch_size": 4}, {"height": 64}, {"width": 64}, {"context_length": 77}, {"precision": "fp16"}):
        (name, value), *_ = wanted.items()
        with pytest.raises(TableError, match=f"measured with {name} .*, not {value}"):
            fake_table.require(**wanted)
    with pytest.raises(TableError, match="batch_size"):
        fake_table.require(dataclasses.replace(fake_table.workload, batch_size=1))
    with pytest.raises(TableError, match="resolution"):
        fake_table.require(resolution="8x8")


def test_the_frame_has_the_base_and_every_row(fake_table: LatencyTable, tiny_space: SearchSpace) -> None:
    frame = fake_table.to_frame()
    assert list(frame["kind"].unique()) == ["base", "network", "attention", "resnet", "shortcut"]
    assert len(frame) == 1 + 5 + len(fake_table.rows)
    blocks = frame[frame["kind"].isin(["attention", "resnet"])]
    assert blocks["blocks"].sum() == len(tiny_space.blocks)


def test_tables_are_read_without_torch() -> None:
    code = "import sys, nas.latency; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_can_be_copied(fake_table: LatencyTable, tiny_space: SearchSpace) -> None:
    assert copy.deepcopy(fake_table).latency_ms(tiny_space.full) == fake_table.latency_ms(tiny_space.full)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
def test_large_matrices_are_scored_like_small_ones(tiny_space: SearchSpace, dtype: type) -> None:
    table = priced(tiny_space)
    runs = np.random.default_rng(0).integers(0, 3, (9000, len(tiny_space.blocks)), dtype=dtype)
    found = table.latencies_ms(runs)
    assert found.shape == (9000,)
    places = [block.place for block in tiny_space.blocks]
    for index in (0, 4095, 4096, 8191, 8192, 8999):
        choices = tuple(zip(places, map(str, runs[index]), strict=True))
        assert found[index] == pytest.approx(by_hand(table, Architecture(choices)))
    assert table.latencies_ms(runs[:0]).shape == (0,)
