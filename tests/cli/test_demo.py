"""The whole job in miniature: what it writes, and that it can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

import nas
from nas import demo
from nas.cli._demo import _table
from nas.errors import BudgetError, SearchError
from nas.latency import Row
from nas.pipelines import load_unet

pytestmark = pytest.mark.usefixtures("known_times")


def test_writes_everything_and_goes_on(tiny_bundled: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    summary = demo.run(out, settings=demo.SMOKE)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["budget_ms"] == pytest.approx(0.6 * summary["full_ms"])
    assert summary["predicted_ms"] <= summary["budget_ms"]
    assert {"measured_ms", "clip_full", "clip_evolved", "removed", "added"} <= summary.keys()
    check_network(out, tiny_bundled, summary)
    for name in ("pareto.png", "before_after.png"):
        Image.open(out / name).verify()
    assert (out / "journal.log").is_file()
    table = (out / "lut.yaml").read_bytes()
    (out / "summary.json").unlink()
    again = demo.run(out, settings=demo.SMOKE)
    assert (out / "lut.yaml").read_bytes() == table
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    with pytest.raises(SearchError, match="another run"):
        demo.run(out, settings=replace(demo.SMOKE, seed=1))


def test_a_machine_that_became_slower_is_told_apart_from_the_table(
    tiny_bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, full = nas.LatencyTable.measure, []

    def measured_with_a_whole(space: nas.SearchSpace, **options: object) -> nas.LatencyTable:
        lut = measure(space, **options)
        full[:] = [lut.latency_ms(space.full)]
        return replace(lut, wholes={space.full: Row(*full, 0.1, 3)})

    def measured_when_half_as_fast(unets: Iterable[str], table: nas.LatencyTable, **_: object) -> dict[str, Row]:
        return dict.fromkeys(unets, Row(2 * full[0], 0.1, 3))

    monkeypatch.setattr(nas.LatencyTable, "measure", measured_with_a_whole)
    monkeypatch.setattr("nas.latency.measure_networks_ms", measured_when_half_as_fast)
    shared = demo.run(tmp_path / "shared", settings=demo.SMOKE, budget_share=0.9)
    fixed = demo.run(tmp_path / "fixed", settings=demo.SMOKE, budget_share=None, budget_ms=0.9 * full[0])
    assert shared["slowdown"] == fixed["slowdown"] == pytest.approx(1)
    assert shared["full_ms"] == pytest.approx(2 * full[0]) == 2 * shared["full_by_table_ms"]
    assert shared["predicted_ms"] == 2 * shared["predicted_by_table_ms"]
    assert shared["prediction_error"] == pytest.approx(shared["predicted_ms"] / (2 * full[0]) - 1)
    assert shared["budget_ms"] == pytest.approx(0.9 * shared["full_ms"])
    assert fixed["budget_ms"] == pytest.approx(0.9 * full[0])
    assert "machine 100.0% slower since" in _table(shared)


def check_network(out: Path, bundled: Path, summary: dict) -> None:
    network = load_unet(out / "unet")
    lut = nas.LatencyTable.load(out / "lut.yaml")
    assert lut.latency_ms(network.architecture) == pytest.approx(summary["predicted_ms"])
    assert list(network.architecture.removed) == summary["removed"]
    pipe = StableDiffusionPipeline.from_pretrained(bundled, unet=network)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("x", num_inference_steps=1).images[0].size == (16, 16)


@pytest.mark.parametrize("budget", [{"budget_share": 0.0}, {"budget_share": 1e-6}, {"budget_ms": 5.0}])
def test_a_bad_budget_keeps_the_table(tiny_bundled: Path, tmp_path: Path, budget: dict) -> None:
    with pytest.raises(BudgetError):
        demo.run(tmp_path / "demo", settings=demo.SMOKE, **budget)
    assert nas.LatencyTable.load(tmp_path / "demo" / "lut.yaml").space.name == "emoji"
