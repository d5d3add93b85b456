"""Turning the module tree of a UNet into that of an architecture, with or without copying weights."""

from __future__ import annotations

import copy as copying
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from nas.unet._build import make_copy
from nas.unet._modules import SkippedAttention, SkippedResnet, chain_blocks
from nas.unet._places import block_of, set_block

if TYPE_CHECKING:
    from nas.architecture import Architecture, Block
    from nas.search_space import SearchSpace

Network = TypeVar("Network", bound=nn.Module)

_ATOMS = (bool, int, float, str)


def share_structure(unet: nn.Module, *, cls: type[Network] | None = None) -> Network:
    """A module tree of its own over the same `Parameter` and buffer objects: no weights are copied.

    Replacing a block, an attention processor or a mode in one tree leaves the other alone; training either trains both.

    Args:
        unet: the network whose structure is copied.
        cls: class of the result, a subclass of the network's own; the network's own when not given.
    """
    tensors = chain(unet.parameters(), unet.buffers())
    return _copy_tree(unet, cls, {id(tensor): tensor for tensor in tensors})


def own_structure(unet: nn.Module, *, cls: type[Network] | None = None) -> Network:
    """Like `share_structure`, with weights of its own."""
    return _copy_tree(unet, cls, {})


def _copy_tree(unet: nn.Module, cls: type[Any] | None, memo: dict[int, Any]) -> Any:
    # The result is that of `copy.deepcopy` with this memo, except for the class; but a search takes a network out of
    # the supernet for every candidate, and deepcopy spends most of its time on each module's empty tables of hooks.
    modules = list(unet.modules())
    for module in modules:
        kind = type(module) if module is not unet or cls is None else cls
        memo[id(module)] = kind.__new__(kind)
    for module in modules:
        memo[id(module)].__dict__.update({name: _copy_value(value, memo) for name, value in module.__dict__.items()})
    return memo[id(unet)]


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if value is None or isinstance(value, _ATOMS):
        return value
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copy_value(item, memo)) for key, item in value.items())
    return copying.deepcopy(value, memo)


def module_for(block: Block, module: nn.Module, runs: int, copies: Sequence[nn.Module] = ()) -> nn.Module:
    """What stands at a place where the block runs `runs` times.

    Args:
        block: which block `module` is.
        module: the block itself.
        runs: 0 skips it, 1 is the block itself, more run the first `runs - 1` copies after it.
        copies: the block's copies.
    """
    if runs == 1:
        return module
    if runs > 1:
        return chain_blocks(module, copies[: runs - 1])
    if block.kind == "attention":
        return SkippedAttention()
    return SkippedResnet(module.conv_shortcut, output_scale_factor=module.output_scale_factor)


def apply_architecture(
    unet: nn.Module,
    space: SearchSpace,
    architecture: Architecture,
    *,
    copies: Mapping[str, Sequence[nn.Module]] | None = None,
    init: str = "identity",
) -> None:
    """Turn a full UNet of the space into the architecture, in place.

    Args:
        unet: the UNet with every block once.
        space: the UNet's search space.
        architecture: what shall be left.
        copies: place -> modules that serve as the block's copies; those that are missing are made.
        init: how copies start that are made here, see `make_copy`.

    Raises:
        ArchitectureError: the architecture is of another space.
    """
    space.check(architecture)
    for block in space.blocks:
        runs, module = architecture.runs(block), block_of(unet, block)
        available = list((copies or {}).get(block.place, ()))[: max(runs - 1, 0)]
        available += [make_copy(block, module, init=init) for _ in range(runs - 1 - len(available))]
        set_block(unet, block, module_for(block, module, runs, available))
