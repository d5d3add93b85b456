"""What stands in a UNet where a block is skipped or runs several times. Each has the call signature of the block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn


class SkippedResnet(nn.Module):
    """A `ResnetBlock2D` without its residual branch: the shortcut is all that is left.

    The shortcut keeps the name `conv_shortcut`, so its weights keep their key in a state dict.

    Args:
        shortcut: the block's 1x1 convolution, or None where the block keeps the number of channels.
        output_scale_factor: what the block divides its output by (1 in nearly every UNet).
    """

    def __init__(self, shortcut: nn.Module | None = None, *, output_scale_factor: float = 1.0) -> None:
        super().__init__()
        self.conv_shortcut = shortcut
        self.output_scale_factor = output_scale_factor

    def forward(
        self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """[b x in x h x w] -> [b x out x h x w]; `temb` is not looked at."""
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        # Nothing at all is computed where both are trivial: a skipped block is free.
        return input_tensor if self.output_scale_factor == 1 else input_tensor / self.output_scale_factor


class SkippedAttention(nn.Module):
    """A `Transformer2DModel` without its residual branch: the identity."""

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """[b x c x h x w], as it came in; nothing else is looked at."""
        return Transformer2DModelOutput(sample=hidden_states) if return_dict else (hidden_states,)


class _Chain:
    """Runs a block as its class does, then its copies; the other arguments go to every one alike."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(hidden_states, *args, **kwargs)
        for copy in self.copies:
            # ResNets return a tensor, attention a tuple or a ModelOutput with the tensor in front.
            output = copy(output if isinstance(output, torch.Tensor) else output[0], *args, **kwargs)
        return output


class ResnetChain(_Chain, ResnetBlock2D):
    """A `ResnetBlock2D` with copies behind it, in `copies`; see `chain_blocks`."""


class AttentionChain(_Chain, Transformer2DModel):
    """A `Transformer2DModel` with copies behind it, in `copies`; see `chain_blocks`."""


def chain_blocks(block: nn.Module, copies: Iterable[nn.Module]) -> ResnetChain | AttentionChain:
    """A block and its copies as one module, which is still of the block's class.

    It stands on the block's own parts, so its weights keep their keys in a state dict and adapters made for the UNet
    (LoRA, IP-Adapter) find them; `block` itself is not changed.

    Args:
        block: a `ResnetBlock2D` or a `Transformer2DModel`.
        copies: modules of the same kind; each takes what the one before it gives.
    """
    cls = ResnetChain if isinstance(block, ResnetBlock2D) else AttentionChain
    chain = cls.__new__(cls)
    # Tables are copied, so that adding to the chain leaves the block alone; what they hold is shared.
    attributes = block.__dict__.items()
    chain.__dict__ = {name: value.copy() if isinstance(value, dict) else value for name, value in attributes}
    chain.copies = nn.ModuleList(copies)
    return chain
