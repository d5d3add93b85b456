from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest_pipeline import PROCESSOR, make_clip, make_tokenizer
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from nas import ClipScore, NasError
from nas.errors import ModelError
from nas.quality import Clip, ImagePreparation, Scorer

PROMPTS = ["a red cat", "two dogs", "sun", "a blue house"]


@pytest.fixture
def judge(tiny_pipeline):
    return ClipScore(tiny_pipeline, prompts=PROMPTS, steps=2, batch_size=3)


@pytest.fixture
def other_unet(tiny_unet):
    with torch.no_grad():
        for parameter in tiny_unet.parameters():
            parameter.mul_(0.7)
    return tiny_unet


def test_score_is_the_cosine_of_stock_pictures_and_prompts(tiny_pipeline, tiny_clip, judge):
    score = judge(tiny_pipeline.unet)
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip), make_tokenizer()
    pictures = [Image.fromarray(picture) for picture in judge.images(tiny_pipeline.unet)]
    pixels = CLIPImageProcessorPil(**PROCESSOR)(pictures, return_tensors="pt").pixel_values
    tokens = tokenizer(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens, pixel_values=pixels)
    expected = (output.image_embeds * output.text_embeds).sum(-1).numpy()
    assert score.values == pytest.approx(expected, abs=5e-3)  # bytes against floats
    assert score.mean == pytest.approx(expected.mean(), abs=5e-3)
    assert score.low < score.mean < score.high
    assert score.seconds > 0


def test_is_deterministic_whatever_came_before(tiny_pipeline, judge, other_unet):
    first = judge(tiny_pipeline.unet)
    other = judge(other_unet)
    torch.manual_seed(5)
    again = judge(tiny_pipeline.unet)
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)


def test_batch_size_does_not_matter(tiny_pipeline, judge):
    whole = ClipScore(tiny_pipeline, prompts=PROMPTS, steps=2, batch_size=32)
    assert whole(tiny_pipeline.unet).values == pytest.approx(judge(tiny_pipeline.unet).values, abs=1e-4)


def test_the_pipeline_and_the_network_are_left_alone(tiny_pipeline, judge, other_unet):
    unet = tiny_pipeline.unet
    before = copy.deepcopy(unet.state_dict())
    timesteps = tiny_pipeline.scheduler.timesteps.clone()
    other_unet.train()
    judge(other_unet)
    assert tiny_pipeline.unet is unet
    assert other_unet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())
    assert torch.equal(tiny_pipeline.scheduler.timesteps, timesteps)


def test_subsets_have_the_noise_and_scores_of_the_whole(tiny_pipeline, judge):
    whole = judge(tiny_pipeline.unet)
    first, rest = judge.subset(2), judge.subset(2, first=2)
    assert first.prompts == PROMPTS[:2]
    joined = first(tiny_pipeline.unet).joined(rest(tiny_pipeline.unet))
    assert joined.values == pytest.approx(whole.values, abs=1e-4)
    assert rest.subset(1, first=1)(tiny_pipeline.unet).values == pytest.approx(whole.values[3:4], abs=1e-4)
    for count, start in ((0, 0), (5, 0), (2, 3), (1, -1)):
        with pytest.raises(NasError, match="cannot take"):
            judge.subset(count, first=start)


def test_guidance_and_size_matter(shared_pipeline):
    unet = shared_pipeline.unet
    free = ClipScore(shared_pipeline, prompts=PROMPTS[:2], steps=2, guidance_scale=1.0)
    guided = ClipScore(shared_pipeline, prompts=PROMPTS[:2], steps=2, guidance_scale=8.0)
    assert not np.allclose(free(unet).values, guided(unet).values)
    large = ClipScore(shared_pipeline, prompts=PROMPTS[:2], steps=1, height=24, width=32)
    assert large.images(unet).shape == (2, 24, 32, 3)
    assert -1 <= large(unet).mean <= 1


def test_images_of_other_prompts_are_those_of_the_stock_pipeline(tiny_pipeline, judge):
    generator = np.random.SeedSequence([0, 0]).generate_state(1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(int(generator[0])))
    expected = tiny_pipeline(["a boat"], latents=noise, num_inference_steps=2, guidance_scale=5.0).images[0]
    picture = judge.images(tiny_pipeline.unet, ["a boat"])[0]
    assert np.abs(picture.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_describe_is_json_and_tells_scorers_apart(tiny_pipeline, judge):
    described = judge.describe()
    assert json.loads(json.dumps(described)) == described
    assert isinstance(judge, Scorer)
    assert described["truncated_prompts"] == 0
    twin = ClipScore(tiny_pipeline, prompts=PROMPTS, steps=2, batch_size=4)
    assert twin.describe() == described
    for changes in ({"steps": 3}, {"seed": 1}, {"guidance_scale": 2.0}, {"prompts": PROMPTS[::-1]}):
        other = ClipScore(tiny_pipeline, **{"prompts": PROMPTS, "steps": 2, **changes})
        assert other.describe() != described
    assert judge.subset(3).describe() != judge.subset(3, first=1).describe()


def test_where_a_schedule_was_read_from_is_no_part_of_it(tiny_pipeline, judge):
    described = judge.describe()
    # diffusers notes which fields a file lacked, in an order that is another one in every process.
    tiny_pipeline.scheduler.register_to_config(_use_default_values=["eta", "thresholding"], _diffusers_version="0.0")
    assert ClipScore(tiny_pipeline, prompts=PROMPTS, steps=2).describe() == described


def test_long_prompts_are_cut_and_counted(shared_pipeline):
    judge = ClipScore(shared_pipeline, prompts=["a cat", "a cat of more letters than fit"], steps=1)
    assert judge.describe()["truncated_prompts"] == 1
    assert np.isfinite(judge(shared_pipeline.unet).values).all()


def test_a_network_that_diverges_has_the_worst_score(judge, tiny_unet):
    with torch.no_grad():
        tiny_unet.conv_out.bias.fill_(float("nan"))
    assert judge(tiny_unet).mean == -1


def test_clip_may_be_a_folder_a_model_or_a_clip(shared_pipeline, tiny_clip, judge):
    expected = judge.subset(2)(shared_pipeline.unet).values
    for clip in (tiny_clip, str(tiny_clip), CLIPModel.from_pretrained(tiny_clip), Clip.load(tiny_clip)):
        own = ClipScore(shared_pipeline, prompts=PROMPTS[:2], steps=2, batch_size=2, clip=clip)
        assert np.array_equal(own(shared_pipeline.unet).values, expected)
        assert own.clip.fingerprint() == judge.clip.fingerprint()


def test_a_clip_is_known_by_all_that_decides_its_numbers(tiny_clip):
    plain = Clip.load(tiny_clip)
    darker = Clip(plain.model, plain.tokenizer, dataclasses.replace(plain.preparation, mean=(0.6, 0.4, 0.3)))
    vocabulary = plain.tokenizer.get_vocab()
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    reader = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=plain.tokenizer.model_max_length)
    others = darker, Clip(plain.model, reader, plain.preparation)
    assert len({clip.fingerprint() for clip in (plain, *others)}) == 3
    assert Clip.load(tiny_clip).fingerprint() == plain.fingerprint()


def test_a_model_from_memory_takes_the_pipelines_tokenizer(shared_pipeline):
    judge = ClipScore(shared_pipeline, prompts=PROMPTS[:1], steps=1, clip=make_clip(make_tokenizer()))
    assert judge.clip.preparation == ImagePreparation.square(16)
    assert -1 <= judge(shared_pipeline.unet).mean <= 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": []}, "no prompts"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": "5"}, "guidance_scale is '5'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"height": 15}, "multiple of"),
        ({"clip": "no/such/folder"}, "cannot read a CLIP model"),
    ],
)
def test_bad_arguments(shared_pipeline, changes, sentence):
    with pytest.raises(NasError, match=sentence):
        ClipScore(shared_pipeline, **{"prompts": PROMPTS, **changes})


def test_clip_missing_or_corrupt(tiny_pipeline, tiny_pipeline_dir, tiny_clip, tmp_path):
    bare = shutil.copytree(tiny_pipeline_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("clip"))
    with pytest.raises(ModelError, match="no CLIP model at"):
        ClipScore(StableDiffusionPipeline.from_pretrained(bare), prompts=PROMPTS)
    for file in ("model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"):
        broken = shutil.copytree(tiny_clip, tmp_path / file)
        (broken / file).write_bytes(b"not this")
        with pytest.raises(ModelError, match="cannot read a CLIP model"):
            ClipScore(tiny_pipeline, prompts=PROMPTS, clip=broken)


def test_clip_that_lacks_weights(shared_pipeline, tiny_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_clip, tmp_path / "clip")
    weights = load_file(broken / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as visual_projection\.weight"):
        ClipScore(shared_pipeline, prompts=PROMPTS, clip=broken)


def test_a_network_of_another_pipeline(judge, tiny_config):
    from diffusers import UNet2DConditionModel

    stranger = UNet2DConditionModel(**{**tiny_config, "cross_attention_dim": 8})
    with pytest.raises(ModelError, match="cross_attention_dim is 8"):
        judge(stranger)


def test_a_pipeline_like_sdxl(tiny_pipeline):
    tiny_pipeline.unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(ModelError, match="SDXL"):
        ClipScore(tiny_pipeline, prompts=PROMPTS)


def test_an_image_processor_of_another_size(shared_pipeline, tiny_clip, tmp_path):
    broken = shutil.copytree(tiny_clip, tmp_path / "clip")
    changed = {**PROCESSOR, "crop_size": {"height": 8, "width": 8}}
    (broken / "preprocessor_config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="looks at 16x16 pixels, but its image processor gives 8x8"):
        ClipScore(shared_pipeline, prompts=PROMPTS, clip=broken)
