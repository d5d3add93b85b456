from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler

from nas import NasError
from nas.errors import ModelError
from nas.sampling import prompt_noise, sample_latents
from nas.training import synthetic_data

PROMPTS = ["a red cat", "two dogs", "sun"]


def test_latents_and_contexts_are_the_stock_pipelines(shared_pipeline):
    data = synthetic_data(shared_pipeline, PROMPTS, steps=2, guidance_scale=3.0, seed=4, batch_size=2)
    noise = prompt_noise(3, (4, 8, 8), seed=4)
    expected = shared_pipeline(PROMPTS, latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="latent")
    torch.testing.assert_close(data.latents, expected.images, rtol=1e-4, atol=1e-5)
    prompt, negative = shared_pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    torch.testing.assert_close(data.contexts, prompt)
    torch.testing.assert_close(data.empty_context, negative[:1])
    assert not data.latents.is_inference()


def test_the_file_is_read_when_it_holds_this_very_data(shared_pipeline, tmp_path, monkeypatch):
    path = tmp_path / "data.safetensors"
    first = synthetic_data(shared_pipeline, PROMPTS, steps=1, path=path)
    written = path.read_bytes()
    monkeypatch.setattr("nas.training._synthetic._sample", None)
    again = synthetic_data(shared_pipeline, PROMPTS, steps=1, path=path)
    assert torch.equal(again.latents, first.latents)
    assert path.read_bytes() == written


def test_an_interrupted_call_goes_on_with_what_there_is(shared_pipeline, tmp_path, monkeypatch):
    path, prompts = tmp_path / "data.safetensors", [*PROMPTS, "moon"]
    options = {"steps": 1, "batch_size": 1, "seed": 3}
    whole, calls = synthetic_data(shared_pipeline, prompts, **options), []

    def sample(*arguments, **sampling):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return sample_latents(*arguments, **sampling)

    monkeypatch.setattr("nas.training._synthetic._SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("nas.training._synthetic.sample_latents", sample)
    with pytest.raises(KeyboardInterrupt):
        synthetic_data(shared_pipeline, prompts, **options, path=path)
    calls.clear()
    assert torch.equal(synthetic_data(shared_pipeline, prompts, **options, path=path).latents, whole.latents)
    assert len(calls) == 2, "two were sampled before"
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_of_another_size(shared_pipeline, tmp_path):
    path = tmp_path / "data.safetensors"
    own = synthetic_data(shared_pipeline, PROMPTS, steps=1, path=path)
    assert torch.equal(synthetic_data(shared_pipeline, PROMPTS, steps=1, height=16, width=16).latents, own.latents)
    wide = synthetic_data(shared_pipeline, PROMPTS, steps=1, height=16, width=32, path=path)
    assert wide.latents.shape == (3, 4, 8, 16)
    with pytest.raises(NasError, match="height is 15 pixels"):
        synthetic_data(shared_pipeline, PROMPTS, steps=1, height=15)


@pytest.mark.parametrize("change", ["prompts", "steps", "seed", "guidance", "teacher", "pipe"])
def test_the_file_is_replaced_when_it_holds_other_data(shared_pipeline, tmp_path, change):
    path = tmp_path / "data.safetensors"
    options = {"prompts": PROMPTS[:2], "steps": 1, "seed": 0, "guidance_scale": 2.0, "unet": None}
    options["pipe"] = shared_pipeline
    first = synthetic_data(**options, path=path)
    rescheduled = copy.copy(shared_pipeline)
    rescheduled.scheduler = DDIMScheduler.from_config(shared_pipeline.scheduler.config, timestep_spacing="leading")
    teacher = copy.deepcopy(shared_pipeline.unet)
    torch.nn.init.ones_(teacher.conv_out.bias)
    other = {"prompts": PROMPTS[1:], "steps": 2, "seed": 1, "guidance_scale": 3.0, "unet": teacher}
    other["pipe"] = rescheduled
    name = {"guidance": "guidance_scale", "teacher": "unet"}.get(change, change)
    second = synthetic_data(**{**options, name: other[name]}, path=path)
    assert not torch.equal(first.latents, second.latents)


def test_a_file_of_something_else_is_not_overwritten(shared_pipeline, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("important")
    with pytest.raises(ModelError, match="corrupt or no safetensors"):
        synthetic_data(shared_pipeline, PROMPTS, steps=1, path=path)
    assert path.read_text() == "important"


def test_bad_arguments(shared_pipeline):
    with pytest.raises(NasError, match="no prompts"):
        synthetic_data(shared_pipeline, [])
    with pytest.raises(NasError, match="steps is 0"):
        synthetic_data(shared_pipeline, PROMPTS, steps=0)
