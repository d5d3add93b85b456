"""Slim image decoders: channels taken out of an autoencoder's decoder, and what is left distilled."""

from __future__ import annotations

# Not used here: a pipeline that holds a `SlimAutoencoderKL` is read back by diffusers only if the module that its
# `model_index.json` names, this one, also has the base class whose `from_pretrained` is to be called.
from diffusers import ModelMixin  # noqa: F401

from nas.decoder._distillation import distil_decoder, picture_loss
from nas.decoder._latents import GivenLatents, LatentSource, SampledLatents
from nas.decoder._pictures import DecoderComparison, compare_decoders, count_parameters, encode_pictures, psnr_db
from nas.decoder._pruning import prune_decoder
from nas.decoder._slim import SlimAutoencoderKL

__all__ = [
    "DecoderComparison",
    "GivenLatents",
    "LatentSource",
    "SampledLatents",
    "SlimAutoencoderKL",
    "compare_decoders",
    "count_parameters",
    "distil_decoder",
    "encode_pictures",
    "picture_loss",
    "prune_decoder",
    "psnr_db",
]
