"""Models judged against guidance: figures that other code gives too, resuming, and what is refused."""

from __future__ import annotations

import copy
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from small_evaluation import OPTIONS, PROMPTS, REAL, Means

import nas
from nas import ClipScore, NasError, bundled
from nas.errors import DeviceError, ModelError
from nas.quality import Clip, Evaluation, Model, cmmd, frechet_distance, kid, load_captions, load_pictures
from nas.quality import _evaluate as module
from nas.quality._model import OpenModel


@pytest.fixture
def other_unet(tiny_unet):
    with torch.no_grad():
        for parameter in tiny_unet.parameters():
            parameter.mul_(0.7)
    return tiny_unet


@pytest.fixture(scope="module")
def emoji():
    pipe = StableDiffusionPipeline.from_pretrained(bundled("emoji"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(count, shape, *, seed=0):
    rows = []
    for row in range(count):
        state = int(np.random.SeedSequence((seed, row)).generate_state(1)[0])
        rows.append(torch.randn(shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(rows)


def stock_pictures(pipe, scheduler, prompts, *, steps, guidance_scale):
    """The stock pipeline's, as values [n x 3 x h x w]."""
    size = pipe.unet.config.sample_size
    pipe = copy.copy(pipe)
    pipe.register_modules(scheduler=scheduler)
    latents = noise(len(prompts), (4, size, size))
    made = pipe(prompts, latents=latents, num_inference_steps=steps, guidance_scale=guidance_scale, output_type="pt")
    return made.images


@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_the_bundled_models_figures_are_those_of_stock_pictures(emoji, name):
    prompts, real = load_captions("emoji", "test", count=4), load_pictures("emoji", "test")[:12]
    options = {"prompts": prompts, "real": real, "guidance_scales": [4.0], "steps": 2}
    (point,) = nas.evaluate(Model(emoji, scheduler=name), **options).points
    if name == "dpm++":
        scheduler = DPMSolverMultistepScheduler(
            beta_start=emoji.scheduler.config.beta_start,
            beta_end=emoji.scheduler.config.beta_end,
            beta_schedule=emoji.scheduler.config.beta_schedule,
            prediction_type=emoji.scheduler.config.prediction_type,
            timestep_spacing=emoji.scheduler.config.timestep_spacing,
            rescale_betas_zero_snr=emoji.scheduler.config.rescale_betas_zero_snr,
            steps_offset=emoji.scheduler.config.steps_offset,
            algorithm_type="dpmsolver++",
        )
    else:
        scheduler = emoji.scheduler
    pictures = stock_pictures(emoji, scheduler, prompts, steps=2, guidance_scale=4.0)
    clip = Clip.load(bundled("emoji") / "clip")
    drawn, texts = clip.embed_images(pictures), clip.embed_texts(prompts)
    there = clip.embed_images(torch.from_numpy(real).permute(0, 3, 1, 2) / 255)
    assert point.clip_score.values == pytest.approx((drawn * texts).sum(1).numpy(), abs=1e-4)
    assert point.kid.value == pytest.approx(kid(drawn * 256**0.5, there * 256**0.5).value, abs=1e-4)
    assert point.cmmd.value == pytest.approx(cmmd(drawn, there).value, abs=1e-3)
    assert (point.scheduler, point.steps) == (type(scheduler).__name__, 2)
    assert (point.fid, point.diverged) == (None, 0)
    assert point.kid.low < point.kid.value < point.kid.high


def test_clip_scores_are_those_of_the_scorer(shared_pipeline, other_unet):
    found = nas.evaluate({"full": shared_pipeline, "other": Model(shared_pipeline, unet=other_unet)}, **OPTIONS)
    assert found.models == ("full", "other")
    for model, unet in (("full", shared_pipeline.unet), ("other", other_unet)):
        for scale in (1.0, 3.0):
            judge = ClipScore(shared_pipeline, prompts=PROMPTS, steps=2, guidance_scale=scale)
            score = found.point(model, scale).clip_score
            assert score.values == pytest.approx(judge(unet).values, abs=1e-6)
            assert score.seconds > 0


@pytest.mark.parametrize(
    "scheduler",
    [
        make_scheduler(prediction_type="epsilon", rescale_betas_zero_snr=False),
        EulerDiscreteScheduler(timestep_spacing="trailing"),
    ],
    ids=["ddim", "euler"],
)
def test_any_scheduler_draws_what_the_stock_pipeline_draws(shared_pipeline, tiny_clip, scheduler):
    (point,) = nas.evaluate(
        Model(shared_pipeline, scheduler=scheduler), **{**OPTIONS, "steps": 3, "guidance_scales": [3]}
    ).points
    pictures = stock_pictures(shared_pipeline, copy.deepcopy(scheduler), PROMPTS, steps=3, guidance_scale=3.0)
    clip = Clip.load(tiny_clip)
    expected = (clip.embed_images(pictures) * clip.embed_texts(PROMPTS)).sum(1)
    assert point.clip_score.values == pytest.approx(expected.numpy(), abs=1e-4)


def test_each_model_has_its_own_parts_steps_and_scheduler(tiny_pipeline, tiny_pipeline_dir, other_unet, tmp_path):
    other_unet.save_pretrained(tmp_path / "unet")
    vae = copy.deepcopy(tiny_pipeline.vae)
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(0.3)
    models = {
        "folder": tiny_pipeline_dir,
        "same": str(tiny_pipeline_dir),
        "unet": Model(tiny_pipeline, unet=tmp_path / "unet"),
        "vae": Model(tiny_pipeline, vae=vae),
        "steps": Model(tiny_pipeline, steps=3),
        "own": Model(tiny_pipeline, scheduler="own"),
        "dpm": Model(tiny_pipeline, scheduler="dpm++"),
    }
    tiny_pipeline.scheduler = EulerDiscreteScheduler.from_config(tiny_pipeline.scheduler.config)
    found = nas.evaluate(models, **{**OPTIONS, "guidance_scales": [3.0]})
    values = {name: found.point(name, 3).clip_score.values for name in models}
    assert np.array_equal(values["folder"], values["same"])
    for name in ("unet", "vae", "steps", "own", "dpm"):
        assert not np.allclose(values[name], values["folder"], atol=1e-6), name
    assert found.point("steps", 3).steps == 3
    assert found.point("own", 3).scheduler == "EulerDiscreteScheduler"
    assert found.point("dpm", 3).scheduler == "DPMSolverMultistepScheduler"
    assert found.point("unet", 3).scheduler == "DDIMScheduler"


def test_noise_of_a_scheduler_depends_on_seed_and_position_alone(shared_pipeline):
    model = Model(shared_pipeline, scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))
    options = {**OPTIONS, "guidance_scales": [3.0], "steps": 3}
    whole = nas.evaluate(model, **options).points[0].clip_score.values
    torch.manual_seed(9)
    parts = nas.evaluate(model, **options, batch_size=3).points[0].clip_score.values
    assert parts == pytest.approx(whole, abs=1e-5)
    other = nas.evaluate(model, **options, seed=1).points[0].clip_score.values
    assert not np.allclose(other, whole, atol=1e-4)


def test_fid_by_a_network_or_its_torchscript(shared_pipeline, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript's own, at writing
        torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    options = {**OPTIONS, "guidance_scales": [1.0]}
    points = [
        nas.evaluate(shared_pipeline, inception=given, **options).points[0]
        for given in (Means(), tmp_path / "means.pt")
    ]
    pictures = stock_pictures(shared_pipeline, shared_pipeline.scheduler, PROMPTS, steps=2, guidance_scale=1.0)
    there = torch.from_numpy(REAL).permute(0, 3, 1, 2) / 255
    expected = frechet_distance(Means()(pictures), Means()(there)).value
    for point in points:
        assert point.fid.value == pytest.approx(expected, rel=1e-3)
    for bad, sentence in (
        (lambda pictures: pictures, r"gives \[5, 3, 16, 16\] for 5 pictures"),
        (lambda pictures: [1], "gives list"),
        (tmp_path / "none.pt", "not a TorchScript file"),
    ):
        with pytest.raises(ModelError, match=sentence):
            nas.evaluate(shared_pipeline, inception=bad, **options)


def figures(found: Evaluation) -> list:
    return [{**point.to_dict(), "clip_score": point.clip_score.values.tolist()} for point in found.points]


def test_an_interrupted_run_goes_on_and_ends_alike(shared_pipeline, other_unet, tmp_path, monkeypatch):
    models = {"full": shared_pipeline, "other": Model(shared_pipeline, unet=other_unet)}
    expected = nas.evaluate(models, **OPTIONS)
    judge, calls = module.Judge.__call__, []

    def interrupted(self, pictures):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(None)
        return judge(self, pictures)

    monkeypatch.setattr(module.Judge, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nas.evaluate(models, workdir=tmp_path, **OPTIONS)
    assert len(list((tmp_path / "points").iterdir())) == 3
    calls[:] = [None] * 2  # one more is allowed: the one that is missing
    again = nas.evaluate(models, workdir=tmp_path, **OPTIONS)
    assert figures(again) == figures(expected)
    # Nothing is drawn any more, whatever the models' names and order.
    calls[:] = [None] * 3
    renamed = nas.evaluate({"b": models["other"], "a": models["full"]}, workdir=tmp_path, **OPTIONS)
    assert renamed.models == ("b", "a")
    assert np.array_equal(renamed.point("a", 3).clip_score.values, again.point("full", 3).clip_score.values)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": PROMPTS[::-1]},
        {"real": REAL[:4]},
        {"real": 255 - REAL},
        {"steps": 3},
        {"seed": 1},
        {"guidance_scales": [3.5]},
        {"inception": Means()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_point_of_something_else_is_not_taken(shared_pipeline, tmp_path, changes):
    options = {**OPTIONS, "guidance_scales": [3.0], "workdir": tmp_path}
    nas.evaluate(shared_pipeline, **options)
    (before,) = (tmp_path / "points").iterdir()
    nas.evaluate(shared_pipeline, **{**options, **changes})
    after = set((tmp_path / "points").iterdir())
    assert len(after) == 2
    assert before in after


def test_nor_is_one_of_another_network_scheduler_or_judge(shared_pipeline, other_unet, tiny_clip, tmp_path):
    options = {**OPTIONS, "guidance_scales": [3.0], "workdir": tmp_path}
    clip = Clip.load(tiny_clip)
    with torch.no_grad():
        clip.model.visual_projection.weight.mul_(1.5).add_(0.1)
    for count, (model, judge) in enumerate(
        [
            (Model(shared_pipeline), None),
            (Model(shared_pipeline, unet=other_unet), None),
            (Model(shared_pipeline, scheduler="dpm++"), None),
            (Model(shared_pipeline, scheduler=make_scheduler(timestep_spacing="leading")), None),
            (Model(shared_pipeline), clip),
        ],
        start=1,
    ):
        nas.evaluate(model, clip=judge, **options)
        assert len(list((tmp_path / "points").iterdir())) == count


def test_a_damaged_point_is_named(shared_pipeline, tmp_path):
    options = {**OPTIONS, "guidance_scales": [3.0], "workdir": tmp_path}
    nas.evaluate(shared_pipeline, **options)
    (file,) = (tmp_path / "points").iterdir()
    file.write_text(file.read_text()[:100])
    with pytest.raises(NasError, match=rf"{file.name} is damaged .* delete it"):
        nas.evaluate(shared_pipeline, **options)


def test_a_network_that_diverges_is_counted_and_worst(shared_pipeline, tiny_unet):
    with torch.no_grad():
        tiny_unet.conv_out.bias.fill_(float("nan"))
    point = nas.evaluate(Model(shared_pipeline, unet=tiny_unet), **OPTIONS).points[0]
    assert point.diverged == len(PROMPTS)
    assert point.clip_score.mean == -1
    assert np.isfinite(point.kid.value)


def test_nothing_is_changed(tiny_pipeline, other_unet):
    before = copy.deepcopy(tiny_pipeline.unet.state_dict())
    timesteps, scheduler = tiny_pipeline.scheduler.timesteps.clone(), tiny_pipeline.scheduler
    other_unet.train()
    nas.evaluate({"a": tiny_pipeline, "b": Model(tiny_pipeline, unet=other_unet, scheduler="own")}, **OPTIONS)
    assert other_unet.training
    assert tiny_pipeline.scheduler is scheduler
    assert torch.equal(tiny_pipeline.scheduler.timesteps, timesteps)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_pipeline.unet.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["one"]}, "at least two of each"),
        ({"real": REAL[:1]}, "at least two of each"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_scales": []}, "guidance_scales are"),
        ({"guidance_scales": [-1]}, "guidance_scales are"),
        ({"guidance_scales": [float("nan")]}, "guidance_scales are"),
        ({"guidance_scales": 7.5}, "guidance_scales are 7.5"),
        ({"guidance_scales": ["much"]}, "guidance_scales are"),
        ({"clip": "no/such/folder"}, "cannot read a CLIP model"),
    ],
)
def test_bad_arguments(shared_pipeline, changes, sentence):
    with pytest.raises(NasError, match=sentence):
        nas.evaluate(shared_pipeline, **{**OPTIONS, **changes})


def test_bad_models(shared_pipeline, tiny_pipeline_dir, tiny_config, tmp_path, monkeypatch):
    from diffusers import UNet2DConditionModel

    with pytest.raises(NasError, match="no models"):
        nas.evaluate({}, **OPTIONS)
    with pytest.raises(NasError, match=r"no scheduler 'dpm'; choose ddim, dpm\+\+, own or"):
        Model(shared_pipeline, scheduler="dpm")
    with pytest.raises(NasError, match="steps is 0"):
        Model(shared_pipeline, steps=0)
    # Found out before anything is drawn.
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        nas.evaluate({"good": shared_pipeline, "none": tmp_path}, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(OpenModel, "pictures", None)
        broken = shutil.copytree(tiny_pipeline_dir, tmp_path / "broken")
        (broken / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
        with pytest.raises(ModelError, match="damaged"):
            nas.evaluate({"good": shared_pipeline, "broken": broken}, **OPTIONS)
        with pytest.raises(NasError, match="steps is 1001"):
            nas.evaluate({"good": shared_pipeline, "long": Model(shared_pipeline, steps=1001)}, **OPTIONS)
        with pytest.raises(DeviceError, match="cannot compute on 'nowhere'"):
            nas.evaluate({"good": shared_pipeline, "there": tiny_pipeline_dir}, **OPTIONS, compute_on="nowhere")
    with pytest.raises(NasError, match="read from folders"):
        nas.evaluate(shared_pipeline, **OPTIONS, compute_on="cpu")
    stranger = UNet2DConditionModel(**{**tiny_config, "cross_attention_dim": 8})
    with pytest.raises(ModelError, match="cross_attention_dim is 8"):
        nas.evaluate(Model(shared_pipeline, unet=stranger), **OPTIONS)
    bare = shutil.copytree(tiny_pipeline_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("clip"))
    with pytest.raises(ModelError, match="no CLIP model at"):
        nas.evaluate(bare, **OPTIONS)
