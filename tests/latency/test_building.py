from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from torch import nn

from nas import LatencyTable, SearchSpace
from nas.errors import DeviceError, TableError
from nas.latency import Timing, _amounts, _building
from nas.latency._canary import CANARY_WEIGHTS
from nas.latency.devices import Device, Runnable
from nas.latency.testing import FakeDevice


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


def test_a_table_says_how_long_the_device_took_to_load(
    tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiling(FakeDevice):
        seconds = 0.0

        def load(self, *args: Any, **kwargs: Any) -> Any:
            Compiling.seconds += 0.5
            return super().load(*args, **kwargs)

    monkeypatch.setattr(_building, "perf_counter", lambda: Compiling.seconds)
    device = Compiling()
    table = LatencyTable.measure(tiny_space, device=device)
    # The canary alone is loaded apart from what is measured.
    assert table.provenance["loading_seconds"] == 0.5 * (len(device.loaded) - 1) > 0


@pytest.mark.parametrize(("keep_mb", "passes"), [(0.0, 3), (0.01, 1), (1000.0, 3)])
def test_large_networks_that_are_slow_to_load_are_loaded_less_often(
    tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch, keep_mb: float, passes: int
) -> None:
    monkeypatch.setattr(_amounts, "_SMALL_MB", 0.1)
    device = FakeDevice()
    device.keep_mb = keep_mb
    table = LatencyTable.measure(tiny_space, device=device)
    canary, networks = 1, 1 + len(table.wholes)
    # What weighs nothing on the fake device is kept where anything is; nothing is of a network too large.
    visits = passes * (len(table.rows) + 2 * networks)
    assert len(device.loaded) == canary + (len(table.rows) + networks if keep_mb > 1 else visits)
    assert _amounts.passes_of(tiny_space, table.workload, keep_mb=keep_mb) == passes


def test_networks_too_large_to_be_built_as_a_whole_are_measured_in_all_passes(
    tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_amounts, "_SMALL_MB", 0.1)
    monkeypatch.setattr(_amounts, "_LARGEST_WHOLE_MB", 0.2)
    device = FakeDevice()
    device.keep_mb = 0.01
    table = LatencyTable.measure(tiny_space, device=device)
    assert not table.wholes
    assert len(device.loaded) == 1 + 3 * (len(table.rows) + 2)
