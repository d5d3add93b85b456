"""Reading the blocks of a UNet off its config: the network is built on the meta device, so no weights exist."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nas.architecture import Block
from nas.errors import SearchSpaceError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import nn

# Stages whose forward calls `resnet(h, temb)` and `attn(h, encoder_hidden_states=...)` on ModuleLists, so that an entry
# can be replaced. Other kinds (SimpleCrossAttn..., K..., AttnDown..., dual attention) mix residual units differently.
_STAGES = {"DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D"}


def describe_unet(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Block, ...], int]:
    """The config without bookkeeping, the blocks in network order, and the number of weights.

    Raises:
        SearchSpaceError: see `nas.SearchSpace.from_config`.
    """
    unet, config = _build_on_meta(config)
    blocks = tuple(block for stage in _stages(unet) for block in _blocks_of(*stage, config))
    return config, blocks, sum(parameter.numel() for parameter in unet.parameters())


def _build_on_meta(config: Mapping[str, Any]) -> tuple[UNet2DConditionModel, dict[str, Any]]:
    import torch
    from diffusers import UNet2DConditionModel

    if not isinstance(config, Mapping):
        raise SearchSpaceError(f"a UNet's config is a mapping, not a {type(config).__name__}")
    if "architecture" in config:
        raise SearchSpaceError("this UNet is evolved already; derive the space from the UNet it was evolved from")
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    if unknown := [key for key in config if key not in known and not key.startswith("_")]:
        raise SearchSpaceError(f"{unknown[0]!r} in the config is not an option of diffusers' UNet2DConditionModel")
    config = {key: value for key, value in config.items() if key in known}
    try:
        with torch.device("meta"):
            return UNet2DConditionModel(**config), config
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        raise SearchSpaceError(f"no UNet2DConditionModel can be built from the config: {error}") from error


def _stages(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, downsample factor of its blocks) of each stage, in network order."""
    factor = 1
    for index, stage in enumerate(unet.down_blocks):
        yield f"down.{index}", stage, factor
        factor *= 2 if stage.downsamplers is not None else 1
    if unet.mid_block is not None:
        yield "mid", unet.mid_block, factor
    for index, stage in enumerate(unet.up_blocks):
        yield f"up.{index}", stage, factor
        factor //= 2 if stage.upsamplers is not None else 1


def _blocks_of(name: str, stage: nn.Module, factor: int, config: Mapping[str, Any]) -> Iterator[Block]:
    if type(stage).__name__ not in _STAGES or config.get("dual_cross_attention"):
        raise SearchSpaceError(f"the stage {name} is a {type(stage).__name__}, whose blocks cannot be skipped")
    attentions = list(getattr(stage, "attentions", []))
    for index, resnet in enumerate(stage.resnets):
        yield _resnet(name, index, resnet, factor, config)
        if index < len(attentions):
            yield _attention(name, index, attentions[index], factor)


def _resnet(stage: str, index: int, module: nn.Module, factor: int, config: Mapping[str, Any]) -> Block:
    options = {
        "temb_channels": None if module.time_emb_proj is None else module.time_emb_proj.in_features,
        "groups": module.norm1.num_groups,
        "eps": module.norm1.eps,
        "activation": config.get("act_fn", "silu"),
        "time_embedding_norm": module.time_embedding_norm,
        "skip_time_act": module.skip_time_act,
        "output_scale_factor": module.output_scale_factor,
        "dropout": module.dropout.p,
    }
    return _block("resnet", stage, index, module, factor, module.in_channels, module.out_channels, options)


def _attention(stage: str, index: int, module: nn.Module, factor: int) -> Block:
    config = module.config
    options = {
        "heads": config.num_attention_heads,
        "head_dim": config.attention_head_dim,
        "depth": config.num_layers,
        "context_dim": config.cross_attention_dim,
        "groups": config.norm_num_groups,
        "linear_projection": config.use_linear_projection,
        "only_cross_attention": config.only_cross_attention,
        "upcast_attention": config.upcast_attention,
        "attention_type": config.attention_type,
        "dropout": config.dropout,
    }
    return _block("attention", stage, index, module, factor, module.in_channels, module.in_channels, options)


def _block(
    kind: str,
    stage: str,
    index: int,
    module: nn.Module,
    factor: int,
    in_channels: int,
    out_channels: int,
    options: dict[str, Any],
) -> Block:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    pairs = tuple(sorted(options.items()))
    return Block(kind, stage, index, in_channels, out_channels, factor, parameters, pairs)
