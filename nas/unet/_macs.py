"""Multiply-accumulates of blocks and networks, counted by torch on the meta device: nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.unet._build import make_block
from nas.unet._inputs import block_inputs, example_inputs
from nas.unet._network import make_network

if TYPE_CHECKING:
    from nas.architecture import Architecture, Block
    from nas.search_space import SearchSpace
    from nas.workload import Workload


def block_macs(block: Block, workload: Workload, *, copy: bool = False) -> int:
    """Multiply-accumulates of one execution of a block, its shortcut and the attention products included.

    Convolutions, linear layers and the two products of attention count; norms, activations and sums, which are about a
    thousandth of it, do not.

    Args:
        block: which block.
        workload: batch, latent size and context length.
        copy: of a copy of the block instead, which has no shortcut.
    """
    with torch.device("meta"):
        module = make_block(block, copy=copy)
    args, kwargs = block_inputs(block, workload, copy=copy, device="meta")
    return _count(module.eval(), args, kwargs)


def network_macs(space: SearchSpace, workload: Workload, architecture: Architecture | None = None) -> int:
    """Multiply-accumulates of one forward pass of a whole network, counted as by `block_macs`.

    Args:
        space: the search space.
        workload: batch, latent size and context length.
        architecture: which blocks it has; the full network when None.

    Raises:
        ArchitectureError: the architecture is of another space.
    """
    network = make_network(space, architecture or space.full, device="meta")
    return _count(network, (), example_inputs(space, workload, device="meta"))


@torch.no_grad()
def _count(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        module(*args, **kwargs)
    # torch counts a multiply-accumulate as two operations.
    return counter.get_total_flops() // 2
