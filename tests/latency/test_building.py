from __future__ import annotations

from typing import Any

import pytest

from nas import LatencyTable, SearchSpace
from nas.latency import _building
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
