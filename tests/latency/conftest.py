from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas import LatencyTable, SearchSpace
from nas.latency import Timing
from nas.latency.devices import Device, get_device
from nas.latency.testing import FakeDevice


@pytest.fixture(scope="session")
def fake_table(tiny_space: SearchSpace) -> LatencyTable:
    """On a device whose latencies add up exactly. Tests that change it take a copy."""
    return LatencyTable.measure(tiny_space, device=FakeDevice(), batch_size=2)


@pytest.fixture(scope="session")
def smallest_space() -> SearchSpace:
    """A few blocks of both kinds, for what takes seconds with each."""
    config = {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "mid_block_type": None,
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return SearchSpace.from_config(config, name="smallest", context_length=5)


@pytest.fixture(scope="session")
def quick() -> Timing:
    """One execution a row."""
    return Timing(
        min_repeats=1,
        max_repeats=1,
        sample_ms=0,
        warm_up_ms=0,
        extra_seconds=0,
        passes=1,
    )


@pytest.fixture
def one_thread() -> Device:
    """The CPU, with one thread: several would wait for each other while other tests run beside."""
    return get_device("torch-cpu", threads=1)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Finds a file of published measurements, which lie beside the project; without them the test is skipped."""

    def find(name: str) -> Path:
        if not (path := Path(__file__).parents[2].parent / "shared" / "data" / name).is_file():
            pytest.skip(f"needs {path}, which does not come with the project")
        return path

    return find
