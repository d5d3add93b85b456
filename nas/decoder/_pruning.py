"""Channel pruning: a decoder with fewer channels at every level, made of the original's weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from nas.decoder._channels import IN, OUT, ChannelSet, channel_sets, kept, ranking
from nas.decoder._slim import OWN_FIELDS, SlimAutoencoderKL, layout_of
from nas.errors import ModelError, NasError
from nas.sampling import placement

Autoencoder = TypeVar("Autoencoder", AutoencoderKL, AutoencoderTiny)


def prune_decoder(vae: AutoencoderKL | AutoencoderTiny, keep: float | Sequence[float] = 0.5) -> Autoencoder:
    """Take channels out of an autoencoder's decoder at every level (paper §3, https://arxiv.org/abs/2306.00980).

    Channels that are added up somewhere are taken out together (see `nas.decoder._channels`); those stay for which the
    norm of all weights that write them, times the norm of all that read them, is largest. Channels that a group norm
    normalises together stay or go together as well, so what stays is normalised by the very statistics of the
    original: a level keeps a share of its groups, at least one, and the groups keep their size. Weights of what stays
    are the original's; in an attention, queries are scaled so that products with fewer channels are divided by as
    much as before. Encoder and quantising convolutions are copied as they are.

    Args:
        vae: an `AutoencoderKL` (also one that was pruned before) or an `AutoencoderTiny`; left as it is.
        keep: share of the channels to keep, above 0 and up to 1, rounded to whole groups. Or one for each level, in the
            order of `block_out_channels`: that of the picture's size first. diffusers' `AutoencoderTiny` has one width
            at all levels, so there it must be one number.

    Returns:
        A new autoencoder with weights of its own, in eval mode, on the same device: a `SlimAutoencoderKL`, or an
        `AutoencoderTiny`.

    Raises:
        ModelError: the decoder is of another kind.
        NasError: `keep` makes no sense.
    """
    if isinstance(vae, AutoencoderKL):
        layout = layout_of(vae.decoder)
        widths, layout = _narrowed(layout, _shares(keep, len(layout[OWN_FIELDS[0]])))
        slim = _fresh(SlimAutoencoderKL, vae, **layout)
    elif isinstance(vae, AutoencoderTiny):
        widths = _tiny_width(vae, keep)
        slim = _fresh(AutoencoderTiny, vae, decoder_block_out_channels=widths * len(vae.config.num_decoder_blocks))
    else:
        raise ModelError(f"cannot prune a {type(vae).__name__}; give an AutoencoderKL or an AutoencoderTiny")
    weights = _pruned_weights(vae.decoder, slim.decoder, widths)
    rest = {name: value for name, value in vae.state_dict().items() if not name.startswith("decoder.")}
    slim.load_state_dict({**rest, **{f"decoder.{name}": value for name, value in weights.items()}})
    # diffusers' own `to` would only add a warning that nothing needs to stay in float32.
    return nn.Module.to(slim, *placement(vae)).eval()


def _shares(keep: float | Sequence[float], levels: int) -> list[float]:
    shares = [keep] * levels if isinstance(keep, int | float) else list(keep)
    if len(shares) != levels:
        raise NasError(f"keep has {len(shares)} values, the decoder {levels} levels; give one value, or one for each")
    for share in shares:
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise NasError(f"keep is {share!r}; it must be a number above 0 and up to 1")
    return [float(share) for share in shares]


def _whole(share: float, count: int) -> int:
    """The nearest number of whole things, at least one."""
    return max(1, math.floor(share * count + 0.5))


def _narrowed(layout: dict[str, list], shares: list[float]) -> tuple[list[int], dict[str, list]]:
    """Widths by level, and the config fields that go with them."""
    channels, groups, shortcuts = (layout[name] for name in OWN_FIELDS)
    fewer = [_whole(share, count) for share, count in zip(shares, groups, strict=True)]
    widths = [count // parts * left for count, parts, left in zip(channels, groups, fewer, strict=True)]
    differ = [one != other for one, other in pairwise(widths)]
    shortcuts = [one or other for one, other in zip(shortcuts, differ, strict=True)]
    return widths, dict(zip(OWN_FIELDS, (widths, fewer, shortcuts), strict=True))


def _tiny_width(vae: AutoencoderTiny, keep: float | Sequence[float]) -> list[int]:
    widths = set(vae.config.decoder_block_out_channels)
    shares = set(_shares(keep, len(vae.config.decoder_block_out_channels)))
    if len(shares) > 1 or len(widths) > 1:
        raise NasError(
            f"keep is {keep!r}; diffusers' AutoencoderTiny has decoders of one width at all levels, so give one number"
        )
    return [_whole(shares.pop(), widths.pop())]


def _fresh(kind: type[Autoencoder], vae: nn.Module, **fields: object) -> Autoencoder:
    """An autoencoder of the same config but for some fields; its weights are random, torch's own seed is left alone."""
    known = inspect.signature(kind.__init__).parameters
    config = {name: value for name, value in vae.config.items() if name in known}
    with torch.random.fork_rng(devices=[]):
        return kind(**{**config, **fields})


@torch.no_grad()
def _pruned_weights(decoder: nn.Module, slim: nn.Module, widths: Sequence[int]) -> dict[str, Tensor]:
    """The slim decoder's weights by name."""
    indices: dict[tuple[str, int], Tensor] = {}
    weights: dict[str, Tensor] = {}
    for channels in channel_sets(decoder):
        ranked = ranking(channels, decoder)
        for use in channels.uses:
            indices[use.name, use.dim] = kept(ranked, widths[use.level])
        weights |= _passed_on(channels, slim, ranked, widths)
    for name, module in decoder.named_modules():
        for field, parameter in module.named_parameters(recurse=False):
            weights[f"{name}.{field}"] = _selected(parameter, indices.get((name, OUT)), indices.get((name, IN)))
    for name, module in slim.named_modules():
        if hasattr(module, "to_q"):
            # A product of fewer channels is divided by less; see `scale` of diffusers' attention.
            ratio = decoder.get_submodule(name).scale / module.scale
            for field, _ in module.to_q.named_parameters():
                weights[f"{name}.to_q.{field}"] = weights[f"{name}.to_q.{field}"] * ratio
    return weights


def _selected(parameter: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
    if outputs is not None:
        parameter = parameter.index_select(OUT, outputs)
    if inputs is not None and parameter.ndim > 1:
        parameter = parameter.index_select(IN, inputs)
    return parameter.detach().clone()


def _passed_on(channels: ChannelSet, slim: nn.Module, ranked: Tensor, widths: Sequence[int]) -> dict[str, Tensor]:
    """Where levels of one width become levels of two, a 1x1 convolution takes the place of the identity."""
    weights = {}
    for name, before, after in channels.identities:
        if slim.get_submodule(name).conv_shortcut is None:
            continue
        outputs, inputs = (kept(ranked, widths[level]) for level in (after, before))
        weights[f"{name}.conv_shortcut.weight"] = (outputs[:, None] == inputs[None, :]).float()[..., None, None]
        weights[f"{name}.conv_shortcut.bias"] = torch.zeros(len(outputs))
    return weights
