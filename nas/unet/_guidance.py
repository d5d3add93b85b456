"""A UNet that is told the guidance, so that a guided step is one evaluation instead of two."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import ModelError

FOLDED_WIDTH = 256


def guidance_embedding(guidance: Tensor, width: int) -> Tensor:
    """What a UNet with `time_cond_proj_dim` is told of the guidance, as its `timestep_cond` `[b x width]`.

    The same numbers as `StableDiffusionPipeline.get_guidance_scale_embedding(guidance - 1)`, which the pipeline passes
    by itself (latent consistency models, https://arxiv.org/abs/2310.04378, have it too): sines and cosines of
    1000 (w - 1), at frequencies from 1 to 1 / 10000.

    Args:
        guidance: w of each sample `[b]`, where 1 is none.
        width: the UNet's `time_cond_proj_dim`.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1)))
    angles = 1000 * (guidance.float() - 1)[:, None] * frequencies.to(guidance.device)
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def folded_width(unet: Any) -> int | None:
    """How wide an embedding of the guidance the network takes; None if it is not told the guidance."""
    return getattr(getattr(unet, "config", None), "time_cond_proj_dim", None)


def fold_guidance(unet: Any, *, width: int = FOLDED_WIDTH) -> None:
    """Give a UNet the input that tells it the guidance, in place; at first it does not listen to it.

    A projection of the guidance's embedding is added to that of the timestep (https://arxiv.org/abs/2210.03142, §3).
    It starts at zero, so the network says what it said before, whatever guidance it is told. To be trained by
    `nas.training.distil_steps`. Saved and loaded like any other (`time_cond_proj_dim` in its config), and any
    `StableDiffusionPipeline` samples with it in one evaluation a step.

    Args:
        unet: a `UNet2DConditionModel` or an `EvolvedUNet`.
        width: of the embedding.

    Raises:
        ModelError: it has such an input already, or is no UNet with a timestep.
    """
    embedding = getattr(unet, "time_embedding", None)
    if embedding is None or not hasattr(unet, "register_to_config"):
        raise ModelError(f"{type(unet).__name__} has no timestep embedding to add the guidance to; give a UNet")
    if folded_width(unet) is not None:
        raise ModelError(f"the UNet is told the guidance already (time_cond_proj_dim is {folded_width(unet)})")
    if isinstance(width, bool) or not isinstance(width, int) or width < 4:
        raise ModelError(f"width is {width!r}; the guidance's embedding needs a whole number of at least 4")
    first = embedding.linear_1.weight
    projection = nn.Linear(width, first.shape[1], bias=False, device=first.device, dtype=first.dtype)
    nn.init.zeros_(projection.weight)
    embedding.cond_proj = projection
    unet.register_to_config(time_cond_proj_dim=width)
