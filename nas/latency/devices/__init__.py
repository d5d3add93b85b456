"""What can time a block: a runtime on a piece of hardware."""

from nas.latency.devices._device import Device, Runnable
from nas.latency.devices._registry import device_names, get_device

__all__ = ["Device", "Runnable", "device_names", "get_device"]
