from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDPMScheduler, PNDMScheduler

from nas.errors import ModelError, SearchError
from nas.training import Batches, distil_steps, to_v_prediction

# Stable Diffusion's own.
NOISE = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def test_the_scheduler_that_then_belongs_to_the_network(small_unet, training_data):
    before = dict(NOISE.config)
    scheduler, log = to_v_prediction(small_unet, training_data, scheduler=NOISE, steps=1, batch_size=2)
    assert scheduler.config.prediction_type == "v_prediction"
    assert NOISE.alphas_cumprod[-1] > 0.004
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(8)
    assert scheduler.timesteps[0] == 999
    assert len(log.losses) == 1
    assert dict(NOISE.config) == before
    kept, _ = to_v_prediction(small_unet, training_data, scheduler=NOISE, steps=0, zero_snr=False)
    torch.testing.assert_close(kept.alphas_cumprod, NOISE.alphas_cumprod)
    assert kept.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("zero_snr", [True, False])
def test_the_loss_is_that_of_diffusers_velocity(small_unet, training_data, zero_snr):
    twin = copy.deepcopy(small_unet)
    scheduler, log = to_v_prediction(
        small_unet, training_data, scheduler=NOISE, steps=1, batch_size=10, zero_snr=zero_snr, empty_context_share=0.0
    )
    batch = Batches(training_data, scheduler, batch_size=10, empty_context_share=0.0).draw(0, twin)
    stock = DDPMScheduler.from_config(scheduler.config)
    with torch.no_grad():
        said = twin(batch.noisy, batch.timesteps, batch.contexts).sample
    # z and v are a rotation of x and e.
    signal = stock.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    clean = signal.sqrt() * batch.noisy - (1 - signal).sqrt() * batch.target
    noise = (1 - signal).sqrt() * batch.noisy + signal.sqrt() * batch.target
    nearest = torch.cdist(clean.flatten(1), training_data.latents.flatten(1)).min(1)
    assert nearest.values.max() < 1e-2
    assert len(nearest.indices.unique()) == 10
    velocity = stock.get_velocity(training_data.latents[nearest.indices], noise, batch.timesteps)
    assert log.losses == pytest.approx([(said - velocity).square().mean().item()], rel=1e-3)


def test_a_checkpoint_of_another_schedule_is_refused(small_unet, training_data, tmp_path):
    options = {"scheduler": NOISE, "steps": 1, "batch_size": 2, "checkpoint": tmp_path / "v.pt"}
    to_v_prediction(copy.deepcopy(small_unet), training_data, **options)
    with pytest.raises(SearchError, match="schedule"):
        to_v_prediction(copy.deepcopy(small_unet), training_data, zero_snr=False, **options)


def test_it_learns_v_and_can_then_be_distilled(small_unet, training_data):
    # One picture, so that z tells the noise and with it v.
    training_data = replace(training_data, latents=torch.ones_like(training_data.latents))
    scheduler, log = to_v_prediction(
        small_unet, training_data, scheduler=NOISE, steps=30, batch_size=8, learning_rate=5e-3
    )
    assert sum(log.losses[-5:]) < 0.8 * sum(log.losses[:5])
    options = {"scheduler": scheduler, "student_steps": 4, "steps": 1, "batch_size": 2}
    assert distil_steps(copy.deepcopy(small_unet), small_unet, training_data, **options).losses[0] > 0


def test_what_predicts_v_already_is_refused(small_unet, training_data):
    with pytest.raises(ModelError, match="'v_prediction', not 'epsilon'"):
        to_v_prediction(small_unet, training_data, scheduler=make_scheduler(), steps=1)
