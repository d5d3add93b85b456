"""The benchmark's own arithmetic; its timings are not for tests."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from benchmark_scripts import loaded, script

from nas import Architecture, LatencyTable, SearchSpace
from nas.errors import MissingExtraError
from nas.latency import Row
from nas.latency.devices import _registry, get_device
from nas.latency.testing import FakeDevice
from nas.unet import network_macs


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with loaded("lut_accuracy") as module:
        yield module


@pytest.fixture(scope="module")
def found(
    benchmark: ModuleType, tiny_space: SearchSpace, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    """What is found of a device on which a network takes a microsecond for each of its parameters, alone or not."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("found")
    tiny_space.save(folder / "tiny.yaml")
    result = examined(benchmark, folder, "--tables", str(folder / "tables"))
    assert len(LatencyTable.load(folder / "tables" / "tiny_fake_fp32.yaml").validation.pairs) == 6
    return MappingProxyType(json.loads(json.dumps(result)))


def examined(benchmark: ModuleType, folder: Path, *options: str) -> dict[str, Any]:
    arguments = benchmark.parse(["--networks", "6", "--seed", "3", "--passes", "1", *options])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry._MAKERS, "fake", lambda threads: FakeDevice())
        return benchmark.examine(str(folder / "tiny.yaml"), "fake", arguments)


def blocks_ms(space: SearchSpace, architecture: Architecture) -> float:
    return 1e-3 * sum(architecture.runs(block) * block.parameters for block in space.blocks)


def test_the_naive_sum_is_that_of_the_blocks(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    space = fake_table.space
    architecture = space.full.remove("down.0.resnet.1").duplicate("mid.attention.0")
    assert benchmark.naive_ms(fake_table, architecture) == pytest.approx(blocks_ms(space, architecture))
    assert benchmark.naive_ms(fake_table, space.empty) == 0


def test_each_network_is_predicted_by_all_models(found: Mapping[str, Any], tiny_space: SearchSpace) -> None:
    assert [found[name]["networks"] for name in ("table", "plain", "naive", "macs", "forest")] == [6] * 5
    errors = []
    for network in found["networks"]:
        assert network["table_ms"] == pytest.approx(network["measured_ms"])
        assert network["plain_ms"] == pytest.approx(network["measured_ms"])
        naive_ms = blocks_ms(tiny_space, Architecture.parse(network["architecture"]))
        assert network["naive_ms"] == pytest.approx(naive_ms)
        errors.append(abs(naive_ms / network["measured_ms"] - 1))
    assert found["table"]["worst_error"] == pytest.approx(0, abs=1e-5)
    assert found["naive"]["mean_error"] == pytest.approx(sum(errors) / 6, abs=1e-5)
    assert min(found["macs"]["mean_error"], found["forest"]["mean_error"]) > 0.01
    # Base, full network and four more.
    assert (found["fitted_to"], found["seed"]) == (6, 3)


def test_networks_are_measured_along_with_the_rows_on_request(
    benchmark: ModuleType, found: Mapping[str, Any], tiny_space: SearchSpace, tmp_path: Path
) -> None:
    tiny_space.save(tmp_path / "tiny.yaml")
    together = examined(benchmark, tmp_path, "--together")
    assert (found["together"], together["together"]) == (False, True)
    assert (found["slowdown"], together["slowdown"]) == (0, None)
    for name in ("architecture", "measured_ms", "table_ms", "forest_ms"):
        expected = [network[name] for network in found["networks"]]
        assert [network[name] for network in together["networks"]] == pytest.approx(expected)
    text = benchmark.report([together])
    assert "built along with the held-out networks in" in text
    assert "at equal speed" in benchmark.report([dict(found)])
    assert "at equal speed" not in text


@pytest.mark.parametrize("together", [[], ["--together"]])
def test_samples_are_kept_and_gone_on_from(
    benchmark: ModuleType, found: Mapping[str, Any], tiny_space: SearchSpace, tmp_path: Path, together: list[str]
) -> None:
    tiny_space.save(tmp_path / "tiny.yaml")
    options = ["--visits", str(tmp_path / "visits"), *together]
    first = examined(benchmark, tmp_path, *options)
    kept = {path: path.read_text() for path in (tmp_path / "visits").iterdir()}
    assert len(kept) == (1 if together else 2)
    again = examined(benchmark, tmp_path, *options)
    assert {path: path.read_text() for path in kept} == kept
    assert again["table"] == found["table"]
    # Its seconds are not those of a whole measurement.
    assert (first["resumed"], again["resumed"]) == (False, True)
    assert "last part only" in benchmark.report([again])
    assert "last part only" not in benchmark.report([first])


def macs_of_mid_attention(batch: int) -> int:
    # 16 channels at 2 x 2 pixels, 5 tokens of width 12: projections in and out, self-attention, cross-attention,
    # feed-forward.
    pixels, channels = 4, 16
    own = 4 * pixels * channels**2 + 2 * pixels**2 * channels
    cross = 2 * pixels * channels**2 + 2 * 5 * 12 * channels + 2 * pixels * 5 * channels
    return batch * (2 * pixels * channels**2 + own + cross + 12 * pixels * channels**2)


def test_macs_are_taken_times_the_median_of_the_networks(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    space, workload = fake_table.space, fake_table.workload
    doubled = space.full.duplicate("mid.attention.0")
    networks = {space.full: 1, doubled: 1, space.empty: 10}
    times = {
        network: Row(slower * 2e-6 * network_macs(space, workload, network), 0.0, 1)
        for network, slower in networks.items()
    }
    model = benchmark.macs_model(fake_table, times)
    assert model(doubled) - model(space.full) == pytest.approx(2e-6 * macs_of_mid_attention(workload.batch_size))
    assert model(space.empty) == pytest.approx(times[space.empty].latency_ms / 10)


def test_a_forest_knows_nothing_beyond_its_networks(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    pytest.importorskip("sklearn")
    space = fake_table.space
    networks = [space.empty, space.full, space.full.remove("mid.attention.0"), space.full.remove("down.0.resnet.1")]
    even = benchmark.forest_model(fake_table, dict.fromkeys(networks, Row(7.0, 0.0, 1)))
    assert even(space.full.duplicate("mid.attention.0")) == pytest.approx(7)
    times = {network: Row(float(ms), 0.0, 1) for network, ms in zip(networks, (1, 9, 8, 7), strict=True)}
    model = benchmark.forest_model(fake_table, times)
    # More blocks than the full network has, where a forest can say no more than what the slowest took.
    assert model(space.full) < model(space.full.duplicate("mid.attention.0")) + 1e-9 <= 9 + 1e-9
    assert model(space.empty) < 5 < model(space.full)


def test_equal_blocks_are_counted_together(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    space = fake_table.space
    counts = benchmark.block_counts(fake_table, space.full)
    assert len(counts) == len({block.signature(fake_table.workload) for block in space.blocks}) < len(space.blocks)
    assert sum(counts) == len(space.blocks)
    assert sum(benchmark.block_counts(fake_table, space.full.duplicate("mid.attention.0"))) == len(space.blocks) + 1


def test_without_whole_networks_nothing_is_fitted(
    benchmark: ModuleType, fake_table: LatencyTable, found: Mapping[str, Any]
) -> None:
    table = dataclasses.replace(fake_table, wholes={})
    table.validate(networks=2, device=FakeDevice())
    result = {**found, **benchmark.judged(table)}
    assert (result["macs"], result["forest"], result["fitted_to"]) == (None, None, 0)
    assert "macs_ms" not in result["networks"][0]
    assert benchmark.report([result]).count("n/a") == 2


def test_the_report_names_machine_time_and_memory(benchmark: ModuleType, found: Mapping[str, Any]) -> None:
    known = {"build_seconds": 9.0, "loading_seconds": 3.0, "build_forward_passes": 45.0, "build_peak_gib": 1.25}
    text = benchmark.report([{**found, **known}])
    for part in ("fake on none", "9.0 s, 45.0 forward passes", "without the 3.0 s", "memory 1.25 GiB", "random forest"):
        assert part in text
    assert text.count("100.0%") >= 4


def test_the_forward_passes_are_those_of_the_full_network(benchmark: ModuleType, fake_table: LatencyTable) -> None:
    table = dataclasses.replace(fake_table, provenance={**fake_table.provenance, "loading_seconds": 1.5})
    passes = 2.0 / (1e-3 * table.latency_ms(table.space.full))
    found = benchmark.described(table, 2.0)
    assert found["build_forward_passes"] == pytest.approx(passes, abs=0.06)
    assert found["build_forward_passes_without_loading"] == pytest.approx(passes / 4, abs=0.06)
    # What is allocated now is part of the peak.
    before, ballast = benchmark.peak_gib(), bytearray(b"1") * 2**28
    if before is not None:
        assert benchmark.peak_gib() >= len(ballast) / 2**30
        assert 0.1 < benchmark.peak_gib() < 64


@pytest.mark.parametrize("option", [["--networks", "0"], ["--largest-gib", "1e-9"]])
def test_tables_can_be_built_alone(
    benchmark: ModuleType, fake_table: LatencyTable, option: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatencyTable, "measure", lambda space, **options: fake_table)
    result = benchmark.examine("emoji", "fake", benchmark.parse(option))
    assert "networks" not in result
    assert result["weights_gib"] == pytest.approx(4 * fake_table.space.parameters / 2**30, abs=1e-3)
    assert benchmark.report([result]).endswith("not validated")


def test_missing_scikit_learn_names_the_extra(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingExtraError, match=r"nas\[benchmarks\]"):
        benchmark.random_forest()


def test_several_devices_in_one_run(
    benchmark: ModuleType,
    fake_table: LatencyTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def found(space: str, device: str, arguments: Namespace) -> dict[str, Any]:
        get_device(device)
        return benchmark.described(fake_table, 1.0) | {"device": device, "space": space}

    monkeypatch.setattr(benchmark, "in_own_process", found)
    monkeypatch.setitem(_registry._MAKERS, "other", lambda threads: FakeDevice())
    options = ["--networks", "0", "--json", str(tmp_path / "all.json"), "--device", "torch-cpu", "--device"]

    def written() -> list[tuple[str, str]]:
        return [(found["space"], found["device"]) for found in json.loads((tmp_path / "all.json").read_text())]

    assert benchmark.main([*options, "other", "--space", "a", "--space", "b"]) == 0
    assert written() == [("a", "torch-cpu"), ("b", "torch-cpu"), ("a", "other"), ("b", "other")]
    # The first device's figures stand although the second does not exist.
    assert benchmark.main([*options, "abacus", "--space", "a"]) == 1
    assert written() == [("a", "torch-cpu")]
    assert "no device is called 'abacus'" in capsys.readouterr().err


@pytest.mark.slow
def test_what_goes_wrong_in_the_other_process_is_told() -> None:
    command = [sys.executable, script("lut_accuracy"), "--device", "abacus", "--networks", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("no device is called 'abacus'")
