"""Autoencoders small enough to be decoded hundreds of times, with random weights throughout."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "sample_size": 16,
    "scaling_factor": 0.5,
}
TINY = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (2, 1, 1, 1)}
# As in Stable Diffusion, two levels of the same width and attention; one without attention; one without quantising.
CONFIGS = {
    "attention": {**KL, "block_out_channels": (8, 16, 16)},
    "plain": {**KL, "block_out_channels": (8, 12, 16), "layers_per_block": 2, "mid_block_add_attention": False},
    "no quantising": {**KL, "block_out_channels": (8, 8, 8), "use_quant_conv": False, "use_post_quant_conv": False},
}
KINDS = (*CONFIGS, "tiny")


def make_autoencoder(kind: str, *, seed: int = 0) -> AutoencoderKL | AutoencoderTiny:
    torch.manual_seed(seed)
    if kind == "tiny":
        vae = AutoencoderTiny(**TINY, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    else:
        vae = AutoencoderKL(**CONFIGS[kind])
    for parameter in vae.parameters():
        # Norms start as ones and zeros, which would hide mistakes.
        mean = float(parameter.detach().mean()) if parameter.ndim == 1 else 0.0
        nn.init.normal_(parameter, mean=mean, std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return vae.eval()


def make_latents(count: int = 2, *, rows: int = 3, columns: int = 4) -> torch.Tensor:
    return torch.randn(count, 4, rows, columns, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def pictures_of(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents).sample
