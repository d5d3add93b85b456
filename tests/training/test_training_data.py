from __future__ import annotations

import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDPMScheduler
from safetensors.torch import save_file

from nas import NasError
from nas.errors import ModelError
from nas.training import Batches, TrainingData


def test_shapes_are_checked(training_data):
    latents, contexts, empty = training_data.latents, training_data.contexts, training_data.empty_context
    for wrong, name in (
        ((latents[0], contexts, empty), "latents"),
        ((latents[:0], contexts[:0], empty), "latents"),
        ((latents, contexts[:3], empty), "contexts"),
        ((latents, contexts[0], empty), "contexts"),
        ((latents, contexts, empty[:, :2]), "empty_context"),
        ((latents * float("nan"), contexts, empty), "latents"),
    ):
        with pytest.raises(NasError, match=name):
            TrainingData(*wrong)
    assert TrainingData(latents, contexts, empty[0]).empty_context.shape == empty.shape
    assert len(training_data) == 10


def test_the_network_must_fit(training_data, small_unet):
    latents, contexts, empty = training_data.latents, training_data.contexts, training_data.empty_context
    training_data.require_fit(small_unet)
    with pytest.raises(NasError, match="3 channels, the network takes 4"):
        TrainingData(latents[:, :3], contexts, empty).require_fit(small_unet)
    with pytest.raises(NasError, match="6 features, the network takes 12"):
        TrainingData(latents, contexts[..., :6], empty[..., :6]).require_fit(small_unet)


def test_saving_and_loading(training_data, tmp_path):
    training_data.save(tmp_path / "data.safetensors")
    again = TrainingData.load(tmp_path / "data.safetensors")
    for name in ("latents", "contexts", "empty_context"):
        assert torch.equal(getattr(again, name), getattr(training_data, name))
    assert again.fingerprint() == training_data.fingerprint()


def test_loading_something_else(tmp_path):
    path = tmp_path / "data.safetensors"
    with pytest.raises(ModelError, match="no training data at"):
        TrainingData.load(path)
    path.write_bytes(b"not this")
    with pytest.raises(ModelError, match="corrupt"):
        TrainingData.load(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="something other"):
        TrainingData.load(path)


def test_a_batch_depends_on_seed_and_step_alone(training_data, small_unet):
    batches = Batches(training_data, make_scheduler(), batch_size=4, seed=7)
    later = batches.draw(5, small_unet)
    batches.draw(0, small_unet)
    torch.manual_seed(3)
    again = Batches(training_data, make_scheduler(), batch_size=4, seed=7).draw(5, small_unet)
    for name in ("noisy", "timesteps", "contexts", "target"):
        assert torch.equal(getattr(later, name), getattr(again, name))
    assert not torch.equal(later.noisy, batches.draw(6, small_unet).noisy)
    other = Batches(training_data, make_scheduler(), batch_size=4, seed=8)
    assert not torch.equal(later.noisy, other.draw(5, small_unet).noisy)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_batch_holds_what_diffusers_would_train_on(training_data, small_unet, kind):
    batch = Batches(training_data, make_scheduler(prediction_type=kind), batch_size=10).draw(0, small_unet)
    stock = DDPMScheduler.from_config(make_scheduler(prediction_type=kind).config)
    # Every row is some latent with noise: find the noise for the latent, then compare the target.
    signal = stock.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    matches = 0
    for clean in training_data.latents:
        noise = (batch.noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
        target = noise if kind == "epsilon" else stock.get_velocity(clean.expand_as(noise), noise, batch.timesteps)
        matches += (target - batch.target).flatten(1).norm(dim=1).lt(1e-3).sum().item()
    assert matches == 10


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_empty_contexts(training_data, small_unet, share):
    batches = Batches(training_data, make_scheduler(), batch_size=200, empty_context_share=share)
    batch = batches.draw(0, small_unet)
    empty = (batch.contexts == training_data.empty_context).flatten(1).all(1).float().mean().item()
    assert empty == pytest.approx(share, abs=0.1)


def test_samples_do_not_repeat_within_a_batch_and_timesteps_fill_the_schedule(training_data, small_unet):
    batches = Batches(training_data, make_scheduler(), batch_size=10, empty_context_share=0.0)
    assert len(batches.draw(1, small_unet).contexts.unique(dim=0)) == 10
    steps = torch.cat([batches.draw(step, small_unet).timesteps for step in range(100)])
    assert steps.min() < 20
    assert 980 <= steps.max() < 1000
