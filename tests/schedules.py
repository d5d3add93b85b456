"""Schedules in double precision, and the levels of two steps on them."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler

from nas.training.step_distillation import TwoSteps, step_timesteps, two_steps

SCHEDULES = {
    "linear": {},
    "stable diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def scheduler_of(schedule: str, *, zero_snr: bool = False, total: int = 1000, **settings) -> DDIMScheduler:
    scheduler = DDIMScheduler(
        num_train_timesteps=total,
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing",
        **SCHEDULES[schedule],
        **settings,
    )
    # As it is, diffusers rounds its amplitudes to float32, which small sigma make visible.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


def levels_of(scheduler: DDIMScheduler, timesteps: list[int], steps: int, like: torch.Tensor) -> TwoSteps:
    start = torch.tensor(timesteps)
    places = (start, *step_timesteps(start, steps, total=scheduler.config.num_train_timesteps))
    return two_steps(scheduler.alphas_cumprod, *places, like=like, final=scheduler.final_alpha_cumprod)
