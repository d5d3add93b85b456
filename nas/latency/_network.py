"""Whole networks, measured end to end under a table's conditions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import ModelError
from nas.latency._canary import bench_on, canary_provenance
from nas.latency._provenance import measurement_on, now
from nas.latency._random_networks import distinct_architectures, random_network, require_count
from nas.latency._row import Row
from nas.latency._timing import Timing
from nas.latency._validation import Pair, Validation
from nas.latency._visits import Visits
from nas.latency.devices import Device, Runnable, get_device
from nas.search_space import SearchSpace
from nas.workload import Workload

if TYPE_CHECKING:
    from torch import nn

    from nas.latency._table import LatencyTable

FULL = "the full network"
# A few networks are measured longer than one of many rows, and in two passes.
PATIENT = Timing(min_repeats=8, min_seconds=2.0, max_seconds=4.0, passes=2, extra_seconds=60.0)


def measure_network_ms(
    unet: nn.Module,
    table_or_workload: LatencyTable | Workload,
    *,
    device: str | Device | None = None,
    timing: Timing | None = None,
) -> Row:
    """Measure a network end to end, as a table's rows were measured.

    Args:
        unet: any diffusers `UNet2DConditionModel`, an `EvolvedUNet` or a supernet's candidate. It is left as it is.
        table_or_workload: a table says workload, device and threads; with a workload alone, `device` says where.
        device: name or device; the table's own, or "torch-cpu", when None.
        timing: how long to measure.

    Returns:
        the time of one forward pass; its drift is against the machine as it was when the table was measured.

    Raises:
        DeviceError: the device is not here or cannot run the network.
        ModelError: `unet` is not a UNet.
    """
    name = "the network"
    return measure_networks_ms({name: unet}, table_or_workload, device=device, timing=timing)[name]


def measure_networks_ms(
    unets: Mapping[str, nn.Module],
    table_or_workload: LatencyTable | Workload,
    *,
    device: str | Device | None = None,
    timing: Timing | None = None,
) -> dict[str, Row]:
    """Measure several networks in turns, so that the same machine is seen by all; see `measure_network_ms`."""
    if isinstance(table_or_workload, Workload):
        workload, usual_ms, device = table_or_workload, None, as_device(device or "torch-cpu")
    else:
        workload = table_or_workload.workload
        usual_ms = None if device else canary_ms_of(table_or_workload)
        device = as_device(device) if device else device_of(table_or_workload)
    bench = bench_on(device, workload.precision, timing or PATIENT, canary_ms=usual_ms)
    loaders = {
        name: partial(_load, space_of(unet), workload, device, partial(_as_it_is, unet)) for name, unet in unets.items()
    }
    return bench.measure_all(loaders, description="Measuring whole networks")


def _as_it_is(unet: nn.Module) -> nn.Module:
    return unet


def canary_ms_of(table: LatencyTable) -> float | None:
    """The canary's time while the table was measured, where it is known and was the same canary."""
    known, provenance = table.provenance.get("canary_ms"), canary_provenance()
    same = provenance.items() <= table.provenance.items()
    return float(known) if same and isinstance(known, int | float) and known > 0 else None


def as_device(device: str | Device, *, threads: int | None = None) -> Device:
    """A device from a name, or as it is."""
    return get_device(device, threads=threads) if isinstance(device, str) else device


def device_of(table: LatencyTable) -> Device:
    """The device a table was measured on, with as many threads.

    Raises:
        DeviceError: it is not on this machine.
    """
    return get_device(table.device, threads=table.threads)


def _load(space: SearchSpace, workload: Workload, device: Device, make: Callable[[], nn.Module]) -> Runnable:
    from nas.unet import example_inputs

    inputs = example_inputs(space, workload, device=device.home)
    return device.load(make(), (), inputs, precision=workload.precision)


def space_of(unet: nn.Module, *, context_length: int = 77) -> SearchSpace:
    """The space of a UNet, stock or evolved; of an evolved one, that of its origin.

    Raises:
        ModelError: `unet` is not a UNet.
    """
    # Only the config decides the inputs, and that of an evolved network is its origin's and two fields more.
    try:
        config: dict[str, Any] = {**unet.config}
    except (AttributeError, TypeError) as error:
        raise ModelError(f"cannot measure a {type(unet).__name__}: it has no config of a diffusers UNet") from error
    config = {name: value for name, value in config.items() if name not in ("architecture", "space_name")}
    return SearchSpace.from_config(config, context_length=context_length)


def validate(
    table: LatencyTable,
    unet: nn.Module | None,
    *,
    networks: int,
    seed: int,
    device: Device,
    timing: Timing,
    visits: str | os.PathLike[str] | None = None,
) -> Validation:
    """Measure random networks of the table's space end to end beside what the table predicts.

    The full network is measured in between where the table knows what it took: a network shows better than the canary
    how fast the machine is for networks.

    Args:
        table: what is to be validated.
        unet: whose weights to use, without copying them; random weights, one network at a time in memory, when None.
        networks: how many.
        seed: of the random architectures.
        device: where to measure.
        timing: how long.
        visits: file for all that is measured, as it is measured.

    Raises:
        TableError: `networks` is not a whole number of at least 1, or the file holds another measurement.
    """
    require_count("networks", networks, least=1)
    # Two passes, whatever it takes to make large networks twice: a machine is disturbed for minutes at a time.
    at_home, full = device.name == table.device, table.space.full
    own = canary_ms_of(table) if at_home else None
    bench = bench_on(device, table.workload.precision, replace(timing, passes=timing.passes or 2), canary_ms=own)
    drawn = distinct_architectures(table.space, networks, seed, besides=table.wholes)
    held_out = {f"network {number}": architecture for number, architecture in enumerate(drawn, start=1)}
    reference = {FULL: full} if at_home and full in table.wholes else {}
    loaders = {
        name: partial(_load, table.space, table.workload, device, partial(_network, table, unet, architecture, device))
        for name, architecture in {**reference, **held_out}.items()
    }
    measured = measurement_on(device, table.space.to_dict(), table.workload, bench.timing, reference, held_out)
    kept = Visits(Path(visits), measured) if visits else None
    rows = bench.measure_all(loaders, description="Validating on whole networks", twice=reference, visits=kept)
    slowdown = round(rows[FULL].latency_ms / table.wholes[full].latency_ms - 1, 6) if reference else None
    measured = [(architecture, rows[name]) for name, architecture in held_out.items()]
    return validation_of(table, measured, seed=seed, date=now(), slowdown=slowdown)


def validation_of(
    table: LatencyTable,
    networks: Iterable[tuple[Architecture, Row]],
    *,
    seed: int,
    date: str,
    slowdown: float | None = None,
) -> Validation:
    """What a table predicts beside what networks took.

    Args:
        table: which.
        networks: measured end to end.
        seed: that they were drawn with.
        date: when they were measured.
        slowdown: see `Validation`.
    """
    pairs = (
        Pair(str(network), round(table.latency_ms(network), 6), row.latency_ms, row.drift) for network, row in networks
    )
    return Validation(tuple(pairs), seed, date, slowdown)


def _network(table: LatencyTable, unet: nn.Module | None, architecture: Architecture, device: Device) -> nn.Module:
    if unet is None:
        return random_network(table.space, architecture, table.workload, device.home)[0]
    from nas.unet import apply_architecture, share_structure

    network = share_structure(unet)
    apply_architecture(network, table.space, architecture)
    return network
