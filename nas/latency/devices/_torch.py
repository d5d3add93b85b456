"""Torch on CPU, CUDA or MPS: eager, compiled, or replayed as a CUDA graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, pairwise
from time import perf_counter_ns
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from nas.errors import DeviceError
from nas.latency.devices._device import require_precision
from nas.latency.devices._machine import machine, require_threads, versions
from nas.latency.devices._memory import keep_freed_memory
from nas.latency.devices._parts import ends_of_parts
from nas.unet import torch_dtype

# Several times the last-level cache of common machines: 8 to 32 MB on CPUs, 40 to 60 MB on large GPUs.
_WORKING_SET_MB = {"cpu": 64.0, "cuda": 256.0, "mps": 128.0}
# A GPU's queue is filled while it works; a block launched alone would be timed with the launch that a network hides.
_MIN_INSTANCES = {"cpu": 1, "cuda": 4, "mps": 4}
_MODES = ("eager", "compiled", "graph")
# Compiling takes seconds, so what was compiled is kept between passes.
_KEEP_MB = {"eager": 0.0, "compiled": 512.0, "graph": 0.0}
# Eager torch calls every block in a network, too.
_BUNDLE_MB = {"eager": 0.0, "compiled": 16.0, "graph": 16.0}
# Executions before a capture, as torch's notes on CUDA graphs advise.
_WARM_UPS = 3


# Executes one instance on its inputs.
Call: TypeAlias = Callable[[], Any]


class TorchDevice:
    """Torch, in `torch.inference_mode`, without autocast, modules in eval mode.

    Compiled modules (`torch.compile`, one graph, shapes fixed) are compiled when they are loaded, so that no execution
    that is timed compiles. A CUDA graph is captured then, and executions replay it: no launch costs are left
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). On CUDA neither has been run by the authors.

    On the CPU the process keeps what it frees, from the first module loaded: see `keep_freed_memory`.

    Args:
        kind: "cpu", "cuda" or "mps".
        mode: "eager", "compiled", or "graph" (CUDA alone).
        threads: torch's intra-op threads during each execution; as set already when None.

    Raises:
        DeviceError: torch finds no such device here.
    """

    usual_precision = "fp32"

    def __init__(self, kind: str, *, mode: str = "eager", threads: int | None = None) -> None:
        _require_available(kind, mode)
        self.name = f"torch-{kind}" if mode == "eager" else f"torch-{kind}-{mode}"
        self.mode = mode
        self.home = kind
        self.threads = require_threads(threads) or torch.get_num_threads()
        self.working_set_mb = _WORKING_SET_MB[kind]
        self.min_instances = _MIN_INSTANCES[kind]
        self.bundle_mb, self.keep_mb = _BUNDLE_MB[mode], _KEEP_MB[mode]

    def provenance(self) -> dict[str, str | int | float]:
        """Machine, accelerator, versions and threads."""
        found: dict[str, str | int | float] = {"device": self.name, **machine()}
        if self.home == "cuda":
            found |= {"cpu": found["hardware"], "hardware": torch.cuda.get_device_name()}
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
            # Of matrix products and of convolutions, by default not the same.
            found |= {"tf32": torch.backends.cuda.matmul.allow_tf32, "cudnn_tf32": torch.backends.cudnn.allow_tf32}
        if self.home == "cpu":
            found |= {"keeps_freed_memory": keep_freed_memory()}
        return {**found, "threads": self.threads, "mode": self.mode, **versions("torch", "diffusers")}

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
        require_precision(precision)
        dtype, home = torch_dtype(precision), torch.device(self.home)
        if self.home == "cpu":
            keep_freed_memory()
        with _explained(self.name, precision):
            first = placed(module, home, dtype)
            modules = [first, *(copy.deepcopy(first) for _ in range(instances - 1))]
            inputs, named = moved((list(args), dict(kwargs)), home, dtype)
            with torch.inference_mode(), _threads(self.threads):
                calls = _PREPARE[self.mode](modules, inputs, named)
        if self.home != "cpu":
            return _QueueRunnable(calls, _weight_mb(modules), self, precision)
        runnable = _EagerCpuRunnable if self.mode == "eager" else _CpuRunnable
        return runnable(calls, _weight_mb(modules), self, precision)


class _TorchRunnable:
    """Instances of a module that are run in turn; each call executes one."""

    def __init__(self, calls: list[Call], weight_mb: float, device: TorchDevice, precision: str) -> None:
        self.calls, self.weight_mb = calls, weight_mb
        self.device, self.precision = device, precision
        self._turns = cycle(calls)

    def run_ms(self) -> float:
        """One timed execution, under the device's conditions, which end with it."""
        with self._conditions():
            return self._timed_ms()

    def output(self) -> torch.Tensor:
        """See `Runnable.output`."""
        with self._conditions():
            output = self.calls[0]()
            return (output if isinstance(output, torch.Tensor) else output[0]).to("cpu", torch.float32, copy=True)

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        with torch.inference_mode(), _threads(self.device.threads), _explained(self.device.name, self.precision):
            yield

    def _timed_ms(self) -> float:
        raise NotImplementedError


class _CpuRunnable(_TorchRunnable):
    """The next instance, by the wall clock."""

    def _timed_ms(self) -> float:
        call = next(self._turns)
        start = perf_counter_ns()
        call()
        return (perf_counter_ns() - start) / 1e6


class _EagerCpuRunnable(_CpuRunnable):
    """The same; between the modules inside it one can look at the clock."""

    def run_parts_ms(self) -> tuple[float, ...]:
        """See `RunnableInParts`; a part ends where a member of a `ModuleList` does, down to those of attention."""
        call = next(self._turns)
        with self._conditions(), ends_of_parts(call.func) as ends_ns:
            moments_ns = [perf_counter_ns()]
            call()
            moments_ns += [*ends_ns, perf_counter_ns()]
        return tuple((end - start) / 1e6 for start, end in pairwise(moments_ns))


class _QueueRunnable(_TorchRunnable):
    """All instances one after another, as a network queues its blocks; the mean of them."""

    def _timed_ms(self) -> float:
        events = torch.cuda if self.device.home == "cuda" else torch.mps.event
        synchronize = torch.cuda.synchronize if self.device.home == "cuda" else torch.mps.synchronize
        start, end = events.Event(enable_timing=True), events.Event(enable_timing=True)
        synchronize()
        start.record()
        for call in self.calls:
            call()
        end.record()
        synchronize()
        return start.elapsed_time(end) / len(self.calls)


def _eager(modules: list[nn.Module], args: list[Any], kwargs: dict[str, Any]) -> list[Call]:
    return [partial(module, *args, **kwargs) for module in modules]


def _compiled(modules: list[nn.Module], args: list[Any], kwargs: dict[str, Any]) -> list[Call]:
    def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    # What was compiled is kept with a code object, whose number of versions is limited: one for each module loaded.
    # Its instances share what was compiled, as equal blocks of a network do.
    run.__code__ = run.__code__.replace()
    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    calls = [partial(compiled, module, *args, **kwargs) for module in modules]
    with warnings.catch_warnings():
        # The compiler imports parts of torch that torch has deprecated itself.
        warnings.filterwarnings(
            "ignore", message=".torch.jit.script_method. is deprecated", category=DeprecationWarning
        )
        for call in calls:
            call()
    return calls


def _graph(modules: list[nn.Module], args: list[Any], kwargs: dict[str, Any]) -> list[Call]:
    return [_captured(call) for call in _eager(modules, args, kwargs)]


def _captured(call: Call) -> Call:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay() -> Any:
        # The output's memory is the graph's, and every replay writes there.
        graph.replay()
        return output

    return replay


_PREPARE: dict[str, Callable[..., list[Call]]] = {"eager": _eager, "compiled": _compiled, "graph": _graph}


def _weight_mb(modules: list[nn.Module]) -> float:
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def _require_available(kind: str, mode: str) -> None:
    if mode not in _MODES or (mode == "graph" and kind != "cuda"):
        raise DeviceError(f"torch has no mode {mode!r} on {kind}; choose eager or compiled, or graph on cuda")
    if kind not in _WORKING_SET_MB:
        raise DeviceError(f"torch has no device {kind!r} here; choose one of {', '.join(_WORKING_SET_MB)}")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[kind]:
        raise DeviceError(f"torch finds no {kind} device on this machine; measure with device='torch-cpu' instead")


def placed(module: nn.Module, home: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module on a device, in a precision and in eval mode: itself if it is so already, else a copy."""
    tensors = [*module.parameters(), *module.buffers()]
    if not all(t.device.type == home.type and (t.dtype == dtype or not t.is_floating_point()) for t in tensors):
        # `Module.to` works in place, on weights that a supernet may share: convert a copy.
        # diffusers' own `to` would only add a warning that nothing needs to stay in float32.
        return nn.Module.to(copy.deepcopy(module), device=home, dtype=dtype).eval()
    if any(part.training for part in module.modules()):
        # The same tensors in modules of their own, so that `eval` does not reach the caller's.
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}).eval()
    return module


def moved(value: Any, home: torch.device, dtype: torch.dtype) -> Any:
    """The tensors in a value on a device, floating ones in a precision; all else, structure included, as it is."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(home, dtype) if tensor.is_floating_point() else tensor.to(home)

    return pytree.tree_map_only(torch.Tensor, move, value)


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
