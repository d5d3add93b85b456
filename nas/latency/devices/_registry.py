"""Devices by name."""

from __future__ import annotations

from collections.abc import Callable

from nas.errors import DeviceError
from nas.latency.devices._device import Device


def _torch(kind: str, mode: str = "eager") -> Callable[[int | None], Device]:
    def make(threads: int | None) -> Device:
        from nas.latency.devices._torch import TorchDevice

        return TorchDevice(kind, mode=mode, threads=threads)

    return make


def _onnxruntime(threads: int | None) -> Device:
    from nas.latency.devices._onnxruntime import OnnxRuntimeDevice

    return OnnxRuntimeDevice(threads=threads)


def _openvino(threads: int | None) -> Device:
    from nas.latency.devices._openvino import OpenVinoDevice

    return OpenVinoDevice(threads=threads)


_MAKERS: dict[str, Callable[[int | None], Device]] = {
    "torch-cpu": _torch("cpu"),
    "torch-cuda": _torch("cuda"),
    "torch-mps": _torch("mps"),
    "torch-cpu-compiled": _torch("cpu", "compiled"),
    "torch-cuda-compiled": _torch("cuda", "compiled"),
    "torch-cuda-graph": _torch("cuda", "graph"),
    "onnxruntime-cpu": _onnxruntime,
    "openvino-cpu": _openvino,
}


def device_names() -> tuple[str, ...]:
    """Every device that `get_device` knows, whether it is here or not."""
    return tuple(_MAKERS)


def get_device(name: str, *, threads: int | None = None) -> Device:
    """A device by name.

    Args:
        name: one of `device_names()`.
        threads: CPU threads to use; as many as the runtime would use when None.

    Raises:
        DeviceError: the name is unknown, or there is no such device here.
    """
    if name not in _MAKERS:
        raise DeviceError(f"no device is called {name!r}; choose one of {', '.join(_MAKERS)}")
    return _MAKERS[name](threads)
