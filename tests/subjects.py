"""Modules with their inputs: the parts of a search space that a device runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from nas import SearchSpace, Workload
from nas.unet import block_inputs, example_inputs, make_block, make_network, make_shortcut

SPACES = ("emoji", "sd15", "sd21", "sdxl")
# A residual block that changes the number of channels, a transformer, and both kinds of remains.
PARTS = ("down.1.resnet.0", "down.1.attention.0", "shortcut of down.1.resnet.0", "base")


def subject(space: SearchSpace, part: str) -> tuple[nn.Module, tuple, dict]:
    """Module and inputs of a place, "shortcut of" a place, or the "base", with seeded random weights throughout."""
    workload = Workload.of(space)
    torch.manual_seed(0)
    if part == "base":
        return _random(make_network(space, space.empty, seed=0)), (), example_inputs(space, workload)
    block = space.block(part.removeprefix("shortcut of "))
    args, kwargs = block_inputs(block, workload)
    if part.startswith("shortcut"):
        return _random(make_shortcut(block)), args[:1], {}
    return _random(make_block(block)), args, kwargs


def _random(module: nn.Module) -> nn.Module:
    # Norms start as ones, biases as zeros and a network's matrices as a repeated pattern, which converters leave out or
    # merge.
    for parameter in module.requires_grad_(True).parameters():
        mean, std = (
            (float(parameter.detach().mean()), 0.1) if parameter.ndim == 1 else (0.0, parameter[0].numel() ** -0.5)
        )
        nn.init.normal_(parameter, mean=mean, std=std)
    return module.eval()


def distinct_parts(space: SearchSpace) -> Iterator[str]:
    """One place for each signature of the space."""
    workload, seen = Workload.of(space), set()
    for block in space.blocks:
        signatures = {block.signature(workload): block.place}
        if shortcut := block.shortcut_signature(workload):
            signatures[shortcut] = f"shortcut of {block.place}"
        yield from (part for signature, part in signatures.items() if signature not in seen)
        seen |= set(signatures)
