"""For whoever adds a device: fake ones, and the checks that every device must pass.

A test of a device of your own:

    @pytest.mark.parametrize("check", nas.latency.testing.DEVICE_CHECKS)
    def test_my_device(check):
        check(MyDevice())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nas.errors import DeviceError
from nas.latency._fake_coreml import FakeCoreML as FakeCoreML
from nas.latency.devices._device import require_precision
from nas.workload import PRECISIONS

if TYPE_CHECKING:
    from nas.latency.devices import Device


class FakeDevice:
    """A device on which a module takes a time that its number of weights decides. Nothing is executed.

    Its latencies add up exactly, so that the arithmetic of tables can be tested; `call_ms` breaks that, as launch
    costs do, and `speed` makes the machine slower for a while.

    Args:
        ms_per_parameter: time for each weight, in ms.
        call_ms: time for each call of a module, in ms.
        bundle_mb: see `nas.latency.devices.Device`.
        speed: factor on all times as a function of the device's clock (in ms); 1 by default.
    """

    name = "fake"
    home = "cpu"
    working_set_mb = 0.0
    min_instances = 1
    keep_mb = 0.0
    usual_precision = "fp32"

    def __init__(
        self,
        *,
        ms_per_parameter: float = 1e-3,
        call_ms: float = 0.0,
        bundle_mb: float = 0.0,
        speed: Callable[[float], float] = lambda clock_ms: 1.0,
    ) -> None:
        self.ms_per_parameter, self.call_ms, self.speed = ms_per_parameter, call_ms, speed
        self.bundle_mb = bundle_mb
        self.clock_ms = 0.0
        self.loaded: list[int] = []

    def provenance(self) -> dict[str, str | int | float]:
        """A machine that does not exist."""
        return {"device": self.name, "hardware": "none", "os": "none", "python": "none", "threads": 1}

    def cost_ms(self, module: nn.Module) -> float:
        """What one execution takes while the machine is at its usual speed."""
        return self.call_ms + self.ms_per_parameter * sum(parameter.numel() for parameter in module.parameters())

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> FakeRunnable:
        """See `nas.latency.devices.Device.load`."""
        require_precision(precision)
        self.loaded.append(instances)
        return FakeRunnable(self, self.cost_ms(module), lambda: module(*args, **kwargs))


class FakeRunnable:
    """Moves the fake device's clock."""

    weight_mb = 0.0

    def __init__(self, device: FakeDevice, cost_ms: float, call: Callable[[], Any]) -> None:
        self._device, self._cost_ms, self._call = device, cost_ms, call

    def run_ms(self) -> float:
        """The module's cost at the machine's present speed."""
        time_ms = self._cost_ms * self._device.speed(self._device.clock_ms)
        self._device.clock_ms += time_ms
        return time_ms

    def output(self) -> torch.Tensor:
        """As torch computes it; only here the module is run."""
        with torch.inference_mode():
            output = self._call()
        return (output if isinstance(output, torch.Tensor) else output[0]).float()


def check_provenance(device: Device) -> None:
    """Provenance names the device and all that decides its speed, in plain scalars."""
    found = device.provenance()
    assert found["device"] == device.name
    assert {"hardware", "os", "python", "threads"} <= set(found)
    assert all(isinstance(value, str | int | float) for value in found.values())


def check_attributes(device: Device) -> None:
    """What a table's plan depends on is there, and makes sense."""
    torch.empty(0, device=device.home)
    assert device.min_instances >= 1
    assert min(device.working_set_mb, device.bundle_mb, device.keep_mb) >= 0
    _run_or_refuse(device, _example(), device.usual_precision, refusable=False)


def check_times(device: Device) -> None:
    """Every execution takes a positive, finite time."""
    runnable = device.load(*_example(), precision="fp32")
    assert all(math.isfinite(time) and time > 0 for time in (runnable.run_ms() for _ in range(3)))


def check_instances(device: Device) -> None:
    """More instances than executions, or fewer, make no difference to the caller."""
    runnable = device.load(*_example(), precision="fp32", instances=3)
    assert all(runnable.run_ms() > 0 for _ in range(4))


def check_inputs(device: Device) -> None:
    """Inputs by name, mappings of tensors, numbers and None arrive at the module."""

    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, *, more: dict[str, torch.Tensor], scale: float, no: None) -> torch.Tensor:
            assert no is None
            return self.linear(x + more["y"]) * scale

    kwargs = {"more": {"y": torch.ones(2, 4)}, "scale": 2.0, "no": None}
    module = Picky()
    runnable = device.load(module, (torch.ones(2, 4),), kwargs, precision="fp32")
    assert runnable.run_ms() > 0
    with torch.no_grad():
        torch.testing.assert_close(runnable.output(), module.linear(torch.full((2, 4), 2.0)) * 2, rtol=1e-4, atol=1e-4)


def check_output(device: Device) -> None:
    """The runtime computes what torch does, before and after it was timed, by whatever instance."""
    module, args, kwargs = _example()
    with torch.no_grad():
        expected = module(*args, **kwargs)
    runnable = device.load(module, args, kwargs, precision="fp32", instances=2)
    for _ in range(2):
        output = runnable.output()
        assert output.device.type == "cpu"
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
        runnable.run_ms()
    assert runnable.weight_mb >= 0


def check_module_untouched(device: Device) -> None:
    """The caller's module keeps its weights, mode and gradients, in whatever precision it was run."""
    module, args, kwargs = _example()
    module.train()
    before = [(parameter, parameter.detach().clone()) for parameter in module.parameters()]
    for precision in PRECISIONS:
        _run_or_refuse(device, (module, args, kwargs), precision)
    assert all(part.training for part in module.modules())
    for (old, value), new in zip(before, module.parameters(), strict=True):
        assert new is old
        assert new.requires_grad
        assert new.dtype == torch.float32
        assert torch.equal(new, value)


def check_unknown_precision(device: Device) -> None:
    """A precision that does not exist is refused by name."""
    message = None
    try:
        device.load(*_example(), precision="fp7")
    except DeviceError as error:
        message = str(error)
    assert message is not None, "a precision of fp7 was accepted"
    assert "fp7" in message


def _run_or_refuse(
    device: Device, example: tuple[nn.Module, Any, Any], precision: str, *, refusable: bool = True
) -> None:
    module, args, kwargs = example
    refusal = None
    try:
        device.load(module, args, kwargs, precision=precision).run_ms()
    except DeviceError as error:
        refusal = str(error)
    assert refusal is None or (refusable and precision != "fp32"), f"{precision} was refused: {refusal}"
    assert refusal is None or precision in refusal, f"{precision} was refused without naming it"


DEVICE_CHECKS: tuple[Callable[[Device], None], ...] = (
    check_provenance,
    check_attributes,
    check_times,
    check_instances,
    check_inputs,
    check_output,
    check_module_untouched,
    check_unknown_precision,
)


def _example() -> tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, Any]]:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU()), (torch.randn(2, 4, 8, 8),), {}
