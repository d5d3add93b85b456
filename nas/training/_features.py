"""What the stages of a UNet give to each other, collected while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def stage_features(network: nn.Module, *, wanted: bool = True) -> Iterator[list[Tensor]]:
    """A list to which every stage adds its output while `network` runs, in the order in which they run.

    Each is a down stage's, the middle's or an up stage's `[b x c x h x w]`. Only hooks are added, which change nothing
    of what runs, and they are taken away at the end of the block.

    Args:
        network: a `UNet2DConditionModel`, or a `Supernet` of one.
        wanted: if not, the list stays empty and no hook is added.
    """
    if not wanted:
        yield []
        return
    unet = getattr(network, "unet", network)
    features: list[Tensor] = []

    def keep(stage: nn.Module, inputs: Any, output: Any) -> None:
        features.append(output[0] if isinstance(output, tuple) else output)

    stages = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
    hooks = [stage.register_forward_hook(keep) for stage in stages]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()
