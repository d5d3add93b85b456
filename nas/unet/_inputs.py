"""Inputs of the right shapes for a whole UNet and for single blocks."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel

from nas.errors import SearchSpaceError

if TYPE_CHECKING:
    from nas.architecture import Block
    from nas.search_space import SearchSpace
    from nas.workload import Workload

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TIMESTEP = 500
_TIME_IDS = 6  # SDXL: original size, crop and target size, two numbers each


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a workload's precision: "fp32", "fp16" or "bf16"."""
    return _DTYPES[precision]


def example_inputs(
    space: SearchSpace, workload: Workload, *, device: str | torch.device = "cpu", seed: int = 0
) -> dict[str, Any]:
    """Random keyword arguments for the forward of a UNet of the space.

    Returns:
        `sample` [b x c x h x w], `timestep` (one number), `encoder_hidden_states` [b x length x d], `return_dict`
        False, and where the config asks for them `added_cond_kwargs` (SDXL) and `class_labels`.

    Raises:
        SearchSpaceError: the UNet takes inputs of a kind that is not known here.
    """
    random = _Random(workload.precision, device, seed)
    config = _with_defaults(space.config)
    batch = workload.batch_size
    inputs: dict[str, Any] = {
        "sample": random(batch, config["in_channels"], workload.height, workload.width),
        "timestep": torch.tensor(_TIMESTEP, device=device),
        "encoder_hidden_states": random(batch, workload.context_length, _context_dim(config)),
        "return_dict": False,
    }
    if (added := _added_conditions(config, batch, random)) is not None:
        inputs["added_cond_kwargs"] = added
    if (labels := _class_labels(config, batch, random)) is not None:
        inputs["class_labels"] = labels
    return inputs


def block_inputs(
    block: Block,
    workload: Workload,
    *,
    copy: bool = False,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random arguments for one block, as its stage calls it; the first is also the input of its shortcut.

    Args:
        block: which block.
        workload: batch, latent size, context length and precision.
        copy: for a copy of the block, which takes what the block gives.
        device: where the tensors live.
        seed: decides their values.

    Returns:
        Positional arguments ([b x c x h x w], and for a ResNet the time embedding [b x t]) and keyword arguments.
    """
    random = _Random(workload.precision, device, seed)
    channels = block.out_channels if copy else block.in_channels
    hidden_states = random(workload.batch_size, channels, *block.size(workload))
    if block.kind == "resnet":
        width = block.option("temb_channels")
        return (hidden_states, None if width is None else random(workload.batch_size, width)), {}
    width = block.option("context_dim")
    context = None if width is None else random(workload.batch_size, workload.context_length, width)
    return (hidden_states,), {"encoder_hidden_states": context, "return_dict": False}


class _Random:
    """Normal numbers of any shape from one seeded generator, the same on every device."""

    def __init__(self, precision: str, device: str | torch.device, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._target = {"dtype": torch_dtype(precision), "device": device}

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator).to(**self._target)


def _with_defaults(config: Any) -> dict[str, Any]:
    parameters = inspect.signature(UNet2DConditionModel.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(config)


def _context_dim(config: dict[str, Any]) -> int:
    if config["encoder_hid_dim_type"] not in (None, "text_proj"):
        raise SearchSpaceError(f"UNets with encoder_hid_dim_type={config['encoder_hid_dim_type']!r} cannot be measured")
    dim = config["encoder_hid_dim"] or config["cross_attention_dim"]
    return dim if isinstance(dim, int) else dim[0]


def _added_conditions(config: dict[str, Any], batch: int, random: _Random) -> dict[str, torch.Tensor] | None:
    kind = config["addition_embed_type"]
    if kind in (None, "text"):
        return None
    if kind != "text_time":
        raise SearchSpaceError(f"UNets with addition_embed_type={kind!r} cannot be measured")
    # Both are concatenated: the pooled text takes what the embedded numbers leave.
    width = config["projection_class_embeddings_input_dim"] - _TIME_IDS * config["addition_time_embed_dim"]
    return {"text_embeds": random(batch, width), "time_ids": random(batch, _TIME_IDS)}


def _class_labels(config: dict[str, Any], batch: int, random: _Random) -> torch.Tensor | None:
    kind = config["class_embed_type"]
    if kind is None:
        return None if config["num_class_embeds"] is None else torch.zeros_like(random(batch), dtype=torch.long)
    if kind == "timestep":
        return random(batch)
    if kind in ("projection", "simple_projection"):
        return random(batch, config["projection_class_embeddings_input_dim"])
    raise SearchSpaceError(f"UNets with class_embed_type={kind!r} cannot be measured")
