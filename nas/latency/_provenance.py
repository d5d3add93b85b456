"""What a measurement was made for and under which conditions, as plain scalars."""

from __future__ import annotations

from datetime import UTC, datetime

from nas.latency._bench import Bench
from nas.latency.devices import Device
from nas.latency.devices._machine import versions
from nas.workload import Workload


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


def now() -> str:
    """The time as tables write it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
