"""Measuring a table: every distinct signature once, one module in memory at a time, and the base."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from nas.architecture import Architecture, Block
from nas.errors import DeviceError, TableError
from nas.latency._bundles import Subject, bundle, bundle_size, row_of_bundle
from nas.latency._canary import CANARY_WEIGHTS, bench_on, canary_provenance
from nas.latency._network import distinct_architectures
from nas.latency._provenance import measurement_on, provenance_of
from nas.latency._row import Row
from nas.latency._timing import Timing
from nas.latency._visits import Visits
from nas.latency.devices import Device, Runnable
from nas.latency.devices._coreml_runtime import described_units, units_of
from nas.search_space import SearchSpace
from nas.unet import block_inputs, example_inputs, make_block, make_network, make_shortcut, torch_dtype
from nas.workload import Workload

if TYPE_CHECKING:
    from torch import nn

BASE = "base"
_MAX_INSTANCES = 64
# Modules are made anew in every pass: small ones in no time, those of a large network in as long as they are measured.
_SMALL_MB = 200
_PASSES_OF_SMALL, _PASSES_OF_LARGE = 4, 3
# Larger networks are not built as a whole: a table's rows take a small part of their memory. Nor are networks of few of
# their blocks: exported, compiled and run, one of SDXL's of 1.2 GB took 5 GB in OpenVINO and 9 GB in ONNX Runtime.
_LARGEST_WHOLE_MB = 4096
_SEED_OF_WHOLES = 20_231


@dataclass(frozen=True)
class Plan:
    """What there is to measure for a table, by name.

    Attributes:
        subjects: what makes each module with its inputs; the base and the whole networks first, then the rows, whose
            names are their signatures.
        wholes: the whole networks' architectures, by the same names.
        bundles: how many blocks are in the bundle beside a row, by the row's name; see `_bundles`.
    """

    subjects: dict[str, Callable[[], Subject]]
    wholes: dict[str, Architecture]
    bundles: dict[str, int]

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        workload: Workload,
        *,
        home: str,
        copies: bool,
        whole_networks: int,
        bundle_mb: float = 0.0,
    ) -> Plan:
        """All distinct signatures of a space, its base, and a few whole networks unless they are too large.

        Args:
            space: the space.
            workload: the workload.
            home: torch device on which modules are made.
            copies: also what copies of blocks cost.
            whole_networks: how many are measured end to end, the full one first; none of models above 4 GiB.
            bundle_mb: see `Device.bundle_mb`.
        """
        wholes = {str(network): network for network in _wholes(space, workload, whole_networks)}
        networks = {BASE: space.empty, **wholes}
        subjects = {name: partial(random_network, space, found, workload, home) for name, found in networks.items()}
        rows = dict(_rows(space, workload, copies=copies))
        bundles = {name: _bundle_size(make, workload, bundle_mb) for name, make in rows.items()} if bundle_mb else {}
        bundles = {name: size for name, size in bundles.items() if size > 1}
        together = {_together(name): partial(bundle, rows[name], size) for name, size in bundles.items()}
        return cls({**subjects, **rows, **together}, wholes, bundles)

    @property
    def networks(self) -> set[str]:
        """The base and the wholes, which run alone as they do in a pipeline: one instance, its weights where they are.

        They are measured twice as often as the rows, for every prediction depends on them.
        """
        return {BASE, *self.wholes}


@dataclass(frozen=True)
class Built:
    """What was measured.

    Attributes:
        rows: signature -> row.
        base: the network with every removable block skipped.
        wholes: networks measured end to end, by architecture; none where they are too large to be built as a whole.
        provenance: device, workload and conditions; among them "attention", the attention processors as diffusers calls
            them, and "loading_seconds", which the device spent on what it loads: exporting and compiling where it
            does, else copying; of a measurement that was interrupted, since then. Where a device says on which units
            operations run, "operations"; not of a measurement that was interrupted, of which a part was loaded before.
    """

    rows: dict[str, Row]
    base: Row
    wholes: dict[Architecture, Row]
    provenance: dict[str, str | int | float]

    @classmethod
    def of(
        cls,
        measured: Mapping[str, Row],
        provenance: dict[str, str | int | float],
        *,
        wholes: Mapping[str, Architecture],
        bundles: Mapping[str, int],
    ) -> Built:
        """From what was measured by the names of a plan, and that plan's `wholes` and `bundles`."""
        others = {BASE, *wholes, *map(_together, bundles)}
        rows = {name: row for name, row in measured.items() if name not in others}
        for name, size in bundles.items():
            rows[name] = row_of_bundle(rows[name], measured[_together(name)], size)
        return cls(rows, measured[BASE], {wholes[name]: measured[name] for name in wholes}, provenance)


def build(
    space: SearchSpace,
    workload: Workload,
    device: Device,
    *,
    copies: bool,
    whole_networks: int,
    timing: Timing,
    visits: str | os.PathLike[str] | None = None,
) -> Built:
    """Measure all rows and the base of a space; see `LatencyTable.measure`."""
    passes = timing.passes or passes_of(space, workload, keep_mb=device.keep_mb)
    keep_mb = kept_mb_of(space, workload, keep_mb=device.keep_mb)
    bench = bench_on(device, workload.precision, replace(timing, passes=passes), keep_mb=keep_mb)
    options = {"copies": copies, "whole_networks": whole_networks, "bundle_mb": device.bundle_mb}
    plan = Plan.of(space, workload, home=device.home, **options)
    loading = _Loading(space, workload, device)
    loaders = {
        name: partial(loading.load, name, make, alone=name in plan.networks) for name, make in plan.subjects.items()
    }
    measured = measurement_on(device, space.to_dict(), workload, bench.timing, list(plan.subjects))
    kept = Visits(Path(visits), measured) if visits else None
    try:
        rows = bench.measure_all(
            loaders, description=f"Measuring {space.name} on {device.name}", twice=plan.networks, visits=kept
        )
    except DeviceError as error:
        if loading.last not in plan.wholes:
            raise
        raise DeviceError(f"{error}; to leave whole networks out: whole_networks=0, --whole-networks 0") from error
    found = {"attention": attention_of(space), "loading_seconds": round(loading.seconds, 3)}
    found |= loading.placement(plan.subjects)
    provenance = provenance_of(device, workload, bench, **found, **canary_provenance())
    return Built.of(rows, provenance, wholes=plan.wholes, bundles=plan.bundles)


def _together(name: str) -> str:
    return f"bundle of {name}"


def _bundle_size(make: Callable[[], Subject], workload: Workload, bundle_mb: float) -> int:
    module, *inputs = _made(make, workload)
    size = torch_dtype(workload.precision).itemsize
    return bundle_size(size * (_weights(module) + _numbers(inputs)) / 2**20, bundle_mb)


def _made(make: Callable[[], Subject], workload: Workload) -> Subject:
    try:
        return make()
    except (RuntimeError, MemoryError) as error:  # torch's own of sizes that nothing has room for
        raise DeviceError(f"there is no room for {workload.describe()}: {error}") from error


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _numbers(inputs: Any) -> int:
    return sum(leaf.numel() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor))


def _wholes(space: SearchSpace, workload: Workload, count: int) -> list[Architecture]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise TableError(f"whole_networks is {count!r}; it must be a whole number of at least 0")
    if count == 0 or _mb_of(space, workload) > _LARGEST_WHOLE_MB:
        return []
    return [space.full, *distinct_architectures(space, count - 1, _SEED_OF_WHOLES)]


def passes_of(space: SearchSpace, workload: Workload, *, keep_mb: float = 0.0) -> int:
    """How often everything is measured in its turn unless somebody says.

    Modules are made anew every time; a device that exports or compiles them as well takes longer for a large network
    as a whole than to measure it, unless it can keep it.
    """
    network_mb = _mb_of(space, workload)
    if network_mb < _SMALL_MB:
        return _PASSES_OF_SMALL
    return 1 if 0 < keep_mb < network_mb <= _LARGEST_WHOLE_MB else _PASSES_OF_LARGE


def kept_mb_of(space: SearchSpace, workload: Workload, *, keep_mb: float) -> float:
    """How many MB of weights to keep from pass to pass where a device has room for `keep_mb`: none of a larger network.

    A few blocks of one save little time, and their activations are larger than their weights.
    """
    return keep_mb if _mb_of(space, workload) <= keep_mb else 0.0


def _mb_of(space: SearchSpace, workload: Workload) -> float:
    return torch_dtype(workload.precision).itemsize * space.parameters / 2**20


def random_network(space: SearchSpace, architecture: Architecture, workload: Workload, home: str) -> Subject:
    """A network with random weights and its inputs, made on a torch device in the workload's precision."""
    network = make_network(space, architecture, dtype=torch_dtype(workload.precision), device=home, seed=0)
    return network, (), example_inputs(space, workload, device=home)


def _rows(space: SearchSpace, workload: Workload, *, copies: bool) -> Iterator[tuple[str, Callable[[], Subject]]]:
    for block in space.blocks:
        yield block.signature(workload), partial(_block, block, workload)
        if shortcut := block.shortcut_signature(workload):
            yield shortcut, partial(_shortcut, block, workload)
        if copies:
            yield block.signature(workload, copy=True), partial(_block, block, workload, copy=True)


def _block(block: Block, workload: Workload, *, copy: bool = False) -> Subject:
    return make_block(block, copy=copy), *block_inputs(block, workload, copy=copy)


def _shortcut(block: Block, workload: Workload) -> Subject:
    (hidden_states, *_), _ = block_inputs(block, workload)
    return make_shortcut(block), (hidden_states,), {}


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
        module, args, kwargs = subject = _made(make, self._workload)
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


def instances_of(
    subject: Subject, space: SearchSpace, precision: str, *, working_set_mb: float, min_instances: int
) -> int:
    """How many instances of a module are to be run in turn, see `Device.working_set_mb`.

    Weights come from memory in the network if the network's weights as a whole do not fit into the cache: as many
    instances as have together the weights of the network, or as empty any cache, whichever is less. The canary's, which
    is executed in between, are as good as the others' to that end: counted for nothing they would empty a cache that
    the network leaves full. So are the inputs, which are the same for all instances: large ones empty a cache by
    themselves, and every instance has activations of their size in memory.
    """
    module, *inputs = subject
    size = torch_dtype(precision).itemsize
    own = size * _weights(module)
    wanted = min(working_set_mb * 2**20, size * space.parameters) - size * _numbers(inputs)
    needed = -(-wanted // (own + size * CANARY_WEIGHTS)) if own else 1
    return int(max(min_instances, min(needed, _MAX_INSTANCES)))
