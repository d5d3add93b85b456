"""Single blocks as diffusers builds them, and copies of blocks."""

from __future__ import annotations

import copy as copying
from typing import TYPE_CHECKING

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch.nn import functional as F

from nas.errors import ArchitectureError, ModelError

if TYPE_CHECKING:
    from nas.architecture import Block

COPY_INITS = ("identity", "plain")


def make_block(block: Block, *, copy: bool = False) -> nn.Module:
    """A fresh module with diffusers' own initialisation, from the block's fields alone.

    Args:
        block: which block to build.
        copy: build what a copy of the block is: it takes what the block gives, so it needs no shortcut.
    """
    return _make_resnet(block, copy=copy) if block.kind == "resnet" else _make_attention(block)


def _make_resnet(block: Block, *, copy: bool) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=block.out_channels if copy else block.in_channels,
        out_channels=block.out_channels,
        temb_channels=block.option("temb_channels"),
        groups=block.option("groups"),
        eps=block.option("eps"),
        non_linearity=block.option("activation"),
        time_embedding_norm=block.option("time_embedding_norm"),
        skip_time_act=block.option("skip_time_act"),
        # Only once, by the block itself: else a copy could not start as the identity.
        output_scale_factor=1.0 if copy else block.option("output_scale_factor"),
        dropout=block.option("dropout"),
    )


def _make_attention(block: Block) -> Transformer2DModel:
    return Transformer2DModel(
        num_attention_heads=block.option("heads"),
        attention_head_dim=block.option("head_dim"),
        in_channels=block.in_channels,
        num_layers=block.option("depth"),
        cross_attention_dim=block.option("context_dim"),
        norm_num_groups=block.option("groups"),
        use_linear_projection=block.option("linear_projection"),
        only_cross_attention=block.option("only_cross_attention"),
        upcast_attention=block.option("upcast_attention"),
        attention_type=block.option("attention_type"),
        dropout=block.option("dropout"),
    )


def make_shortcut(block: Block) -> nn.Conv2d:
    """A fresh 1x1 convolution like the one that a skipped ResNet leaves.

    Raises:
        ArchitectureError: the block leaves none.
    """
    if not block.has_shortcut:
        raise ArchitectureError(f"{block} keeps the number of channels, so it has no shortcut")
    return nn.Conv2d(block.in_channels, block.out_channels, kernel_size=1)


def make_copy(block: Block, module: nn.Module, *, init: str = "identity") -> nn.Module:
    """A copy of a block, to run after it.

    A ResNet that changes the number of channels cannot be copied as it is: its copy maps out -> out channels, and its
    first convolution and norm take the weights of the first `out_channels` inputs, padded with zeros.

    Args:
        block: which block `module` is.
        module: the block in its network; it is not changed.
        init: "identity" zeroes the last projection, so that the network computes what it did before; "plain" is the
            paper's copy of all weights (https://arxiv.org/abs/2306.00980, Algorithm 1).

    Raises:
        ModelError: another `init`.
    """
    if init not in COPY_INITS:
        raise ModelError(f"copies cannot start as {init!r}; choose one of {', '.join(COPY_INITS)}")
    copy = _narrowed_copy(block, module) if block.has_shortcut else copying.deepcopy(module)
    if block.kind == "resnet":
        copy.output_scale_factor = 1.0
    if init == "identity":
        with torch.no_grad():
            for parameter in _last_projection(copy).parameters():
                parameter.zero_()
    return copy


def _last_projection(module: nn.Module) -> nn.Module:
    return module.conv2 if isinstance(module, ResnetBlock2D) else module.proj_out


def _narrowed_copy(block: Block, module: nn.Module) -> nn.Module:
    # Built without weights and given tensors afterwards: draws nothing from torch's global generator.
    with torch.device("meta"):
        copy = make_block(block, copy=True)
    state = {name: value.clone() for name, value in module.state_dict().items() if "conv_shortcut" not in name}
    state["norm1.weight"] = _resized(state["norm1.weight"], block.out_channels, dim=0, fill=1.0)
    state["norm1.bias"] = _resized(state["norm1.bias"], block.out_channels, dim=0)
    state["conv1.weight"] = _resized(state["conv1.weight"], block.out_channels, dim=1)
    copy.load_state_dict(state, assign=True)
    return copy.train(module.training)


def _resized(tensor: torch.Tensor, size: int, *, dim: int, fill: float = 0.0) -> torch.Tensor:
    """The first `size` entries along `dim`, padded at the end."""
    tensor = tensor.narrow(dim, 0, min(size, tensor.shape[dim]))
    missing = size - tensor.shape[dim]
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, missing), value=fill).clone()
