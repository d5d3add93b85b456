"""A whole text-to-image pipeline of tiny random parts, with its CLIP model: no network, milliseconds."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

CONTEXT_LENGTH = 16
IMAGE_SIZE = 16
PROCESSOR = {
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.25, 0.3, 0.2],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": IMAGE_SIZE},
}


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without merges: a letter is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT_LENGTH)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A seeded CLIP model whose text tower is as wide as the tiny UNet's contexts."""
    common = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**common, **ids, "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    text["max_position_embeddings"] = CONTEXT_LENGTH
    vision = {**common, "image_size": IMAGE_SIZE, "patch_size": 4}
    torch.manual_seed(1)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


def make_pipeline(config: dict) -> StableDiffusionPipeline:
    """A pipeline around a UNet of `config`: v-prediction with zero terminal SNR, as in the bundled one."""
    tokenizer = make_tokenizer()
    clip = make_clip(tokenizer)
    text_encoder = CLIPTextModel(clip.config.text_config).eval()
    text_encoder.load_state_dict(clip.text_model.state_dict())
    torch.manual_seed(2)
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.5,
    )
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=autoencoder.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**config).eval(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_scheduler(**changes: object) -> DDIMScheduler:
    """The bundled pipeline's kind of scheduler."""
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(**{**options, **changes})


def save_clip(folder: Path) -> Path:
    """Write the tiny CLIP model with tokenizer and image processor to `folder`."""
    tokenizer = make_tokenizer()
    make_clip(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def save_captions(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        entries = [
            {"caption": f"{split} {number}", "style": "flat", "concept": f"thing {number}", "drawn": split == "train"}
            for number in range(6)
        ]
        (folder / f"{split}.json").write_text(json.dumps(entries))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `CLIPModel.from_pretrained` loads, with tokenizer and image processor; do not write into it."""
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_pipeline_dir(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict) -> Path:
    """A pipeline's folder laid out like the bundled one, with `clip/` and `captions/`; do not write into it."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline(tiny_config).save_pretrained(folder)
    save_clip(folder / "clip")
    save_captions(folder / "captions")
    return folder


@pytest.fixture(scope="session")
def shared_pipeline(tiny_pipeline_dir: Path) -> StableDiffusionPipeline:
    """The tiny pipeline once for all tests that do not change it."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_pipeline(shared_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A fresh pipeline, as read from `tiny_pipeline_dir`, silent."""
    return copy.deepcopy(shared_pipeline)
