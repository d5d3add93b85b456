"""Measuring a table: every distinct signature once, one module in memory at a time, and the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from nas.architecture import Architecture, Block
from nas.latency._bench import Bench
from nas.latency._network import distinct_architectures
from nas.latency._provenance import provenance_of
from nas.latency._row import Row
from nas.latency._timing import Timing
from nas.latency.devices import Device, Runnable
from nas.search_space import SearchSpace
from nas.unet import block_inputs, example_inputs, make_block, make_network, make_shortcut, torch_dtype
from nas.workload import Workload

if TYPE_CHECKING:
    from torch import nn

# A module with its inputs.
Subject: TypeAlias = "tuple[nn.Module, Sequence[Any], Mapping[str, Any]]"

_BASE = "base"
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_MAX_INSTANCES = 64
# Modules are made anew in every pass: small ones in no time, those of a large network in as long as they are measured.
_SMALL_MB = 200
_PASSES_OF_SMALL, _PASSES_OF_LARGE = 4, 2
# Larger networks are not built as a whole: a table's rows take a small part of their memory.
_LARGEST_WHOLE_MB = 4096
# Random networks that are measured as wholes beside the full one: their median outvotes one that was disturbed.
_RANDOM_WHOLES, _SEED_OF_WHOLES = 4, 20_231


@dataclass(frozen=True)
class Built:
    """What was measured.

    Attributes:
        rows: signature -> row.
        base: the network with every removable block skipped.
        wholes: networks measured end to end, by architecture; none where they are too large to be built as a whole.
        provenance: device, workload and conditions; among them "attention", the names of the attention processors met,
            as diffusers calls them, and "loading_seconds", which the device spent on what it loads: exporting and
            compiling where it does, else copying.
    """

    rows: dict[str, Row]
    base: Row
    wholes: dict[Architecture, Row]
    provenance: dict[str, str | int | float]


def build(space: SearchSpace, workload: Workload, device: Device, *, copies: bool, timing: Timing) -> Built:
    """Measure all rows and the base of a space."""
    bench = Bench(device, workload.precision, replace(timing, passes=timing.passes or _passes(space, workload)))
    loading = _Loading(space, workload, device)
    wholes = {str(network): network for network in _wholes(space, workload)}
    networks = {_BASE: space.empty, **wholes}
    subjects: dict[str, Callable[[], Subject]] = {
        **{name: partial(random_network, space, network, workload, device) for name, network in networks.items()},
        **dict(_subjects(space, workload, copies=copies)),
    }
    loaders = {name: partial(loading.load, make) for name, make in subjects.items()}
    # Every prediction holds the base, and what blocks take in context is known from a few networks alone.
    rows = bench.measure_all(loaders, description=f"Measuring {space.name} on {device.name}", twice=set(networks))
    base, measured = rows.pop(_BASE), {network: rows.pop(name) for name, network in wholes.items()}
    conditions = {"canary_ms": bench.canary_ms, "other_work_cores": bench.other_work_cores}
    found = {"attention": loading.attention, "loading_seconds": round(loading.seconds, 3)}
    return Built(rows, base, measured, provenance_of(device, workload, **conditions, **found))


def _wholes(space: SearchSpace, workload: Workload) -> list[Architecture]:
    if _mb_of(space, workload) > _LARGEST_WHOLE_MB:
        return []
    return [space.full, *distinct_architectures(space, _RANDOM_WHOLES, _SEED_OF_WHOLES)]


def _passes(space: SearchSpace, workload: Workload) -> int:
    return _PASSES_OF_SMALL if _mb_of(space, workload) < _SMALL_MB else _PASSES_OF_LARGE


def _mb_of(space: SearchSpace, workload: Workload) -> float:
    return _BYTES[workload.precision] * space.parameters / 2**20


def random_network(space: SearchSpace, architecture: Architecture, workload: Workload, device: Device) -> Subject:
    """A network with random weights, made where and as the device runs it, and its inputs."""
    dtype = torch_dtype(workload.precision)
    network = make_network(space, architecture, dtype=dtype, device=device.home, seed=0)
    return network, (), example_inputs(space, workload, device=device.home)


def _subjects(space: SearchSpace, workload: Workload, *, copies: bool) -> Iterator[tuple[str, Callable[[], Subject]]]:
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
    """Puts modules of one space on a device, and notes which attention they use and how long the device took."""

    def __init__(self, space: SearchSpace, workload: Workload, device: Device) -> None:
        self._space, self._workload, self._device = space, workload, device
        self._processors: set[str] = set()
        self.seconds = 0.0

    def load(self, make: Callable[[], Subject]) -> Runnable:
        """Make a module and load it."""
        module, args, kwargs = make()
        self._processors |= {type(part.processor).__name__ for part in module.modules() if hasattr(part, "processor")}
        instances = self._instances(module)
        start = perf_counter()
        runnable = self._device.load(module, args, kwargs, precision=self._workload.precision, instances=instances)
        self.seconds += perf_counter() - start
        return runnable

    @property
    def attention(self) -> str:
        """The attention processors met."""
        return ", ".join(sorted(self._processors)) or "none"

    def _instances(self, module: nn.Module) -> int:
        # Weights come from memory in the network if the network's weights as a whole do not fit into the cache: as many
        # instances as have together the weights of the network, or as empty any cache, whichever is less.
        size = _BYTES[self._workload.precision]
        own = size * sum(parameter.numel() for parameter in module.parameters())
        wanted = min(self._device.working_set_mb * 2**20, size * self._space.parameters)
        needed = -(-wanted // own) if own else 1
        return int(max(self._device.min_instances, min(needed, _MAX_INSTANCES)))
