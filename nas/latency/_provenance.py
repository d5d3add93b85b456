"""What a measurement was made for and under which conditions, as plain scalars."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nas._fingerprint import fingerprint_of_texts
from nas.latency._bench import Bench
from nas.latency._canary import canary_provenance
from nas.latency.devices import Device
from nas.latency.devices._machine import versions
from nas.workload import Workload

# What a measurement that goes on must have in common with the one that was interrupted, of a device's provenance.
_SAME = (
    "device",
    "hardware",
    "os",
    "threads",
    *("torch", "diffusers", "onnxruntime", "openvino", "coremltools", "coreai-core", "coreai-torch"),
)


def provenance_of(
    device: Device, workload: Workload, bench: Bench, **more: str | float
) -> dict[str, str | int | float]:
    """Of what was measured just now.

    Args:
        device: where.
        workload: what for.
        bench: at which.
        **more: whatever else there is to say.
    """
    found = device.provenance()
    return {
        **found,
        **versions("nas"),
        **more,
        # Once more, as a device that puts in another attention knows better what ran.
        **found,
        **workload_provenance(workload),
        **bench.provenance(),
        "date": now(),
    }


def workload_provenance(workload: Workload) -> dict[str, str | int | float]:
    """The workload as provenance tells it."""
    return {
        "precision": workload.precision,
        "batch_size": workload.batch_size,
        "resolution": f"{workload.height}x{workload.width}",
    }


def measurement_on(device: Device, *parts: Any) -> str:
    """Names a measurement, so that what one found before an interruption is not taken for another's.

    Args:
        device: where.
        *parts: what decides what is measured and how, with a text that says it all.
    """
    # Whatever else a device says of itself may change with what was loaded.
    known = device.provenance()
    where = {name: known.get(name) for name in _SAME}
    return fingerprint_of_texts(str(part) for part in (*parts, where, canary_provenance(), versions("nas")))


def now() -> str:
    """The time as tables write it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
