"""The benchmark's own arithmetic; its timings are not for tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from nas import LatencyTable
from nas.latency import Pair, Validation

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lut_accuracy.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks are not part of this distribution")
    spec = importlib.util.spec_from_file_location("lut_accuracy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_naive_sum_is_that_of_the_blocks(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    # The fake device takes a microsecond for each parameter.
    space = fake_table.space
    architecture = space.full.remove("down.0.resnet.1").duplicate("mid.attention.0")
    blocks = sum(architecture.runs(block) * block.parameters for block in space.blocks)
    assert benchmark.naive_ms(fake_table, Pair(str(architecture), 1.0, 1.0)) == pytest.approx(1e-3 * blocks)
    assert 0 < benchmark.naive_ms(fake_table, Pair(str(space.empty), 1.0, 1.0)) < 1e-3


def test_the_report_names_the_machine(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    found = benchmark.figures(Validation((Pair("mid.resnet=1,1", 9.0, 10.0), Pair("mid.resnet=1,0", 5.0, 5.0))))
    result = benchmark.described(fake_table, 1.5) | {"table": found, "plain": found, "naive": found}
    result["machine"] |= {"cores": 2, "torch": "2"}
    text = benchmark.report([result])
    assert "fake on none" in text
    assert "5.0%" in text
    assert "1.000" in text
