"""What ONNX Runtime, OpenVINO and compiled torch compute, against eager torch."""

from __future__ import annotations

import builtins
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nas import LatencyTable, SearchSpace
from nas.errors import DeviceError
from nas.latency import Timing
from nas.latency.devices import Device, RunnableInParts, get_device
from nas.latency.devices._export import TensorsOnly, export
from nas.latency.devices._exporting import ExportedRunnable
from nas.latency.devices._onnxruntime import OnnxRuntimeRunnable
from nas.latency.devices._openvino import OpenVinoRunnable
from nas.unet import block_inputs, example_inputs, make_block, make_network
from nas.workload import Workload

RUNNABLES = {"onnxruntime-cpu": OnnxRuntimeRunnable, "openvino-cpu": OpenVinoRunnable}
NAMES = tuple(RUNNABLES)
Subject = tuple[nn.Module, Iterable[Any], Mapping[str, Any]]


@pytest.fixture(params=NAMES)
def device(request: pytest.FixtureRequest) -> Device:
    return get_device(request.param, threads=1)


@pytest.fixture(scope="module")
def workload(tiny_space: SearchSpace) -> Workload:
    return Workload.of(tiny_space)


def block(space: SearchSpace, workload: Workload, kind: str) -> Subject:
    torch.manual_seed(1)
    found = next(block for block in space.blocks if block.kind == kind and (kind == "attention" or block.has_shortcut))
    return make_block(found).eval(), *block_inputs(found, workload)


def network(space: SearchSpace, workload: Workload) -> Subject:
    return make_network(space, space.full), (), example_inputs(space, workload)


SUBJECTS: dict[str, Callable[[SearchSpace, Workload], Subject]] = {
    "resnet": lambda space, workload: block(space, workload, "resnet"),
    "attention": lambda space, workload: block(space, workload, "attention"),
    "network": network,
}


def eager(subject: Subject) -> torch.Tensor:
    module, args, kwargs = subject
    with torch.inference_mode():
        output = module(*args, **kwargs)
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_blocks_and_networks_compute_what_torch_does(
    device: Device, subject: str, tiny_space: SearchSpace, workload: Workload
) -> None:
    made = SUBJECTS[subject](tiny_space, workload)
    runnable = device.load(*made, precision="fp32")
    expected = eager(made)
    assert expected.std() > 0.1
    torch.testing.assert_close(runnable.output(), expected, rtol=1e-4, atol=1e-5)


def test_openvino_computes_in_bf16_if_asked_and_the_cpu_can(tiny_space: SearchSpace, workload: Workload) -> None:
    made, device = block(tiny_space, workload, "attention"), get_device("openvino-cpu", threads=1)
    try:
        runnable = device.load(*made, precision="bf16")
    except DeviceError as error:
        pytest.skip(str(error))
    expected, output = eager(made), runnable.output()
    error = (output - expected).abs().max() / expected.abs().max()
    assert 1e-5 < error < 3e-2
    found = device.provenance()
    assert (found["inference_precision_hint"], "bf16" in found["executed_in"]) == ("bf16", True)


def test_openvino_keeps_to_fp32(tiny_space: SearchSpace, workload: Workload) -> None:
    device = get_device("openvino-cpu", threads=1)
    device.load(*block(tiny_space, workload, "resnet"), precision="fp32")
    found = device.provenance()
    assert found["inference_precision_hint"] == "f32"
    assert not {"bf16", "f16"} & set(found["executed_in"].split(", "))
    assert (found["num_streams"], found["inference_num_threads"]) == ("1", "1")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_onnxruntime_refuses_what_it_would_compute_in_fp32(precision: str) -> None:
    with pytest.raises(DeviceError, match=f"computes in fp32 only.*{precision}"):
        get_device("onnxruntime-cpu").load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision=precision)


def test_openvino_refuses_precisions_that_the_cpu_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    device = get_device("openvino-cpu")

    class Old:
        def get_property(self, *names: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(device, "_core", Old())
    with pytest.raises(DeviceError, match=r"no kernels for fp16.*it has fp32$"):
        device.load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp16")


def test_weights_of_all_instances_are_counted(device: Device) -> None:
    runnable = device.load(nn.Linear(256, 256), (torch.ones(1, 256),), {}, precision="fp32", instances=3)
    assert runnable.weight_mb == pytest.approx(3 * 4 * (256 * 256 + 256) / 2**20)


@pytest.mark.parametrize(("name", "each"), [("onnxruntime-cpu", 2), ("openvino-cpu", 1)])
def test_first_runs_of_every_instance_are_behind_what_is_loaded(
    name: str, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    execute = RUNNABLES[name].execute

    def noted(self: ExportedRunnable, instance: object) -> None:
        ran.append(id(instance))
        execute(self, instance)

    monkeypatch.setattr(RUNNABLES[name], "execute", noted)
    runnable = get_device(name, threads=1).load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32", instances=3)
    assert Counter(Counter(ran).values()) == {each: 3}
    runnable.run_ms()
    assert ran[-1] == ran[0], "the first in turn is the next"


def test_temporary_files_are_gone(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runnable = device.load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32", instances=2)
    assert list(tmp_path.iterdir()) == []
    assert runnable.run_ms() > 0


def test_what_cannot_be_exported_is_explained(device: Device) -> None:
    with pytest.raises(DeviceError, match=f"{device.name} cannot run this in fp32"):
        device.load(nn.Linear(3, 3), (torch.ones(2, 4),), {}, precision="fp32")


@pytest.mark.parametrize(("name", "package"), [("onnxruntime-cpu", "onnxruntime"), ("openvino-cpu", "openvino")])
def test_missing_packages_are_named_with_their_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == package:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DeviceError, match=rf"{name} needs {package}; pip install 'nas\[{package}\]'"):
        get_device(name)


@pytest.mark.parametrize("name", NAMES)
def test_broken_packages_are_told_with_their_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(module: str, *args: Any, **kwargs: Any) -> Any:
        if module in ("onnxruntime", "openvino"):
            raise ImportError("libtbb.so.12 cannot be opened")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(DeviceError, match=rf"{name} needs libtbb\.so\.12 cannot be opened; pip install"):
        get_device(name)


def test_what_fails_while_it_runs_is_explained(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory\nat some line")

    runnable = device.load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32")
    monkeypatch.setattr(type(runnable), "execute", fail)
    for run in (runnable.run_ms, runnable.output):
        with pytest.raises(DeviceError, match=f"{device.name} cannot run this in fp32: out of memory$"):
            run()


def test_openvino_times_consecutive_operations() -> None:
    class LongThenShort(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long = nn.Linear(2048, 2048)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.long(x)[:1, :8]
            for _ in range(100):
                x = x.cumsum(-1).sin()
            return x

    module = LongThenShort().eval()
    runnable = get_device("openvino-cpu").load(module, (torch.ones(256, 2048),), {}, precision="fp32", instances=2)
    assert isinstance(runnable, RunnableInParts)
    for _ in range(2):
        parts = runnable.run_parts_ms()
        assert len(parts) == 64
        assert min(parts) >= 0
        assert max(parts[:8]) > sum(parts) / 2


def test_openvino_tells_of_the_last_precision_only() -> None:
    device = get_device("openvino-cpu", threads=1)

    class Compiled:
        def __init__(self, precision: str) -> None:
            self.precision = precision

        def get_property(self, name: str) -> Any:
            return getattr(device._openvino.Type, self.precision) if name == "INFERENCE_PRECISION_HINT" else "1"

        def get_runtime_model(self) -> Any:
            operation = SimpleNamespace(get_rt_info=lambda: {"runtimePrecision": self.precision})
            return SimpleNamespace(get_ops=lambda: [operation])

    for precision, hint in (("bf16", "bf16"), ("fp32", "f32")):
        device._note(Compiled(hint), precision)
        found = device.provenance()
        assert (found["inference_precision_hint"], found["executed_in"]) == (hint, hint)


@pytest.mark.parametrize("threads", [0, 1.5, True])
@pytest.mark.parametrize("name", NAMES)
def test_threads_are_a_whole_number(name: str, threads: object) -> None:
    with pytest.raises(DeviceError, match="threads"):
        get_device(name, threads=threads)


def test_only_tensors_are_inputs() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor, flag: bool, *, more: dict[str, torch.Tensor], no: None) -> Any:
            return {"sum": x + more["y"] if flag else x, "no": no}

    x, y = torch.ones(2), torch.full((2,), 3.0)
    kwargs = {"more": {"y": y}, "no": None}
    (output,) = TensorsOnly(Mixed(), (x, True), kwargs)(x, y)
    assert torch.equal(output, x + y)
    exported = export(Mixed(), (x, True), kwargs, precision="fp32", name="any")
    assert [tensor.tolist() for tensor in exported.tensors] == [[1, 1], [3, 3]]


def test_tensors_in_sequences_are_cast() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, parts: tuple[torch.Tensor, ...], *, more: list[torch.Tensor]) -> torch.Tensor:
            return self.linear(parts[0] + parts[1] + more[0])

    x = torch.ones(1, 2)
    exported = export(Sum(), ((x, x),), {"more": [x]}, precision="bf16", name="any")
    assert [tensor.dtype for tensor in exported.tensors] == [torch.bfloat16] * 3
    runnable = get_device("torch-cpu", threads=1).load(Sum(), ((x, x),), {"more": [x]}, precision="bf16")
    assert runnable.output().shape == (1, 2)


def test_export_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        get_device("onnxruntime-cpu", threads=1).load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32")
    assert caplog.records == []


def test_compiled_instances_share_what_was_compiled() -> None:
    compilations = torch._dynamo.utils.counters["stats"]
    before = compilations["unique_graphs"]
    device = get_device("torch-cpu-compiled", threads=1)
    runnable = device.load(nn.Linear(3, 3), (torch.ones(1, 3),), {}, precision="fp32", instances=3)
    for _ in range(4):
        runnable.run_ms()
    assert compilations["unique_graphs"] == before + 1


@pytest.mark.slow
def test_more_blocks_can_be_compiled_than_one_function_has_versions() -> None:
    device = get_device("torch-cpu-compiled", threads=1)
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (1, 2, 3):
            runnable = device.load(nn.SiLU(), (torch.ones(1, width),), {}, precision="fp32")
            assert runnable.output().shape == (1, width)


@pytest.mark.slow
def test_a_table_is_measured_and_validated(device: Device, quick: Timing, tiny_space: SearchSpace) -> None:
    lut = LatencyTable.measure(tiny_space, device=device, timing=quick)
    assert lut.base_ms > 0
    assert lut.provenance["device"] == device.name
    assert lut.validate(networks=1, device=device, timing=quick).pairs[0].measured_ms > 0


def test_openvino_reports_nothing_over_the_network(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    # In a process of its own: what it decides at its first import holds for all that follows.
    code = """
import os
from openvino_telemetry import main
sent = []
main.TelemetrySender.send = lambda *args: sent.append(args)
import torch
from nas.latency.devices import get_device
device = get_device("openvino-cpu", threads=1)
print("imported:", len(sent), "CI" in os.environ)
device.load(torch.nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32")
print("converted:", len(sent), "CI" in os.environ)
"""
    # Neither in continuous integration nor with a choice that somebody made before.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["imported: 0 False", "converted: 0 False"], ended.stderr
