"""Channel pruning: a decoder with fewer channels at every level, made of the original's weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from nas.decoder._channels import IN, OUT, ChannelSet, channel_sets, kept, ranking
from nas.decoder._pictures import require_latents
from nas.decoder._refit import activity_of, refit
from nas.decoder._slim import OWN_FIELDS, SlimAutoencoderKL, layout_of
from nas.errors import ModelError, NasError
from nas.sampling import placement

Autoencoder = TypeVar("Autoencoder", AutoencoderKL, AutoencoderTiny)


def prune_decoder(
    vae: AutoencoderKL | AutoencoderTiny,
    keep: float | Sequence[float] = 0.5,
    *,
    latents: Tensor | None = None,
) -> AutoencoderKL | AutoencoderTiny:
    """Take channels out of an autoencoder's decoder at every level (paper §3, https://arxiv.org/abs/2306.00980).

    Channels that are added up somewhere are taken out together (see `nas.decoder._channels`); those stay for which the
    norm of all weights that read them is largest. Channels that a group norm normalises together stay or go together as
    well, so what stays is normalised by the very statistics of the original: a level keeps a share of its groups, at
    least one, and the groups keep their size. Weights of what stays are the original's; in an attention, queries are
    scaled so that products with fewer channels are divided by as much as before. With `latents`, weights count with how
    much varies what they read, and what stays is refitted layer by layer in closed form (`nas.decoder._refit`): on the
    bundled autoencoder and on TAESD that is worth 15 dB before any training. Encoder and quantising convolutions are
    copied as they are.

    Args:
        vae: an `AutoencoderKL` (also one that was pruned before) or an `AutoencoderTiny`; left as it is.
        keep: share of the channels to keep, above 0 and up to 1, rounded to whole groups. Or one for each level, in the
            order of `block_out_channels`: that of the picture's size first. diffusers' `AutoencoderTiny` has one width
            at all levels, so there it must be one number.
        latents: `[n x c x h x w]`, scaled as a UNet gives them, on which to choose and refit what stays; some dozens
            of small ones or a few large ones. All of them are decoded at once. None: the weights are the original's.

    Returns:
        A new autoencoder with weights of its own, in eval mode, on the same device: a `SlimAutoencoderKL`, or an
        `AutoencoderTiny`.

    Raises:
        ModelError: the decoder is of another kind.
        NasError: `keep` or `latents` make no sense.
    """
    slim, widths = _structure(vae, keep)
    if latents is not None:
        require_latents(latents, vae.config.latent_channels)
    activity = None if latents is None else activity_of(vae, latents)
    ranked = [(channels, ranking(channels, vae.decoder, activity)) for channels in channel_sets(vae.decoder)]
    indices, factors = _indices(ranked, widths), _factors(vae.decoder, slim.decoder)
    weights = {**_selected(vae.decoder, indices, factors), **_passed_on(ranked, slim.decoder, widths)}
    rest = {name: value for name, value in vae.state_dict().items() if not name.startswith("decoder.")}
    slim.load_state_dict({**rest, **{f"decoder.{name}": value for name, value in weights.items()}})
    # diffusers' own `to` would only add a warning that nothing needs to stay in float32.
    slim = nn.Module.to(slim, *placement(vae)).eval()
    if latents is not None:
        refit(slim, vae, latents, {name: index for (name, dim), index in indices.items() if dim == OUT}, factors)
    return slim


def _structure(
    vae: AutoencoderKL | AutoencoderTiny, keep: float | Sequence[float]
) -> tuple[AutoencoderKL | AutoencoderTiny, list[int]]:
    """The slim autoencoder with random weights, and its decoder's widths by level."""
    if isinstance(vae, AutoencoderKL):
        layout = layout_of(vae.decoder)
        widths, layout = _narrowed(layout, _shares(keep, len(layout[OWN_FIELDS[0]])))
        return _fresh(SlimAutoencoderKL, vae, **layout), widths
    if isinstance(vae, AutoencoderTiny):
        widths = _tiny_width(vae, keep)
        levels = len(vae.config.num_decoder_blocks)
        return _fresh(AutoencoderTiny, vae, decoder_block_out_channels=widths * levels), widths
    raise ModelError(f"cannot prune a {type(vae).__name__}; give an AutoencoderKL or an AutoencoderTiny")


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
def _indices(sets: Sequence[tuple[ChannelSet, Tensor]], widths: Sequence[int]) -> dict[tuple[str, int], Tensor]:
    """By module and dimension of its weight, which channels stay."""
    indices = {}
    for channels, ranked in sets:
        indices |= {(use.name, use.dim): kept(ranked, widths[use.level]) for use in channels.uses}
    return indices


def _factors(decoder: nn.Module, slim: nn.Module) -> dict[str, float]:
    """By module, what its outputs are multiplied with: attention divides a product of fewer channels by less."""
    attentions = {name: module for name, module in slim.named_modules() if isinstance(module, Attention)}
    return {f"{name}.to_q": decoder.get_submodule(name).scale / module.scale for name, module in attentions.items()}


def _selected(
    decoder: nn.Module, indices: Mapping[tuple[str, int], Tensor], factors: Mapping[str, float]
) -> dict[str, Tensor]:
    """The weights of what stays, by name."""
    weights = {}
    for name, module in decoder.named_modules():
        for field, parameter in module.named_parameters(recurse=False):
            value = parameter.detach() * factors.get(name, 1.0)
            if (name, OUT) in indices:
                value = value.index_select(OUT, indices[name, OUT])
            if (name, IN) in indices and value.ndim > 1:
                value = value.index_select(IN, indices[name, IN])
            weights[f"{name}.{field}"] = value
    return weights


def _passed_on(sets: Sequence[tuple[ChannelSet, Tensor]], slim: nn.Module, widths: Sequence[int]) -> dict[str, Tensor]:
    """Where levels of one width become levels of two, a 1x1 convolution takes the place of the identity."""
    weights = {}
    for channels, ranked in sets:
        for name, before, after in channels.identities:
            if slim.get_submodule(name).conv_shortcut is not None:
                outputs, inputs = (kept(ranked, widths[level]) for level in (after, before))
                same = outputs[:, None] == inputs[None, :]
                weights[f"{name}.conv_shortcut.weight"] = same.float()[..., None, None]
                weights[f"{name}.conv_shortcut.bias"] = torch.zeros(len(outputs))
    return weights
