from __future__ import annotations

from typing import Any

import pytest

from nas import LatencyTable, SearchSpace
from nas.latency import _amounts, _building
from nas.latency.testing import FakeDevice


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
