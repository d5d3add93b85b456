from __future__ import annotations

import json

import pytest
import torch
from autoencoders import CONFIGS, make_autoencoder, make_latents, pictures_of
from diffusers import AutoencoderKL, StableDiffusionPipeline

from nas import NasError
from nas.decoder import SlimAutoencoderKL, prune_decoder
from nas.errors import ModelError
from nas.pipelines import load_pipeline


def draw(pipe: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt", "generator": generator}
    return pipe("abc", **options).images


def test_the_config_says_what_the_decoder_is(tmp_path):
    slim = prune_decoder(make_autoencoder("attention"), (0.5, 0.75, 0.25))
    slim.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "SlimAutoencoderKL"
    assert config["block_out_channels"] == [8, 16, 16]
    assert config["decoder_block_out_channels"] == [4, 12, 4]
    assert config["decoder_norm_num_groups"] == [2, 3, 1]
    assert config["decoder_shortcuts"] == [True, True]
    shapes = {name: tensor.shape for name, tensor in slim.state_dict().items()}
    rebuilt = SlimAutoencoderKL.from_config(config)
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_stock_autoencoder_loads_as_a_slim_one_with_the_whole_decoder(tmp_path, kind: str):
    vae = make_autoencoder(kind)
    vae.save_pretrained(tmp_path)
    loaded = SlimAutoencoderKL.from_pretrained(tmp_path)
    assert torch.equal(pictures_of(loaded, make_latents()), pictures_of(vae, make_latents()))
    with torch.no_grad():
        picture = pictures_of(vae, make_latents())
        assert torch.equal(loaded.encode(picture).latent_dist.mean, vae.encode(picture).latent_dist.mean)


def test_a_pipeline_with_it_draws_and_comes_back(tiny_pipeline, tmp_path):
    tiny_pipeline.vae = prune_decoder(tiny_pipeline.vae, (0.5, 0.75))
    expected = draw(tiny_pipeline)
    tiny_pipeline.save_pretrained(tmp_path)
    for loaded in (StableDiffusionPipeline.from_pretrained(tmp_path), load_pipeline(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded.vae) is SlimAutoencoderKL
        assert torch.equal(draw(loaded), expected)


def test_a_pipeline_takes_it_when_it_is_loaded(tiny_pipeline, tiny_pipeline_dir):
    slim = prune_decoder(tiny_pipeline.vae)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, vae=slim, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe).shape == draw(tiny_pipeline).shape


@pytest.mark.parametrize("kind", ["attention", "tiny"])
def test_slices_and_tiles(kind: str):
    vae = make_autoencoder(kind)
    latents = make_latents(rows=9, columns=12)
    if kind == "tiny":
        latents = make_latents(rows=80, columns=70)
    whole, slim = prune_decoder(vae, 1), prune_decoder(vae, 0.5)
    plain = pictures_of(slim, latents)
    slim.enable_slicing()
    torch.testing.assert_close(pictures_of(slim, latents), plain)
    for model in (vae, whole, slim):
        model.enable_tiling()
    assert torch.equal(pictures_of(whole, latents), pictures_of(vae, latents))
    assert pictures_of(slim, latents).shape == plain.shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_block_out_channels": (4, 8)}, "2 values"),
        ({"decoder_block_out_channels": (4, 8, 6)}, "level 2 .* 6 channels, which 4 groups"),
        ({"decoder_norm_num_groups": (4, 4, 0)}, "0 groups"),
        ({"decoder_block_out_channels": (4, 8, 8), "decoder_shortcuts": (False, False)}, "level 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_in_one_sentence(fields: dict, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        SlimAutoencoderKL(**fields, **CONFIGS["attention"])
    assert isinstance(caught.value, NasError)
    assert "\n" not in str(caught.value)


def test_it_is_an_autoencoder():
    assert issubclass(SlimAutoencoderKL, AutoencoderKL)
    assert SlimAutoencoderKL.__module__ == "nas.decoder"
