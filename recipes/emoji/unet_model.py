"""The UNet's shape, its noise schedule and its loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from clip_model import WIDTH
from data import drawn, load_split
from diffusers import DDIMScheduler, UNet2DConditionModel
from settings import LATENT_SIZE, UNET

EMPTY_SHARE = 0.1  # captions left out, so that guidance works


def build_unet() -> UNet2DConditionModel:
    """Three resolutions (16, 8, 4), attention at the two lower: 11 Transformer2DModel and 17 ResnetBlock2D."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 80),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Batch(NamedTuple):
    noisy: torch.Tensor
    times: torch.Tensor
    states: torch.Tensor
    velocity: torch.Tensor


class TrainSet:
    """Latents and text states of the pictures that the UNet learns to draw, in memory."""

    def __init__(self) -> None:
        picks = drawn(load_split("train").pairs)
        self.latents = torch.from_numpy(np.load(UNET / "latents.npy")[picks])
        self.states = torch.from_numpy(np.load(UNET / "states.npy")[picks])
        self.empty = torch.from_numpy(np.load(UNET / "empty.npy"))
        self.scheduler = build_scheduler()

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """A batch at timesteps spread evenly over the schedule."""
        picks = torch.randint(len(self.latents), (count,), generator=generator)
        latents, states = self.latents[picks].float(), self.states[picks].float()
        states[torch.rand(count, generator=generator) < EMPTY_SHARE] = self.empty[0].float()
        places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        times = (places * self.scheduler.config.num_train_timesteps).long()
        noise = torch.randn(latents.shape, generator=generator)
        noisy = self.scheduler.add_noise(latents, noise, times)
        return Batch(noisy, times, states, self.scheduler.get_velocity(latents, noise, times))


def predict(unet: UNet2DConditionModel, batch: Batch) -> torch.Tensor:
    """The velocity that the UNet sees in a batch."""
    noisy = batch.noisy.contiguous(memory_format=torch.channels_last)
    return unet(noisy, batch.times, encoder_hidden_states=batch.states).sample
