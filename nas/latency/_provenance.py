"""What a measurement was made for and under which conditions, as plain scalars."""

from __future__ import annotations

from datetime import UTC, datetime

from nas.latency.devices import Device
from nas.latency.devices._machine import versions
from nas.workload import Workload


def provenance_of(
    device: Device, workload: Workload, *, canary_ms: float, other_work_cores: float, **more: str | float
) -> dict[str, str | int | float]:
    """Of what was measured just now.

    Args:
        device: where.
        workload: what for.
        canary_ms: the canary's usual time meanwhile.
        other_work_cores: how many cores other programs kept busy.
        **more: whatever else there is to say.
    """
    return {
        **device.provenance(),
        **versions("nas"),
        **more,
        **workload_provenance(workload),
        "canary_ms": round(canary_ms, 6),
        "other_work_cores": round(other_work_cores, 3),
        "date": now(),
    }


def workload_provenance(workload: Workload) -> dict[str, str | int | float]:
    """The workload as provenance tells it."""
    return {
        "precision": workload.precision,
        "batch_size": workload.batch_size,
        "resolution": f"{workload.height}x{workload.width}",
    }


def now() -> str:
    """The time as tables write it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
