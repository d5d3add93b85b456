"""How often everything is measured, how many instances of it are run in turn, and what is kept between passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from nas.latency._bundles import Subject, bundle_size
from nas.latency._canary import CANARY_WEIGHTS
from nas.search_space import SearchSpace
from nas.unet import torch_dtype
from nas.workload import Workload

if TYPE_CHECKING:
    from torch import nn

_MAX_INSTANCES = 64
# Modules are made anew in every pass: small ones in no time, those of a large network in as long as they are measured.
_SMALL_MB = 200
_PASSES_OF_SMALL, _PASSES_OF_LARGE = 4, 3
# Larger networks are not built as a whole: a table's rows take a small part of their memory. Nor are networks of few of
# their blocks: exported, compiled and run, one of SDXL's of 1.2 GB took 5 GB in OpenVINO and 9 GB in ONNX Runtime.
_LARGEST_WHOLE_MB = 4096


def is_built_as_a_whole(space: SearchSpace, workload: Workload) -> bool:
    """Whether a space's networks are small enough for that."""
    return _mb_of(space, workload) <= _LARGEST_WHOLE_MB


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


def bundle_size_of(subject: Subject, workload: Workload, *, bundle_mb: float) -> int:
    """How many of a module make a bundle, see `Device.bundle_mb`; 1 where it is measured alone."""
    module, *inputs = subject
    numbers = _weights(module) + _numbers(inputs)
    return bundle_size(torch_dtype(workload.precision).itemsize * numbers / 2**20, bundle_mb)


def _mb_of(space: SearchSpace, workload: Workload) -> float:
    return torch_dtype(workload.precision).itemsize * space.parameters / 2**20


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _numbers(inputs: Any) -> int:
    return sum(leaf.numel() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
