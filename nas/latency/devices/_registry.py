"""Devices by name."""

from __future__ import annotations

from collections.abc import Callable

from nas.errors import DeviceError
from nas.latency.devices._coreml_runtime import UNITS
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
    "torch-mps-compiled": _torch("mps", "compiled"),
    "torch-cuda-compiled": _torch("cuda", "compiled"),
    "torch-cuda-graph": _torch("cuda", "graph"),
    "onnxruntime-cpu": _onnxruntime,
    "openvino-cpu": _openvino,
}


def _coreml(unit: str, phone: str | None = None) -> Callable[[str, str], Device]:
    def make(attention: str, target: str) -> Device:
        from nas.latency.devices._coreml import CoreMLDevice
        from nas.latency.devices._coreml_runtime import PhoneRuntime

        runtime = PhoneRuntime(phone) if phone else None
        return CoreMLDevice(unit, attention=attention, target=target or "iOS17", runtime=runtime)

    return make


def _coreai(attention: str, target: str) -> Device:
    from nas.latency.devices._coreai import CoreAIDevice

    if target:
        raise DeviceError(f"coreai-cpu has no target {target}; leave it out")
    return CoreAIDevice(attention=attention)


# These choose their threads themselves, and take an attention and a target: "coreml-ne+iOS18+split-einsum".
_APPLE: dict[str, Callable[[str, str], Device]] = {
    **{f"coreml-{unit}": _coreml(unit) for unit in UNITS},
    **{f"coreml-{phone}-{unit}": _coreml(unit, phone) for phone in ("iphone", "ipad") for unit in UNITS},
    "coreai-cpu": _coreai,
}


def device_names() -> tuple[str, ...]:
    """Every device that `get_device` knows, whether it is here or not."""
    return (*_MAKERS, *_APPLE)


def get_device(name: str, *, threads: int | None = None) -> Device:
    """A device by name.

    Args:
        name: one of `device_names()`. Behind the name of an Apple device "+split-einsum" or "+split-einsum-chunks" puts
            that attention into whatever it runs (`nas.unet.with_attention`), and behind Core ML's "+iOS18" converts for
            that system instead of iOS 17.
        threads: CPU threads to use; as many as the runtime would use when None.

    Raises:
        DeviceError: the name is unknown, or there is no such device here.
        MissingRuntimeError: a package for it is not installed.
        ModelError: the attention is unknown.
    """
    if name in _MAKERS:
        return _MAKERS[name](threads)
    first, *choices = name.split("+")
    if first not in _APPLE:
        raise DeviceError(f"no device is called {name!r}; choose one of {', '.join(device_names())}")
    if threads is not None:
        raise DeviceError(f"{first} chooses its threads itself; leave threads={threads!r} out")
    targets = [choice for choice in choices if choice.startswith("iOS")]
    attentions = [choice for choice in choices if choice not in targets]
    if len(targets) > 1 or len(attentions) > 1:
        raise DeviceError(f"{name!r} names two attentions or two targets; choose one")
    return _APPLE[first]("".join(attentions) or "original", "".join(targets))
