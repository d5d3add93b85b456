"""Eager torch on CPU, CUDA or MPS."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn

from nas.errors import DeviceError
from nas.latency.devices._machine import machine, versions

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Several times the last-level cache of common machines: 8 to 32 MB on CPUs, 40 to 60 MB on large GPUs.
_WORKING_SET_MB = {"cpu": 64.0, "cuda": 256.0, "mps": 128.0}
# A GPU's queue is filled while it works; a block launched alone would be timed with the launch that a network hides.
_MIN_INSTANCES = {"cpu": 1, "cuda": 4, "mps": 4}


class TorchDevice:
    """Eager torch, in `torch.inference_mode`, without autocast, modules in eval mode.

    Args:
        kind: "cpu", "cuda" or "mps".
        threads: torch's intra-op threads during each execution; as set already when None.

    Raises:
        DeviceError: torch finds no such device here.
    """

    def __init__(self, kind: str, *, threads: int | None = None) -> None:
        _require_available(kind)
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise DeviceError(f"threads is {threads!r}; it must be a whole number of at least 1")
        self.name = f"torch-{kind}"
        self.home = kind
        self.threads = threads or torch.get_num_threads()
        self.working_set_mb = _WORKING_SET_MB[kind]
        self.min_instances = _MIN_INSTANCES[kind]

    def provenance(self) -> dict[str, str | int | float]:
        """Machine, accelerator, versions and threads."""
        found: dict[str, str | int | float] = {"device": self.name, **machine()}
        if self.home == "cuda":
            found |= {"cpu": found["hardware"], "hardware": torch.cuda.get_device_name()}
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
            found |= {"tf32": torch.backends.cuda.matmul.allow_tf32}
        return {**found, "threads": self.threads, "mode": "eager", **versions("torch", "diffusers")}

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> _TorchRunnable:
        """See `Device.load`. A module that is in the right precision and place already is run as it is, not copied."""
        if precision not in DTYPES:
            raise DeviceError(f"precision is {precision!r}; choose one of {', '.join(DTYPES)}")
        dtype, home = DTYPES[precision], torch.device(self.home)
        with _explained(self.name, precision):
            first = _placed(module, home, dtype)
            modules = [first, *(copy.deepcopy(first) for _ in range(instances - 1))]
            inputs = [_moved(value, home, dtype) for value in args]
            named = {name: _moved(value, home, dtype) for name, value in kwargs.items()}
        runnable = _CpuRunnable if self.home == "cpu" else _QueueRunnable
        return runnable(modules, inputs, named, self, precision)


class _TorchRunnable:
    """Instances of a module that are run in turn."""

    def __init__(
        self,
        modules: list[nn.Module],
        args: list[Any],
        kwargs: dict[str, Any],
        device: TorchDevice,
        precision: str,
    ) -> None:
        self.modules, self.args, self.kwargs = modules, args, kwargs
        self.device, self.precision = device, precision
        self._turns = cycle(modules)

    def run_ms(self) -> float:
        """One timed execution, under the device's conditions, which end with it."""
        with torch.inference_mode(), _threads(self.device.threads), _explained(self.device.name, self.precision):
            return self._timed_ms()

    def _timed_ms(self) -> float:
        raise NotImplementedError


class _CpuRunnable(_TorchRunnable):
    """The next instance, by the wall clock."""

    def _timed_ms(self) -> float:
        module, args, kwargs = next(self._turns), self.args, self.kwargs
        start = perf_counter_ns()
        module(*args, **kwargs)
        return (perf_counter_ns() - start) / 1e6


class _QueueRunnable(_TorchRunnable):
    """All instances one after another, as a network queues its blocks; the mean of them."""

    def _timed_ms(self) -> float:
        events = torch.cuda if self.device.home == "cuda" else torch.mps.event
        synchronize = torch.cuda.synchronize if self.device.home == "cuda" else torch.mps.synchronize
        start, end = events.Event(enable_timing=True), events.Event(enable_timing=True)
        synchronize()
        start.record()
        for module in self.modules:
            module(*self.args, **self.kwargs)
        end.record()
        synchronize()
        return start.elapsed_time(end) / len(self.modules)


def _require_available(kind: str) -> None:
    if kind not in _WORKING_SET_MB:
        raise DeviceError(f"torch has no device {kind!r} here; choose one of {', '.join(_WORKING_SET_MB)}")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[kind]:
        raise DeviceError(f"torch finds no {kind} device on this machine; measure with device='torch-cpu' instead")


def _placed(module: nn.Module, home: torch.device, dtype: torch.dtype) -> nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    if not all(t.device.type == home.type and (t.dtype == dtype or not t.is_floating_point()) for t in tensors):
        # `Module.to` works in place, on weights that a supernet may share: convert a copy.
        # diffusers' own `to` would only add a warning that nothing needs to stay in float32.
        return nn.Module.to(copy.deepcopy(module), device=home, dtype=dtype).eval()
    if any(part.training for part in module.modules()):
        # The same tensors in modules of their own, so that `eval` does not reach the caller's.
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}).eval()
    return module


def _moved(value: Any, home: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(home, dtype) if value.is_floating_point() else value.to(home)
    if isinstance(value, Mapping):
        return {name: _moved(item, home, dtype) for name, item in value.items()}
    return value


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _explained(name: str, precision: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = (str(error) or "out of memory").splitlines()[0]
        raise DeviceError(f"{name} cannot run this in {precision}: {reason}") from error
