"""`benchmarks/robust_training.py` with the bundled model and as little as possible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_scripts import loaded


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with loaded("robust_training") as module:
        yield module


def run(benchmark: ModuleType, folder: Path) -> dict:
    numbers = {"steps": 4, "batch-size": 2, "samples": 2, "orders": 2, "prompts": 2, "sampling-steps": 1, "rounds": 1}
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    json_file = folder / "out.json"
    options += ["--removed", "0", "40", "--workdir", str(folder / "run"), "--json", str(json_file)]
    assert benchmark.main(options) == 0
    return json.loads(json_file.read_text())


def test_curves_of_all_contestants(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(benchmark, tmp_path)
    contestants = ["as it was", "on data", "robust, on data", "robust, with teacher"]
    assert [(row["contestant"], row["removed"]) for row in first["curves"]] == [
        (name, removed) for name in contestants for removed in (0, 28)
    ]
    assert {name: cost["steps"] for name, cost in first["costs"].items()} == dict(
        zip(contestants[1:], (4, 4, 3), strict=True)
    )
    untouched, *others = (row for row in first["curves"] if row["removed"] == 0)
    assert untouched["teacher_distance"] == 0
    assert all(row["teacher_distance"] < 0 for row in others)
    assert all(row["teacher_distance_low"] <= row["teacher_distance"] < -0.1 for row in first["curves"][1::2])
    monkeypatch.setattr(benchmark.ClipScore, "__call__", None)  # all that is needed was kept
    assert run(benchmark, tmp_path)["curves"] == first["curves"]
