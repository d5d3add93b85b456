"""Whole networks with random weights, for measuring latency, which does not depend on the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from nas.unet._surgery import apply_architecture

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.search_space import SearchSpace

_PATTERN = 2**20


def make_network(
    space: SearchSpace,
    architecture: Architecture,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> UNet2DConditionModel:
    """Build an architecture with random weights, in eval mode; memory for skipped blocks is never taken.

    The weights give finite outputs without denormal numbers, which would slow some processors down.

    Args:
        space: the search space.
        architecture: which blocks the network has.
        dtype: of the weights.
        device: where the weights live.
        seed: decides the weights.

    Raises:
        ArchitectureError: the architecture is of another space.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**space.config)
    apply_architecture(unet, space, architecture, init="plain")
    # diffusers' own `to` warns about casting, which is of no concern for random weights.
    nn.Module.to(unet, dtype).to_empty(device=device)
    fill_weights(unet, seed=seed)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def fill_weights(module: nn.Module, *, seed: int = 0) -> None:
    """Give every weight a cheap random value: matrices and kernels about 1/sqrt(fan-in), norms 1, the rest 0."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(_PATTERN, generator=generator) + 0.5
    pattern *= torch.randint(0, 2, (_PATTERN,), generator=generator) * 2 - 1
    for part in module.modules():
        is_norm = isinstance(part, nn.GroupNorm | nn.LayerNorm)
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim > 1:
                _tile(parameter, pattern)
            else:
                parameter.fill_(1.0 if is_norm and name == "weight" else 0.0)
        for buffer in part.buffers(recurse=False):
            buffer.zero_()


def _tile(parameter: torch.Tensor, pattern: torch.Tensor) -> None:
    # A repeated pattern: drawing every weight of a large UNet would take longer than timing it.
    pattern = (pattern[: parameter.numel()] / math.sqrt(parameter[0].numel())).to(parameter)
    for piece in parameter.view(-1).split(len(pattern)):
        piece.copy_(pattern[: len(piece)])
