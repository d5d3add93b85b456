"""Which channels of a decoder stay or go together, and how much each of them matters.

A residual connection adds channel i to channel i, so everything that writes into one stream of a decoder loses the same
channels, and everything that reads it loses the same inputs. Such channels are one `ChannelSet`. A stream ends where a
convolution mixes all of it: at an up-sampler, and at a residual block's 1x1 shortcut. Channels between the two
convolutions of a residual block, and inside of an attention, are sets of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock, UpDecoderBlock2D
from torch import Tensor, nn

from nas.errors import ModelError

OUT, IN = 0, 1


@dataclass(frozen=True)
class Use:
    """A place where a module has the channels of a set.

    Attributes:
        name: of the module inside the decoder.
        level: the decoder's level whose width counts there; 0 is the level of the picture's size.
        dim: of the module's weight: `OUT` or `IN`.
        norm: name of the norm through which the module reads them, if any.
    """

    name: str
    level: int
    dim: int = OUT
    norm: str | None = None


@dataclass(frozen=True)
class ChannelSet:
    """Channels that stay or go together.

    Attributes:
        writers: modules whose outputs are added up to these channels.
        readers: modules whose inputs they are.
        identities: residual blocks that pass them from one level on to the next: name, level before, level after.
    """

    writers: list[Use] = field(default_factory=list)
    readers: list[Use] = field(default_factory=list)
    identities: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def norms(self) -> list[Use]:
        """The norms through which they are read."""
        return [Use(use.norm, use.level) for use in self.readers if use.norm is not None]

    @property
    def uses(self) -> list[Use]:
        """Every place, norms included."""
        return [*self.writers, *self.readers, *self.norms]


def channel_sets(decoder: nn.Module) -> list[ChannelSet]:
    """All sets of a decoder, so that each of its weights but the latent's and the picture's channels is in one.

    Raises:
        ModelError: it has parts that are not known here.
    """
    if isinstance(decoder, Decoder):
        return _sets_of_kl(decoder)
    if isinstance(decoder, DecoderTiny):
        return _sets_of_tiny(decoder)
    raise ModelError(f"cannot prune a {type(decoder).__name__}; give an AutoencoderKL or an AutoencoderTiny")


class _Walk:
    """Goes through a decoder from the latent to the picture and notes what touches which channels."""

    def __init__(self, writer: str, level: int) -> None:
        self.sets: list[ChannelSet] = []
        self._begin(writer, level)

    def _begin(self, writer: str, level: int) -> None:
        self.stream, self.level = ChannelSet([Use(writer, level)]), level
        self.sets.append(self.stream)

    def read(self, name: str, *, norm: str | None = None) -> None:
        self.stream.readers.append(Use(name, self.level, IN, norm))

    def write(self, name: str) -> None:
        self.stream.writers.append(Use(name, self.level))

    def between(self, writer: str, reader: Use) -> None:
        self.sets.append(ChannelSet([Use(writer, reader.level)], [reader]))

    def mix(self, name: str) -> None:
        """A convolution at the end of a stream, whose outputs are another one of the same level."""
        self.read(name)
        self._begin(name, self.level)

    def resnet(self, name: str, block: ResnetBlock2D, level: int) -> None:
        self.read(f"{name}.conv1", norm=f"{name}.norm1")
        self.between(f"{name}.conv1", Use(f"{name}.conv2", level, IN, f"{name}.norm2"))
        if block.conv_shortcut is not None:
            self.read(f"{name}.conv_shortcut")
            self._begin(f"{name}.conv_shortcut", level)
        elif level != self.level:
            self.stream.identities.append((name, self.level, level))
            self.level = level
        self.write(f"{name}.conv2")

    def attention(self, name: str) -> None:
        for projection in ("to_q", "to_k", "to_v"):
            self.read(f"{name}.{projection}", norm=f"{name}.group_norm")
        # Queries and keys meet channel by channel in a product.
        self.between(f"{name}.to_q", Use(f"{name}.to_k", self.level))
        self.between(f"{name}.to_v", Use(f"{name}.to_out.0", self.level, IN))
        self.write(f"{name}.to_out.0")

    def tiny_block(self, name: str) -> None:
        first, second, third = (f"{name}.conv.{index}" for index in (0, 2, 4))
        self.read(first)
        self.between(first, Use(second, self.level, IN))
        self.between(second, Use(third, self.level, IN))
        self.write(third)


def _sets_of_kl(decoder: Decoder) -> list[ChannelSet]:
    top = len(decoder.up_blocks) - 1
    walk = _Walk("conv_in", top)
    attentions = [*decoder.mid_block.attentions] or [None] * (len(decoder.mid_block.resnets) - 1)
    for index, resnet in enumerate(decoder.mid_block.resnets):
        if index and isinstance(attentions[index - 1], Attention):
            walk.attention(f"mid_block.attentions.{index - 1}")
        walk.resnet(f"mid_block.resnets.{index}", _known(resnet, ResnetBlock2D), top)
    for number, block in enumerate(decoder.up_blocks):
        name = f"up_blocks.{number}"
        for index, resnet in enumerate(_known(block, UpDecoderBlock2D).resnets):
            walk.resnet(f"{name}.resnets.{index}", _known(resnet, ResnetBlock2D), top - number)
        for index, _ in enumerate(block.upsamplers or ()):
            walk.mix(f"{name}.upsamplers.{index}.conv")
    walk.read("conv_out", norm="conv_norm_out")
    return walk.sets


def _sets_of_tiny(decoder: DecoderTiny) -> list[ChannelSet]:
    # diffusers' class has one width at all levels.
    walk, last = _Walk("layers.0", 0), len(decoder.layers) - 1
    for index, layer in enumerate(decoder.layers):
        if isinstance(layer, AutoencoderTinyBlock):
            walk.tiny_block(f"layers.{index}")
        elif isinstance(layer, nn.Conv2d) and 0 < index < last:
            walk.mix(f"layers.{index}")
    walk.read(f"layers.{last}")
    return walk.sets


def _known(module: nn.Module, kind: type) -> nn.Module:
    if not isinstance(module, kind):
        raise ModelError(f"cannot prune a decoder with a {type(module).__name__}; it must be a {kind.__name__}")
    return module


def count_of(channels: ChannelSet, decoder: nn.Module) -> int:
    """How many channels a set has."""
    return len(decoder.get_submodule(channels.writers[0].name).weight)


def group_size_of(channels: ChannelSet, decoder: nn.Module) -> int:
    """How many neighbouring channels are normalised together: the same for all norms of a set; 1 without norms.

    Raises:
        ModelError: its norms have different groups.
    """
    counts = {decoder.get_submodule(use.name).num_groups for use in channels.norms}
    if len(counts) > 1:
        raise ModelError(f"norms of the same channels have {sorted(counts)} groups; cannot prune such a decoder")
    return count_of(channels, decoder) // counts.pop() if counts else 1


@torch.no_grad()
def importance(channels: ChannelSet, decoder: nn.Module, activity: Mapping[str, Tensor] | None = None) -> Tensor:
    """How much each channel matters `[n]`: the L2 norm of all weights that read it.

    With `activity`, by name of a layer the variance of each of its inputs, weights count with the standard deviation of
    what they read; otherwise those that read through a norm count with the norm's own scale and shift. Where queries
    and keys meet it is the product of both norms. A channel that nothing writes, or that nothing reads, has 0.

    On the bundled autoencoder and on TAESD this chose better than the norm of what writes, or than the product of both:
    a group norm takes away whatever scale a channel was written with. On TAESD activity is worth 10 dB: without norms,
    large weights read what hardly ever varies.
    """
    written = sum(_energy(use, decoder) for use in channels.writers)
    read = sum(_energy(use, decoder, activity) * (written if use.dim == OUT else 1) for use in channels.readers)
    return (read * (written > 0)).sqrt()


def _energy(use: Use, decoder: nn.Module, activity: Mapping[str, Tensor] | None = None) -> Tensor:
    module = decoder.get_submodule(use.name)
    energy = module.weight.cpu().double().transpose(0, use.dim).flatten(1).square().sum(1)
    if use.dim == OUT and module.bias is not None:
        energy = energy + module.bias.cpu().double().square()
    if activity is not None and use.dim == IN:
        return energy * activity[use.name]
    if use.norm is not None:
        norm = decoder.get_submodule(use.norm)
        energy = energy * (norm.weight.cpu().double().square() + norm.bias.cpu().double().square())
    return energy


def ranking(channels: ChannelSet, decoder: nn.Module, activity: Mapping[str, Tensor] | None = None) -> Tensor:
    """All channels `[n]`, those that matter most first; channels that are normalised together stay together."""
    size = group_size_of(channels, decoder)
    groups = importance(channels, decoder, activity).square().unflatten(0, (-1, size)).sum(1)
    # Importance is computed on the CPU: not every accelerator has double precision.
    order = torch.sort(groups, descending=True, stable=True).indices.to(next(decoder.parameters()).device)
    return (order[:, None] * size + torch.arange(size, device=order.device)).flatten()


def kept(ranked: Tensor, count: int) -> Tensor:
    """The `count` channels that matter most, in their old order, so that groups stay neighbours."""
    return ranked[:count].sort().values
