"""An autoencoder with a slim decoder: to the rest of diffusers an `AutoencoderKL` like any other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder
from torch import nn

from nas._config import with_parameters_of
from nas.decoder._channels import channel_sets, count_of
from nas.errors import ModelError

OWN_FIELDS = ("decoder_block_out_channels", "decoder_norm_num_groups", "decoder_shortcuts")


class SlimAutoencoderKL(AutoencoderKL):
    """An `AutoencoderKL` whose decoder has other channels than its encoder.

    `save_pretrained` writes the decoder's channels into `config.json`, `from_pretrained` reads them back, and any
    pipeline takes it as `vae=`. Usually made by `prune_decoder` rather than by hand. In a process that reads a saved
    pipeline with one inside, `nas.decoder` must have been imported.

    Args:
        decoder_block_out_channels: the decoder's channels at each level, in the order of `block_out_channels`: that of
            the picture's size first. Those of the encoder when None.
        decoder_norm_num_groups: groups of the decoder's norms at each level; `norm_num_groups` everywhere when None.
        decoder_shortcuts: for each level but the last, whether channels come there from the level after it through a
            1x1 convolution; when None, and otherwise at least, where the two have different numbers of channels.
        **vae_config: the config of the whole autoencoder, see `AutoencoderKL`.

    Raises:
        ModelError: the numbers do not fit each other.
    """

    # Written into the `model_index.json` of pipelines, so it has to be a name that stays.
    __module__ = "nas.decoder"

    @register_to_config
    @with_parameters_of(AutoencoderKL)
    def __init__(
        self,
        *,
        decoder_block_out_channels: Sequence[int] | None = None,
        decoder_norm_num_groups: Sequence[int] | None = None,
        decoder_shortcuts: Sequence[bool] | None = None,
        **vae_config: Any,
    ) -> None:
        super().__init__(**vae_config)
        fields = (decoder_block_out_channels, decoder_norm_num_groups, decoder_shortcuts)
        if any(field is not None for field in fields):
            self.decoder = _make_decoder(self.config, *fields)


def _make_decoder(
    config: Any, channels: Sequence[int] | None, groups: Sequence[int] | None, shortcuts: Sequence[bool] | None
) -> Decoder:
    levels = len(config.block_out_channels)
    channels = list(config.block_out_channels if channels is None else channels)
    groups = [config.norm_num_groups] * levels if groups is None else list(groups)
    differ = [one != other for one, other in pairwise(channels)]
    shortcuts = differ if shortcuts is None else list(shortcuts)
    _check(levels, channels, groups, shortcuts, differ)
    decoder = Decoder(
        in_channels=config.latent_channels,
        out_channels=config.out_channels,
        up_block_types=tuple(config.up_block_types),
        block_out_channels=tuple(channels),
        layers_per_block=config.layers_per_block,
        # One group divides any number of channels; the right numbers of groups are put in below.
        norm_num_groups=1,
        act_fn=config.act_fn,
        mid_block_add_attention=config.mid_block_add_attention,
    )
    for level, shortcut in enumerate(shortcuts):
        first = decoder.up_blocks[levels - 1 - level].resnets[0]
        if shortcut and first.conv_shortcut is None:
            first.conv_shortcut = nn.Conv2d(first.in_channels, first.out_channels, 1)
            first.use_in_shortcut = True
    for channel_set in channel_sets(decoder):
        for norm in channel_set.norms:
            decoder.get_submodule(norm.name).num_groups = groups[norm.level]
    return decoder


def _check(levels: int, channels: list[int], groups: list[int], shortcuts: list[bool], differ: list[bool]) -> None:
    for name, values, wanted in (
        ("decoder_block_out_channels", channels, levels),
        ("decoder_norm_num_groups", groups, levels),
        ("decoder_shortcuts", shortcuts, levels - 1),
    ):
        if len(values) != wanted:
            raise ModelError(f"{name} has {len(values)} values; the autoencoder's {levels} levels need {wanted}")
    for level, (count, parts) in enumerate(zip(channels, groups, strict=True)):
        if min(count, parts) < 1 or count % parts:
            raise ModelError(f"level {level} of the decoder has {count} channels, which {parts} groups cannot divide")
    for level, (shortcut, needed) in enumerate(zip(shortcuts, differ, strict=True)):
        if needed and not shortcut:
            raise ModelError(
                f"decoder_shortcuts says no for level {level}, but {channels[level + 1]} channels become "
                f"{channels[level]} there; it must say yes"
            )


def layout_of(decoder: Decoder) -> dict[str, list[Any]]:
    """The fields of a `SlimAutoencoderKL`'s config that describe a decoder."""
    levels = len(decoder.up_blocks)
    channels, groups = [0] * levels, [1] * levels
    for channel_set in channel_sets(decoder):
        for use in channel_set.norms:
            channels[use.level] = count_of(channel_set, decoder)
            groups[use.level] = decoder.get_submodule(use.name).num_groups
    firsts = [decoder.up_blocks[levels - 1 - level].resnets[0] for level in range(levels - 1)]
    shortcuts = [first.conv_shortcut is not None for first in firsts]
    return dict(zip(OWN_FIELDS, (channels, groups, shortcuts), strict=True))
