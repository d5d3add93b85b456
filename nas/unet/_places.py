"""Finding and replacing the module at a place of a UNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import UNet2DConditionModel
from torch import nn

from nas.errors import ArchitectureError, ModelError, SearchSpaceError

if TYPE_CHECKING:
    from nas.architecture import Block
    from nas.search_space import SearchSpace

_LISTS = {"resnet": "resnets", "attention": "attentions"}


def block_of(unet: nn.Module, place: Block | str) -> nn.Module:
    """The module that runs at a place, for example "down.0.attention.1".

    Raises:
        ArchitectureError: the UNet has no such place.
    """
    modules, index = slot_of(unet, place)
    return modules[index]


def set_block(unet: nn.Module, place: Block | str, module: nn.Module) -> None:
    """Put another module at a place; the UNet's own forward then calls it.

    Raises:
        ArchitectureError: the UNet has no such place.
    """
    modules, index = slot_of(unet, place)
    modules[index] = module


def slot_of(unet: nn.Module, place: Block | str) -> tuple[nn.ModuleList, int]:
    """The list that holds the module at a place, and its index there.

    Raises:
        ArchitectureError: the UNet has no such place.
    """
    try:
        stage, kind, index = str(place).rsplit(".", 2)
        modules = getattr(_stage(unet, stage), _LISTS[kind])
        if not 0 <= int(index) < len(modules):
            raise IndexError(index)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ArchitectureError(f"the UNet has no place {str(place)!r}; they look like 'down.0.attention.1'") from error
    return modules, int(index)


def _stage(unet: nn.Module, stage: str) -> nn.Module:
    if stage == "mid":
        return unet.mid_block
    side, number = stage.split(".")
    return {"down": unet.down_blocks, "up": unet.up_blocks}[side][int(number)]


def require_unet(unet: object) -> None:
    """Refuse what is no `UNet2DConditionModel`.

    Raises:
        ModelError: it is something else.
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise ModelError(f"expected a diffusers UNet2DConditionModel, got a {type(unet).__name__}")


def check_unet(unet: nn.Module, space: SearchSpace) -> None:
    """Refuse a UNet that is not the full network of a search space.

    Raises:
        ModelError: not a `UNet2DConditionModel` at all.
        SearchSpaceError: its blocks are not those of the space; the message names the first that differs.
    """
    require_unet(unet)
    for block in space.blocks:
        if not _fits(unet, block):
            raise SearchSpaceError(f"the UNet is not of the search space {space.name!r}: they differ at {block.place}")
    if _count(unet) != len(space.blocks):
        raise SearchSpaceError(
            f"the UNet has {_count(unet)} blocks and the search space {space.name!r} only {len(space.blocks)}"
        )


def _fits(unet: nn.Module, block: Block) -> bool:
    try:
        module = block_of(unet, block)
    except ArchitectureError:
        return False
    # What stands in for a skipped block has no channels, a block with copies has copies.
    channels = getattr(module, "in_channels", None), getattr(module, "out_channels", None)
    return channels == (block.in_channels, block.out_channels) and not hasattr(module, "copies")


def _count(unet: nn.Module) -> int:
    stages = [*unet.down_blocks, *unet.up_blocks, *([] if unet.mid_block is None else [unet.mid_block])]
    return sum(len(getattr(stage, name, ())) for stage in stages for name in _LISTS.values())
