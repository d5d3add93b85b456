"""What can time a block: a runtime on a piece of hardware. Those of Apple's devices are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.latency.devices._device import Device, Runnable, RunnableInParts
from nas.latency.devices._memory import keep_freed_memory
from nas.latency.devices._registry import device_names, get_device

if TYPE_CHECKING:
    from nas.latency.devices._coreai import CoreAIDevice, convert_to_coreai
    from nas.latency.devices._coreml import CoreMLDevice
    from nas.latency.devices._coreml_converter import CoreMLConverter
    from nas.latency.devices._coreml_program import CoreMLProgram, convert_to_coreml, read_coreml
    from nas.latency.devices._coreml_runtime import CoreMLRuntime, LoadedProgram, MacRuntime, PhoneRuntime

__all__ = [
    "CoreAIDevice",
    "CoreMLConverter",
    "CoreMLDevice",
    "CoreMLProgram",
    "CoreMLRuntime",
    "Device",
    "LoadedProgram",
    "MacRuntime",
    "PhoneRuntime",
    "Runnable",
    "RunnableInParts",
    "convert_to_coreai",
    "convert_to_coreml",
    "device_names",
    "get_device",
    "keep_freed_memory",
    "read_coreml",
]

# These import torch, which a table that is only read does without.
_HOMES = {
    "CoreAIDevice": "_coreai",
    "CoreMLConverter": "_coreml_converter",
    "CoreMLDevice": "_coreml",
    "CoreMLProgram": "_coreml_program",
    "CoreMLRuntime": "_coreml_runtime",
    "LoadedProgram": "_coreml_runtime",
    "MacRuntime": "_coreml_runtime",
    "PhoneRuntime": "_coreml_runtime",
    "convert_to_coreai": "_coreai",
    "convert_to_coreml": "_coreml_program",
    "read_coreml": "_coreml_program",
}


def __getattr__(name: str) -> Any:
    """The names that are imported on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
