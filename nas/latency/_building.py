"""Measuring a table: what its plan names, one module in memory at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

from nas.errors import DeviceError
from nas.latency._amounts import instances_of, kept_mb_of, passes_of
from nas.latency._bundles import Subject
from nas.latency._canary import bench_on, canary_provenance
from nas.latency._network import validation_of
from nas.latency._plan import Built, Plan, made
from nas.latency._provenance import measurement_on, provenance_of
from nas.latency._table import LatencyTable
from nas.latency._timing import Timing
from nas.latency._visits import Visits
from nas.latency.devices import Device, Runnable
from nas.latency.devices._coreml_runtime import described_units, units_of
from nas.search_space import SearchSpace
from nas.unet import make_block
from nas.workload import Workload


def build(
    space: SearchSpace,
    workload: Workload,
    device: Device,
    *,
    copies: bool,
    whole_networks: int,
    held_out: int,
    seed: int,
    timing: Timing,
    visits: str | os.PathLike[str] | None = None,
) -> LatencyTable:
    """Measure all rows and the base of a space, and networks to hold them against; see `LatencyTable.measure`."""
    passes = timing.passes or passes_of(space, workload, keep_mb=device.keep_mb)
    keep_mb = kept_mb_of(space, workload, keep_mb=device.keep_mb)
    bench = bench_on(device, workload.precision, replace(timing, passes=passes), keep_mb=keep_mb)
    networks = {"whole_networks": whole_networks, "held_out": held_out, "seed": seed}
    plan = Plan.of(space, workload, home=device.home, copies=copies, bundle_mb=device.bundle_mb, **networks)
    loading = _Loading(space, workload, device)
    loaders = {
        name: partial(loading.load, name, make, alone=name in plan.networks) for name, make in plan.subjects.items()
    }
    measured = measurement_on(device, space.to_dict(), workload, bench.timing, list(plan.subjects))
    kept = Visits(Path(visits), measured) if visits else None
    try:
        rows = bench.measure_all(
            loaders, description=f"Measuring {space.name} on {device.name}", twice=plan.twice, visits=kept
        )
    except DeviceError as error:
        if loading.last in plan.wholes:
            raise DeviceError(f"{error}; to leave whole networks out: whole_networks=0, --whole-networks 0") from error
        if loading.last in plan.held_out:
            raise DeviceError(f"{error}; to leave held-out networks out: held_out=0, --held-out 0") from error
        raise
    found = {"attention": attention_of(space), "loading_seconds": round(loading.seconds, 3)}
    found |= loading.placement(plan.subjects)
    provenance = provenance_of(device, workload, bench, **found, **canary_provenance())
    built = Built.of(rows, wholes=plan.wholes, held_out=plan.held_out, bundles=plan.bundles)
    return table_of(space, workload, built, provenance=provenance, seed=seed)


def table_of(
    space: SearchSpace,
    workload: Workload,
    built: Built,
    *,
    provenance: dict[str, str | int | float],
    seed: int,
) -> LatencyTable:
    """The table of what was measured, validated on the networks that were held out, if there were any.

    Args:
        space: whose blocks were measured.
        workload: what for.
        built: what was measured.
        provenance: device, workload and conditions; among them "attention", the attention processors as diffusers
            calls them, and "loading_seconds", which the device spent on what it loads: exporting, compiling and first
            runs where it does, else copying; of a measurement that was interrupted, since then. Where a device says on
            which units operations run, "operations"; not of a measurement that was interrupted, of which a part was
            loaded before.
        seed: of the networks held out.

    Raises:
        TableError: the base is above a whole network.
    """
    table = LatencyTable(space, workload, built.rows, built.base, provenance, wholes=built.wholes)
    if built.held_out:
        date = str(provenance["date"])
        table.validation = validation_of(table, built.held_out.items(), seed=seed, date=date)
    return table


class _Loading:
    """Puts modules of one space on a device, and notes how long the device took and where it runs them.

    Attributes:
        seconds: what the device took for it.
        last: the name of what was loaded last, or could not be.
    """

    def __init__(self, space: SearchSpace, workload: Workload, device: Device) -> None:
        self._space, self._workload, self._device = space, workload, device
        self._units: dict[str, Counter[str]] = {}
        self.seconds, self.last = 0.0, ""

    def load(self, name: str, make: Callable[[], Subject], *, alone: bool = False) -> Runnable:
        """Make a module and load it: one instance of what runs alone, else as many as its weights ask for."""
        self.last = name
        module, args, kwargs = subject = made(make, self._workload)
        device, precision = self._device, self._workload.precision
        sizes = {"working_set_mb": device.working_set_mb, "min_instances": device.min_instances}
        instances = 1 if alone else instances_of(subject, self._space, precision, **sizes)
        start = perf_counter()
        runnable = device.load(module, args, kwargs, precision=precision, instances=instances)
        self.seconds += perf_counter() - start
        if name not in self._units and hasattr(runnable, "placement"):
            self._units[name] = units_of(runnable)
        return runnable

    def placement(self, names: Collection[str]) -> dict[str, str]:
        """For the provenance, of all that has these names; nothing where that is not known."""
        return {"operations": described_units(self._units.values())} if self._units.keys() == set(names) else {}


def attention_of(space: SearchSpace) -> str:
    """The attention processors of a space's blocks, as diffusers calls them; "none" where there is no attention."""
    # What diffusers chooses for one block it chooses for all.
    block = next((block for block in space.blocks if block.kind == "attention"), None)
    modules = make_block(block).modules() if block else ()
    names = {type(part.processor).__name__ for part in modules if hasattr(part, "processor")}
    return ", ".join(sorted(names)) or "none"
