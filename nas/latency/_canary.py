"""The canary of a device: what is executed around everything that is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.latency._bench import Bench
from nas.latency._timing import Timing
from nas.latency.devices import Device, Runnable

if TYPE_CHECKING:
    import torch
    from torch import nn

# Its weights are to come from memory, as a network's do: others may be busy there while the cores are free. All
# instances together are larger than caches are, or it would be faster around small networks than around large ones.
CANARY_INSTANCES = 32
# Numbers in an instance. They pass through the caches between any two executions of what is measured.
CANARY_WEIGHTS = 608_768


def bench_on(
    device: Device, precision: str, timing: Timing, *, canary_ms: float | None = None, keep_mb: float | None = None
) -> Bench:
    """A bench on a device, with the canary in a precision; see `Bench`. What the device keeps unless told otherwise."""
    keep_mb = device.keep_mb if keep_mb is None else keep_mb
    return Bench(canary_on(device, precision), timing, canary_ms=canary_ms, keep_mb=keep_mb)


def canary_on(device: Device, precision: str) -> Runnable:
    """The canary, ready to run on a device."""
    module, inputs = make_canary()
    return device.load(module, inputs, {}, precision=precision, instances=CANARY_INSTANCES)


def canary_provenance() -> dict[str, str | int | float]:
    """What a table says of the canary: its time is to be compared with that of the same one only."""
    return {"canary_weights": CANARY_WEIGHTS}


def make_canary() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The canary and its inputs.

    It is a residual block and a transformer of 64 channels on 8x8 pixels, and a linear layer that is all weights. A
    large convolution alone would miss the states of a machine in which many short operations take longer and long ones
    do not.
    """
    import torch
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    class Blocks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Linear(512, 768)
            self.resnet = ResnetBlock2D(in_channels=64, temb_channels=768, groups=8)
            self.attention = Transformer2DModel(4, 16, in_channels=64, norm_num_groups=8, cross_attention_dim=64)

        def forward(self, states: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            states = self.resnet(states, self.embed(embedding))
            return self.attention(states, encoder_hidden_states=context, return_dict=False)[0]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = torch.randn(2, 64, 8, 8), torch.randn(2, 512), torch.randn(2, 16, 64)
        return Blocks(), inputs
