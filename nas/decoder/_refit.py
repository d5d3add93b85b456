"""Inherited weights, refitted in closed form so that each layer says again what the original's layer says.

What a layer of a pruned decoder no longer reads can mostly be told from what it still reads. So the layers are gone
through in the order in which they run, and each gets the weights with which its outputs, from the inputs that the
pruned decoder gives it by then, come closest to the original's in least squares (https://arxiv.org/abs/1707.06168). The
last layer of a residual connection also makes up for what else is wrong in the sum by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional

from nas.decoder._pictures import decoded
from nas.sampling import in_mode, seeded_generator

# Positions from which a layer learns; its unknowns are hundreds, in large decoders few thousands.
_POSITIONS = 20_000
_CHUNK = 4_096
# How strongly weights are held to those inherited, relative to the mean energy of an input.
_RIDGE = 1e-3
# The last layer of each kind of residual block, by name inside the block.
_ENDS = {ResnetBlock2D: "conv2", Attention: "to_out.0", AutoencoderTinyBlock: "conv.4"}


@torch.no_grad()
def refit(
    slim: nn.Module, vae: nn.Module, latents: Tensor, outputs: Mapping[str, Tensor], factors: Mapping[str, float]
) -> None:
    """Give the slim decoder's convolutions and projections new weights, in place.

    Args:
        slim: the autoencoder with the pruned decoder.
        vae: the original.
        latents: `[n x c x h x w]`, scaled as a UNet gives them; all are decoded at once.
        outputs: by name of a layer, which of the original's outputs it has; all of them where there is no such name.
        factors: by name of a layer, what its outputs are multiplied with in the slim decoder.
    """
    original = _Recorder(vae.decoder)
    fitter = _Fitter(slim.decoder, original, outputs, factors)
    for model, recorder in ((vae, original), (slim, fitter)):
        with in_mode(model, training=False), recorder.listening():
            decoded(model, latents)


@torch.no_grad()
def activity_of(vae: nn.Module, latents: Tensor) -> dict[str, Tensor]:
    """By name of a decoder's layer, the variance of each of its inputs when it decodes these latents `[inputs]`."""
    found: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found[name] = _rows(args[0]).cpu().double().var(0, unbiased=False)

    with ExitStack() as stack, in_mode(vae, training=False):
        for name, module in vae.decoder.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                stack.callback(module.register_forward_hook(partial(note, name)).remove)
        decoded(vae, latents)
    return found


class _Recorder:
    """Inputs of residual blocks and outputs of layers `[positions x channels]` of one forward pass."""

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder = decoder
        self.entered: dict[str, Tensor] = {}
        self.left: dict[str, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self.decoder.named_modules():
                if type(module) in _ENDS:
                    stack.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
                elif isinstance(module, nn.Conv2d | nn.Linear):
                    stack.callback(module.register_forward_hook(partial(self._leave, name)).remove)
            yield

    def _enter(self, name: str, block: nn.Module, args: tuple[Any, ...]) -> None:
        self.entered[name] = _rows(args[0])

    def _leave(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        self.left[name] = _rows(output)


class _Fitter(_Recorder):
    """Refits each layer when it runs, and lets the pass go on with the new outputs."""

    def __init__(
        self,
        decoder: nn.Module,
        original: _Recorder,
        outputs: Mapping[str, Tensor],
        factors: Mapping[str, float],
    ) -> None:
        super().__init__(decoder)
        self.original, self.outputs, self.factors = original, outputs, factors
        ends = {name: _ENDS.get(type(module)) for name, module in decoder.named_modules()}
        self.blocks = {f"{name}.{end}": name for name, end in ends.items() if end is not None}

    def _leave(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if name in self.original.left:
            _solve(layer, _inputs(layer, args[0]), self._wanted(name))
            output = layer.forward(args[0])
        super()._leave(name, layer, args, output)
        return output

    def _wanted(self, name: str) -> Tensor:
        """What the layer is to say `[positions x outputs]`."""
        wanted = self._original(self.original.left, name, name) * self.factors.get(name, 1.0)
        if name.endswith(".conv_shortcut"):
            # It runs after the block's last layer.
            end = name.removesuffix("conv_shortcut") + "conv2"
            return wanted + self._original(self.original.left, end, name) - self.left[end]
        block = self.blocks.get(name)
        if block is None or getattr(self.decoder.get_submodule(block), "conv_shortcut", None) is not None:
            return wanted
        return wanted + self._original(self.original.entered, block, name) - self.entered[block]

    def _original(self, recorded: Mapping[str, Tensor], name: str, layer: str) -> Tensor:
        """What was recorded in the original, of the outputs that a layer has."""
        rows = recorded[name]
        return rows if layer not in self.outputs else rows[:, self.outputs[layer]]


def _solve(layer: nn.Module, inputs: Tensor, wanted: Tensor) -> None:
    """Least squares with a ridge towards the weights that the layer has."""
    weights = [layer.weight.flatten(1)] + ([] if layer.bias is None else [layer.bias[:, None]])
    inherited = torch.cat(weights, 1).T.cpu().double()
    unknowns = len(inherited)
    left, right = torch.zeros(unknowns, unknowns, dtype=torch.double), torch.zeros_like(inherited)
    for x, y in zip(inputs.split(_CHUNK), wanted.split(_CHUNK), strict=True):
        x, y = x.cpu().double(), y.cpu().double()
        if layer.bias is not None:
            x = functional.pad(x, (0, 1), value=1.0)
        left += x.T @ x
        right += x.T @ y
    energy = left.diagonal()
    ridge = _RIDGE * energy + 1e-6 * energy.mean() + 1e-12
    found = torch.linalg.solve(left + ridge.diag(), right + ridge[:, None] * inherited)
    if layer.bias is not None:
        layer.bias.copy_(found[-1])
        found = found[:-1]
    layer.weight.copy_(found.T.reshape(layer.weight.shape))


def _inputs(layer: nn.Module, values: Tensor) -> Tensor:
    """What the layer reads at the positions `[positions x inputs]`, in the order of its flattened weights."""
    if isinstance(layer, nn.Linear):
        return _rows(values)
    size, padding = layer.kernel_size[0], layer.padding[0]
    windows = functional.pad(values, (padding,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    count, _, height, width = windows.shape[:4]
    index = _positions(count * height * width).to(values.device)
    return windows[index // (height * width), :, index // width % height, index % width].flatten(1)


def _rows(values: Tensor) -> Tensor:
    """Values `[b x c x h x w]` or `[b x n x c]` at the positions `[positions x c]`."""
    values = values.movedim(1, -1) if values.ndim == 4 else values
    values = values.flatten(0, -2)
    return values[_positions(len(values)).to(values.device)]


@lru_cache(maxsize=16)
def _positions(count: int) -> Tensor:
    # The same for all layers of one resolution, so that what a block adds up is of one place.
    return torch.randperm(count, generator=seeded_generator(0, count))[:_POSITIONS]
