"""Parts of pipelines that are missing or damaged are told as such, and nobody is asked on a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from nas.errors import ModelError
from nas.pipelines import load_part, load_pipeline, load_unet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    DDIMScheduler(num_train_timesteps=7).save_pretrained(tmp_path)
    return tmp_path


def load_scheduler(folder: Path) -> DDIMScheduler:
    return load_part(DDIMScheduler, folder, "scheduler", file="scheduler_config.json")


def test_a_part_is_read_back(folder: Path) -> None:
    assert load_scheduler(folder).config.num_train_timesteps == 7


def test_what_is_not_there(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no scheduler at .*nowhere: there is no such folder"):
        load_scheduler(folder / "nowhere")
    with pytest.raises(ModelError, match=r"no autoencoder at .*: the folder has no config\.json"):
        load_part(AutoencoderKL, folder, "autoencoder")
    with pytest.raises(ModelError, match="no UNet at"):
        load_unet(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"num_train_timesteps": "many"}'])
def test_what_is_damaged(folder: Path, text: str) -> None:
    (folder / "scheduler_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"the scheduler at .* is incomplete or damaged"):
        load_scheduler(folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"the UNet at .* is incomplete or damaged"):
        load_unet(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_on_the_disk_is_float32_in_memory(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, variant: str | None
) -> None:
    tiny_pipeline.to(torch.float16).save_pretrained(tmp_path, variant=variant)
    pipe = load_pipeline(tmp_path)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert torch.equal(pipe.unet.conv_in.weight, tiny_pipeline.unet.conv_in.weight.float())
    assert torch.equal(load_unet(tmp_path / "unet").conv_in.weight, pipe.unet.conv_in.weight)
    assert len(pipe("abc", num_inference_steps=1, output_type="np").images) == 1
