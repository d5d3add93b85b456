from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from nas import NasError
from nas.errors import ModelError
from nas.sampling import (
    check_prompts,
    ddim_scheduler,
    decode_latents,
    encode_empty,
    encode_prompts,
    in_mode,
    latent_shape,
    pictures_at_once,
    prompt_noise,
    require_text_only,
    require_text_to_image,
    sample_latents,
    sample_latents_with,
    seeded_generator,
    to_uint8,
    truncated_prompts,
)
from nas.unet import fold_guidance

PROMPTS = ["a red cat", "two dogs", "sun"]


def sample(pipe, unet=None, *, steps=4, scale=3.0, scheduler=None, noise=None):
    noise = prompt_noise(len(PROMPTS), (4, 8, 8), seed=0) if noise is None else noise
    contexts, empty = encode_prompts(pipe, PROMPTS), encode_empty(pipe)
    scheduler = pipe.scheduler if scheduler is None else scheduler
    return sample_latents(unet or pipe.unet, scheduler, contexts, empty, noise, steps=steps, guidance_scale=scale)


def stock(pipe, noise, **options):
    return pipe(PROMPTS, latents=noise, num_inference_steps=4, **options).images


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "scheduler",
    [
        make_scheduler(),
        make_scheduler(prediction_type="epsilon", rescale_betas_zero_snr=False, timestep_spacing="leading"),
        make_scheduler(prediction_type="sample", rescale_betas_zero_snr=False, set_alpha_to_one=False),
    ],
    ids=["v", "epsilon", "sample"],
)
def test_latents_are_those_of_the_stock_pipeline(tiny_pipeline, scheduler, scale):
    tiny_pipeline.scheduler = scheduler
    noise = prompt_noise(len(PROMPTS), (4, 8, 8), seed=0)
    expected = stock(tiny_pipeline, noise, guidance_scale=scale, output_type="latent")
    torch.testing.assert_close(sample(tiny_pipeline, scale=scale, noise=noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0, 7.3])
def test_a_network_that_is_told_the_guidance_is_run_once_a_step(tiny_pipeline, scale):
    fold_guidance(tiny_pipeline.unet, width=8)
    nn.init.normal_(tiny_pipeline.unet.time_embedding.cond_proj.weight, std=0.3)
    noise = prompt_noise(len(PROMPTS), (4, 8, 8), seed=0)
    batches = []
    hook = tiny_pipeline.unet.conv_in.register_forward_hook(lambda part, given, said: batches.append(len(given[0])))
    latents = sample(tiny_pipeline, scale=scale, noise=noise)
    assert batches == [len(PROMPTS)] * 4
    hook.remove()
    expected = stock(tiny_pipeline, noise, guidance_scale=scale, output_type="latent")
    torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(latents, sample(tiny_pipeline, scale=2.0, noise=noise), atol=0.05)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverMultistepScheduler(
            timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
        ),
        UniPCMultistepScheduler(),
        PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        EulerDiscreteScheduler(timestep_spacing="leading"),
        EulerAncestralDiscreteScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_any_scheduler_as_it_is_gives_the_latents_of_the_stock_pipeline(tiny_pipeline, scheduler, scale):
    """Those that keep earlier outputs, scale their inputs, or draw noise in their steps."""
    tiny_pipeline.scheduler = copy.deepcopy(scheduler)
    noise = prompt_noise(len(PROMPTS), (4, 8, 8), seed=0)
    options = {"guidance_scale": scale, "output_type": "latent", "generator": generators()}
    expected = stock(tiny_pipeline, noise, **options)
    before = dict(scheduler.config)
    for _ in range(2):  # nothing is left from the first time
        found = sample_latents_with(
            tiny_pipeline.unet,
            scheduler,
            encode_prompts(tiny_pipeline, PROMPTS),
            encode_empty(tiny_pipeline),
            noise,
            steps=4,
            guidance_scale=scale,
            generators=generators(),
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert dict(scheduler.config) == before
    assert scheduler.num_inference_steps is None


def generators():
    return [torch.Generator().manual_seed(row) for row in range(len(PROMPTS))]


def test_pictures_are_those_of_the_stock_pipeline(shared_pipeline):
    noise = prompt_noise(len(PROMPTS), (4, 8, 8), seed=0)
    expected = np.stack([np.asarray(image) for image in stock(shared_pipeline, noise, guidance_scale=3.0)])
    pictures = to_uint8(decode_latents(shared_pipeline.vae, sample(shared_pipeline, noise=noise)))
    assert pictures.shape == (3, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - expected.astype(int)).max() <= 1


def test_contexts_are_those_of_the_stock_pipeline(shared_pipeline):
    prompt, negative = shared_pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    torch.testing.assert_close(encode_prompts(shared_pipeline, PROMPTS, batch_size=2), prompt)
    torch.testing.assert_close(encode_empty(shared_pipeline).expand_as(negative), negative)


def test_sampling_changes_neither_pipeline_nor_network(tiny_pipeline):
    tiny_pipeline.scheduler.set_timesteps(7)
    tiny_pipeline.unet.train()
    tiny_pipeline.unet.mid_block.eval()
    before = copy.deepcopy(tiny_pipeline.unet.state_dict())
    sample(tiny_pipeline)
    assert len(tiny_pipeline.scheduler.timesteps) == 7
    assert tiny_pipeline.unet.training
    assert not tiny_pipeline.unet.mid_block.training
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_pipeline.unet.state_dict().items())


def test_the_schedule_of_any_scheduler_becomes_ddim(shared_pipeline):
    source = PNDMScheduler(beta_start=0.001, beta_end=0.02, prediction_type="v_prediction", steps_offset=1)
    ddim = ddim_scheduler(source)
    torch.testing.assert_close(ddim.alphas_cumprod, source.alphas_cumprod)
    assert (ddim.config.prediction_type, ddim.config.clip_sample) == ("v_prediction", False)
    assert sample(shared_pipeline, scheduler=EulerDiscreteScheduler()).isfinite().all()
    assert ddim_scheduler(DDIMScheduler(clip_sample=True)).config.clip_sample


def test_flow_matching_is_refused():
    with pytest.raises(ModelError, match="no discrete noise schedule"):
        ddim_scheduler(FlowMatchEulerDiscreteScheduler())


def test_noise_depends_on_seed_and_position_alone():
    whole = prompt_noise(5, (4, 8, 8), seed=3)
    assert torch.equal(whole[2:], prompt_noise(3, (4, 8, 8), seed=3, first=2))
    assert not torch.equal(whole[:4], prompt_noise(4, (4, 8, 8), seed=4))
    # Neighbouring seeds must not give shifted copies of the same rows.
    rows = torch.cat([prompt_noise(20, (1, 2, 2), seed=seed).flatten(1) for seed in range(3)])
    assert len(rows.unique(dim=0)) == 60


def test_seeds_beyond_32_bits_count():
    draws = {torch.rand(1, generator=seeded_generator(0, index << 32)).item() for index in range(4)}
    assert len(draws) == 4


def test_latent_shape(shared_pipeline):
    scale = shared_pipeline.vae_scale_factor
    assert latent_shape(shared_pipeline) == (4, 8, 8)
    assert latent_shape(shared_pipeline, height=4 * scale, width=6 * scale) == (4, 4, 6)
    with pytest.raises(NasError, match="multiple of"):
        latent_shape(shared_pipeline, height=4 * scale + 1)


def test_in_mode_restores_every_part_also_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    network[0].eval()

    def fail():
        with in_mode(network, training=False):
            assert not network[1].training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [part.training for part in network.modules()] == [True, False, True]


@pytest.mark.parametrize("prompts", [[], "a cat", [""], ["a cat", 3], ["  "]])
def test_bad_prompts(prompts):
    with pytest.raises(NasError, match="prompt"):
        check_prompts(prompts)


def test_truncated_prompts(shared_pipeline):
    # Fourteen letters with start and end are sixteen tokens.
    assert truncated_prompts(shared_pipeline.tokenizer, ["a" * 14, "a" * 15, "b"]) == [False, True, False]


def test_networks_that_need_more_than_a_text(tiny_pipeline, tiny_unet):
    require_text_only(tiny_unet)
    tiny_unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(ModelError, match="addition_embed_type"):
        require_text_only(tiny_unet)
    tiny_pipeline.vae = None
    with pytest.raises(ModelError, match="has no vae"):
        require_text_to_image(tiny_pipeline)


def test_large_pictures_are_decoded_a_few_at_a_time(shared_pipeline, monkeypatch):
    latents = prompt_noise(5, (4, 8, 8), seed=0)
    assert pictures_at_once(shared_pipeline.vae, latents.shape) > 1000
    whole = decode_latents(shared_pipeline.vae, latents)
    monkeypatch.setattr("nas.sampling._PIXELS_AT_ONCE", 2 * 16 * 16 + 1)
    seen = []
    with shared_pipeline.vae.decoder.register_forward_hook(lambda module, args, out: seen.append(len(out))):
        parts = decode_latents(shared_pipeline.vae, latents)
    assert seen == [2, 2, 1]
    torch.testing.assert_close(parts, whole)
    monkeypatch.setattr("nas.sampling._PIXELS_AT_ONCE", 1)
    assert pictures_at_once(shared_pipeline.vae, latents.shape) == 1
