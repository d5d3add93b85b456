from __future__ import annotations

import copy
import dataclasses
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas import Architecture, LatencyTable, SearchSpace, Workload
from nas.errors import ArchitectureError, DeviceError, TableError
from nas.latency import Row, Timing, Validation
from nas.latency._canary import CANARY_WEIGHTS
from nas.latency.devices import Device, Runnable
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


def test_every_distinct_signature_is_measured_once(fake_table: LatencyTable, tiny_space: SearchSpace) -> None:
    workload, wanted = fake_table.workload, set()
    for block in tiny_space.blocks:
        wanted |= {block.signature(workload), block.signature(workload, copy=True)}
        wanted |= {block.shortcut_signature(workload)} - {None}
    assert set(fake_table.rows) == wanted


@pytest.mark.parametrize("slow_ms", [(0, 2000), (3000, 6000)])
def test_a_machine_that_slows_down_for_a_while_leaves_no_trace(
    fake_table: LatencyTable, tiny_space: SearchSpace, slow_ms: tuple[float, float]
) -> None:
    device = FakeDevice(speed=lambda clock: 1.4 if slow_ms[0] <= clock < slow_ms[1] else 1.0)
    table = LatencyTable.measure(tiny_space, device=device)
    assert {name: row.latency_ms for name, row in table.rows.items()} == pytest.approx(
        {name: row.latency_ms for name, row in fake_table.rows.items()}, rel=0.005
    )
    assert table.base_ms == pytest.approx(fake_table.base_ms, rel=0.005)


def test_a_machine_of_two_speeds_is_measured_at_one(fake_table: LatencyTable, tiny_space: SearchSpace) -> None:
    timing = Timing(extra_seconds=0, passes=1)
    steady = FakeDevice()
    LatencyTable.measure(tiny_space, device=steady, timing=timing)
    # Slower during the second half, with no time for measuring once more: most rows were measured at one speed only.
    device = FakeDevice(speed=lambda clock: 1.0 if clock < 0.5 * steady.clock_ms else 1.3)
    table = LatencyTable.measure(tiny_space, device=device, timing=timing)
    ratios = [row.latency_ms / fake_table.rows[name].latency_ms for name, row in table.rows.items()]
    assert max(ratios) == pytest.approx(min(ratios), rel=0.01)
    assert table.base_ms / fake_table.base_ms == pytest.approx(min(ratios), rel=0.01)
    assert table.provenance["canary_spread_ms"] > 0.2 * table.provenance["canary_ms"]
    assert table.provenance["canary_sensitivity"] == pytest.approx(1, abs=0.02)


def test_small_blocks_are_timed_with_their_weights_out_of_the_cache_and_networks_alone(quick: Timing) -> None:
    # In a network whose weights exceed the cache, they and the canaries in between are as many as the whole network's.
    space, device = SearchSpace.load("emoji"), FakeDevice()
    device.working_set_mb, device.min_instances = 1e9, 2
    table = LatencyTable.measure(space, device=device, copies=False, timing=quick)
    canary, *loaded = device.loaded
    networks, rows = loaded[:6], loaded[6:][: len(table.rows)]  # the base, the full network and four random ones first
    assert canary == 32
    assert networks == [1] * 6
    assert rows[0] == -(-space.parameters // (space.blocks[0].parameters + CANARY_WEIGHTS)) > 2
    assert min(rows) >= 2


def test_the_precision_is_the_devices_usual_one_unless_somebody_says(tiny_space: SearchSpace, quick: Timing) -> None:
    device = FakeDevice()
    device.usual_precision = "fp16"
    options = {"device": device, "copies": False, "timing": quick}
    assert LatencyTable.measure(tiny_space, **options).workload.precision == "fp16"
    assert LatencyTable.measure(tiny_space, **options, precision="fp32").workload.precision == "fp32"


def test_where_operations_ran_is_said_if_all_of_it_is_known(
    tiny_space: SearchSpace, quick: Timing, tmp_path: Path
) -> None:
    class Placing(FakeDevice):
        def load(self, *args: object, **kwargs: object) -> object:
            runnable = super().load(*args, **kwargs)
            runnable.placement = lambda: Counter({("conv", "ne"): 2, ("cast", "cpu"): 1})
            return runnable

    options = {"copies": False, "timing": quick, "visits": tmp_path / "visits"}
    table = LatencyTable.measure(tiny_space, device=Placing(), **options)
    programs = 1 + len(table.wholes) + len(table.rows)
    assert table.provenance["operations"] == f"cpu {programs}, ne {2 * programs}"
    # Made from the visits alone nothing is loaded.
    assert "operations" not in LatencyTable.measure(tiny_space, device=Placing(), **options).provenance


def test_a_large_network_is_never_built_as_a_whole(
    tiny_space: SearchSpace, quick: Timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.latency._amounts._LARGEST_WHOLE_MB", 0.1)
    table = LatencyTable.measure(tiny_space, device=FakeDevice(), timing=quick)
    assert table.wholes == {}
    assert table.in_context == 1.0
    assert "network" not in set(table.to_frame()["kind"])


def test_provenance_says_what_decided_the_speed(fake_table: LatencyTable) -> None:
    found = fake_table.provenance
    assert found["device"] == "fake"
    assert (found["batch_size"], found["resolution"], found["precision"]) == (2, "8x8", "fp32")
    assert "Attn" in str(found["attention"])
    assert str(found["date"]).endswith("Z")
    assert found["canary_ms"] == pytest.approx(found["canary_weights"] / 1000)


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


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"batch_size": 0}, TableError),
        ({"batch_size": "2"}, TableError),
        ({"precision": "fp7"}, TableError),
        ({"device": "abacus"}, DeviceError),
        ({"threads": 0}, DeviceError),
    ],
)
def test_measuring_nonsense_is_refused(tiny_space: SearchSpace, wrong: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        LatencyTable.measure(tiny_space, **wrong)


def test_a_table_of_real_times(tiny_space: SearchSpace, one_thread: Device, quick: Timing) -> None:
    one_thread.working_set_mb = 0.0
    table = LatencyTable.measure(tiny_space, device=one_thread, batch_size=1, timing=quick)
    assert table.provenance["threads"] == 1
    assert table.latency_ms(tiny_space.full) > 0


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


def test_an_interrupted_measurement_goes_on_to_the_same_table(tiny_space: SearchSpace, tmp_path: Path) -> None:
    class Stopping(FakeDevice):
        def load(self, *args: object, **kwargs: object) -> object:
            if len(self.loaded) == 30:
                raise KeyboardInterrupt
            return super().load(*args, **kwargs)

    whole = LatencyTable.measure(tiny_space, device=FakeDevice())
    with pytest.raises(KeyboardInterrupt):
        LatencyTable.measure(tiny_space, device=Stopping(), visits=tmp_path / "visits")
    with pytest.raises(TableError, match="another measurement"):
        LatencyTable.measure(tiny_space, device=FakeDevice(), batch_size=4, visits=tmp_path / "visits")
    rest = FakeDevice()
    table = LatencyTable.measure(tiny_space, device=rest, visits=tmp_path / "visits")
    assert (table.rows, table.base, table.wholes) == (whole.rows, whole.base, whole.wholes)
    assert table.provenance["canary_ms"] == whole.provenance["canary_ms"]
    assert table.provenance["attention"] == whole.provenance["attention"]
    again = FakeDevice()
    assert LatencyTable.measure(tiny_space, device=again, visits=tmp_path / "visits").rows == whole.rows
    assert len(again.loaded) == 1, "only the canary: what is complete is not measured again before it is removed"


@pytest.mark.parametrize("bundle_mb", [0.0, 1.0])
def test_sizes_that_nothing_has_room_for_are_a_sentence(tiny_space: SearchSpace, bundle_mb: float) -> None:
    with pytest.raises(DeviceError, match="no room for batch 2, 10000000x10000000 latents"):
        LatencyTable.measure(tiny_space, device=FakeDevice(bundle_mb=bundle_mb), height=10**7, width=10**7)


def test_a_device_that_puts_in_an_attention_names_it(tiny_space: SearchSpace) -> None:
    class Splitting(FakeDevice):
        def provenance(self) -> dict[str, str | int | float]:
            return {**super().provenance(), "attention": "split-einsum"}

    assert LatencyTable.measure(tiny_space, device=Splitting()).provenance["attention"] == "split-einsum"
    assert LatencyTable.measure(tiny_space, device=FakeDevice()).provenance["attention"] == "AttnProcessor2_0"


def test_without_room_for_the_network_there_is_a_table_of_its_blocks(tiny_space: SearchSpace) -> None:
    class Small(FakeDevice):
        """Has room for the base and not for the full network."""

        def load(self, module: nn.Module, *args: object, **kwargs: object) -> Runnable:
            runnable = super().load(module, *args, **kwargs)
            size = sum(parameter.numel() for parameter in module.parameters())
            if isinstance(module, UNet2DConditionModel) and size > 0.7 * tiny_space.parameters:
                raise DeviceError("out of memory")
            return runnable

    with pytest.raises(DeviceError, match=r"out of memory; to leave whole networks out: .*--whole-networks 0"):
        LatencyTable.measure(tiny_space, device=Small())
    table, whole = LatencyTable.measure(tiny_space, device=Small(), whole_networks=0), FakeDevice()
    assert (len(table.wholes), table.in_context) == (0, 1.0)
    assert table.rows == LatencyTable.measure(tiny_space, device=whole, whole_networks=2).rows
    assert len(LatencyTable.measure(tiny_space, device=whole, whole_networks=2).wholes) == 2
    with pytest.raises(TableError, match="whole_networks is -1"):
        LatencyTable.measure(tiny_space, device=whole, whole_networks=-1)


def test_an_interrupted_validation_goes_on_to_the_same_figures(fake_table: LatencyTable, tmp_path: Path) -> None:
    class Stopping(FakeDevice):
        def load(self, *args: object, **kwargs: object) -> Runnable:
            if len(self.loaded) == 5:
                raise KeyboardInterrupt
            return super().load(*args, **kwargs)

    def validate(device: FakeDevice, **options: Any) -> Validation:
        return copy.copy(fake_table).validate(networks=4, device=device, visits=tmp_path / "visits", **options)

    whole = copy.copy(fake_table).validate(networks=4, device=FakeDevice())
    with pytest.raises(KeyboardInterrupt):
        validate(Stopping())
    with pytest.raises(TableError, match="another measurement"):
        validate(FakeDevice(), seed=1)
    rest = FakeDevice()
    assert validate(rest).pairs == whole.pairs
    assert 1 < len(rest.loaded) < 1 + 2 * 5 + 1
