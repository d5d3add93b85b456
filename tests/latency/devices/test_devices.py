from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from nas.errors import DeviceError
from nas.latency.devices import Device, RunnableInParts, device_names, get_device
from nas.latency.devices._machine import cpu_model, machine, versions
from nas.latency.testing import DEVICE_CHECKS, FakeDevice

# What runs on any CPU; each with one thread, as several would wait for each other while other tests run beside.
ON_CPU = ("torch-cpu", "torch-cpu-compiled", "onnxruntime-cpu", "openvino-cpu")
ON_ACCELERATORS = ("torch-cuda", "torch-mps", "torch-mps-compiled", "torch-cuda-compiled", "torch-cuda-graph")
DEVICES: dict[str, Callable[[], Device]] = {
    **{name: partial(get_device, name, threads=1) for name in ON_CPU},
    "fake": FakeDevice,
}


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", DEVICES)
def test_conformance(name: str, check: Callable[[Device], None]) -> None:
    check(DEVICES[name]())


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ON_ACCELERATORS)
def test_conformance_of_accelerators(name: str, check: Callable[[Device], None]) -> None:
    try:
        device = get_device(name)
    except DeviceError:
        pytest.skip(f"{name} is not here")
    check(device)


class Counting(nn.Module):
    """Notes on whose weights, in which dtype and under which conditions it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conditions = (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), self.training)
        self.seen.append((id(self), x.dtype, self.weight.dtype, torch.get_num_threads(), conditions))
        return x * self.weight

    def __deepcopy__(self, memo: dict) -> Counting:
        twin = Counting()
        twin.seen = self.seen
        twin.weight.data = self.weight.data.clone()
        return twin


def test_instances_take_turns_with_weights_of_their_own() -> None:
    module = Counting().eval()
    runnable = get_device("torch-cpu").load(module, (torch.ones(3),), {}, precision="fp32", instances=3)
    for _ in range(6):
        runnable.run_ms()
    order = [entry[0] for entry in module.seen]
    assert len(set(order)) == 3
    assert order[:3] == order[3:]
    assert order[0] == id(module)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_runs_in_the_precision_without_autocast_or_gradients(precision: str, dtype: torch.dtype) -> None:
    module = Counting()
    get_device("torch-cpu").load(module, (torch.ones(3),), {}, precision=precision).run_ms()
    (_, inputs, weights, _, conditions) = module.seen[-1]
    assert (inputs, weights, conditions) == (dtype, dtype, (True, False, False))


def test_threads_are_set_for_the_execution_only() -> None:
    before = torch.get_num_threads()
    module = Counting().eval()
    device = get_device("torch-cpu", threads=before + 1)
    device.load(module, (torch.ones(3),), {}, precision="fp32").run_ms()
    assert module.seen[-1][3] == before + 1 == device.provenance()["threads"]
    assert torch.get_num_threads() == before


def test_eager_executions_are_timed_in_parts_that_add_up() -> None:
    class Naps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.ReLU(), nn.Sequential(nn.ModuleList([nn.ReLU(), None]), nn.ReLU())])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.parts[0](x)
            time.sleep(0.03)
            return self.parts[1][1](self.parts[1][0][0](x))

    module = Naps()
    runnable = get_device("torch-cpu").load(module, (torch.ones(2),), {}, precision="fp32", instances=2)
    assert isinstance(runnable, RunnableInParts)
    for _ in range(2):
        # The first part; the nap and the inner member; what is left.
        parts = runnable.run_parts_ms()
        assert len(parts) == 3
        assert parts[1] >= 30 > parts[0]
    assert not any(part._forward_hooks for part in module.modules())
    compiled = get_device("torch-cpu-compiled").load(nn.ReLU(), (torch.ones(2),), {}, precision="fp32")
    assert not isinstance(compiled, RunnableInParts)


def test_what_cannot_run_is_explained() -> None:
    runnable = get_device("torch-cpu").load(nn.Linear(3, 3).eval(), (torch.ones(2, 4),), {}, precision="fp32")
    with pytest.raises(DeviceError, match="torch-cpu cannot run this in fp32"):
        runnable.run_ms()


def test_devices_that_are_not_here_say_so() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            get_device("torch-cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(DeviceError, match="mps"):
            get_device("torch-mps")


def test_unknown_devices_are_refused_with_what_there_is() -> None:
    with pytest.raises(DeviceError, match="torch-cpu"):
        get_device("abacus")
    of_apple = {name for name in device_names() if name.startswith(("coreml-", "coreai-"))}
    assert set(device_names()) - of_apple == {*ON_CPU, *ON_ACCELERATORS}


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_whole_number(threads: object) -> None:
    with pytest.raises(DeviceError, match="threads"):
        get_device("torch-cpu", threads=threads)


def test_the_machine_is_named() -> None:
    assert cpu_model()
    assert machine()["cores"] >= 1
    assert versions("torch", "no-such-package") == {"torch": versions("torch")["torch"], "no-such-package": "unknown"}
