from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDPMScheduler, UNet2DConditionModel

from nas import NasError, TeacherDistance
from nas.errors import ModelError
from nas.quality import Scorer
from nas.quality._teacher_distance import spread_timesteps
from nas.sampling import seeded_generator
from nas.unet import fold_guidance, guidance_embedding


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, 8, 8, generator=generator), torch.randn(5, 7, 12, generator=generator)


def shifted(unet, share: float):
    """A network that says `1 + share` times what `unet` says."""
    other = copy.deepcopy(unet)
    with torch.no_grad():
        other.conv_out.weight.mul_(1 + share)
        other.conv_out.bias.mul_(1 + share)
    return other


def test_the_teacher_itself_is_at_zero(tiny_unet, samples):
    score = TeacherDistance(tiny_unet, *samples)(tiny_unet)
    assert np.array_equal(score.values, np.zeros(5))


@pytest.mark.parametrize("share", [0.1, -0.5, -1.0, 2.0])
def test_distance_is_the_relative_error(tiny_unet, samples, share):
    score = TeacherDistance(tiny_unet, *samples, batch_size=2)(shifted(tiny_unet, share))
    assert score.values == pytest.approx(-abs(share) * np.ones(5), rel=1e-4)


def test_distance_against_a_plain_computation(tiny_unet, samples):
    latents, contexts = samples
    student = shifted(tiny_unet, 0.0)
    torch.nn.init.zeros_(student.mid_block.resnets[0].conv2.weight)
    judge = TeacherDistance(tiny_unet, latents, contexts, timesteps=[10, 700], seed=3, scheduler=make_scheduler())
    noise_seed = int(np.random.SeedSequence([3]).generate_state(1)[0])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(noise_seed))
    steps = torch.tensor([10, 700, 10, 700, 10])
    noisy = make_scheduler().add_noise(latents, noise, steps)
    with torch.no_grad():
        said, known = (unet(noisy, steps, contexts).sample for unet in (student, tiny_unet))
    expected = [-((s - t).norm() / t.norm()).item() for s, t in zip(said, known, strict=True)]
    assert judge(student).values == pytest.approx(expected, rel=1e-4)


def test_default_schedule_is_stable_diffusions(tiny_unet, samples):
    own = TeacherDistance(tiny_unet, *samples)
    stable = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert own.describe() == TeacherDistance(tiny_unet, *samples, scheduler=stable).describe()
    assert own.describe() != TeacherDistance(tiny_unet, *samples, scheduler=make_scheduler()).describe()


def test_the_teachers_outputs_are_kept(tiny_unet, samples):
    original = copy.deepcopy(tiny_unet)
    judge = TeacherDistance(tiny_unet, *samples)
    torch.nn.init.zeros_(tiny_unet.conv_out.weight)
    assert judge(original).mean == 0
    assert judge(tiny_unet).mean < -0.1


def test_any_resolution_one_context_for_all_and_modes_are_kept(tiny_unet, samples):
    tiny_unet.train()
    judge = TeacherDistance(tiny_unet, torch.randn(3, 4, 16, 24), samples[1][:1])
    assert judge(tiny_unet).values.shape == (3,)
    assert tiny_unet.training


def test_half_precision(tiny_unet, samples):
    judge = TeacherDistance(tiny_unet, *samples)
    assert -0.1 < judge(copy.deepcopy(tiny_unet).bfloat16()).mean < 0


def test_subset(tiny_unet, samples):
    judge = TeacherDistance(tiny_unet, *samples, batch_size=2)
    student = shifted(tiny_unet, 0.0)
    torch.nn.init.zeros_(student.mid_block.resnets[0].conv2.weight)
    joined = judge.subset(2)(student).joined(judge.subset(3, first=2)(student))
    assert joined.values == pytest.approx(judge(student).values, rel=1e-4)
    with pytest.raises(NasError, match="cannot take 6"):
        judge.subset(6)


def test_timesteps_are_spread_from_the_first_on():
    assert spread_timesteps(3, 1000) == [500, 250, 750]
    steps = spread_timesteps(63, 1000)
    assert np.diff(sorted(steps)).max() <= 16
    assert 0 <= min(steps) <= max(steps) < 1000


def test_describe_is_json_and_tells_scorers_apart(tiny_unet, samples):
    judge = TeacherDistance(tiny_unet, *samples)
    described = judge.describe()
    assert json.loads(json.dumps(described)) == described
    assert isinstance(judge, Scorer)
    for other in (
        TeacherDistance(shifted(tiny_unet, 0.1), *samples),
        TeacherDistance(tiny_unet, *samples, seed=1),
        TeacherDistance(tiny_unet, *samples, timesteps=[5]),
        TeacherDistance(tiny_unet, samples[0], samples[1] + 1),
        judge.subset(3),
    ):
        assert other.describe() != described


def test_a_network_that_diverges_is_furthest(tiny_unet, samples):
    judge = TeacherDistance(tiny_unet, *samples)
    with torch.no_grad():
        tiny_unet.conv_out.bias.fill_(float("nan"))
    assert judge(tiny_unet).mean == -1e6


def test_bad_arguments(tiny_unet, samples):
    latents, contexts = samples
    for wrong in (
        {"latents": latents[0]},
        {"latents": latents[:0]},
        {"contexts": contexts[:2]},
        {"contexts": contexts[0]},
        {"timesteps": [1000]},
        {"timesteps": []},
        {"timesteps": [-1]},
        {"seed": 0.5},
        {"batch_size": 0},
    ):
        with pytest.raises(NasError):
            TeacherDistance(tiny_unet, **{"latents": latents, "contexts": contexts, **wrong})


def test_sdxl_is_refused(tiny_config, samples):
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 8,
    }
    unet = UNet2DConditionModel(**tiny_config, **extra)
    with pytest.raises(ModelError, match="addition_embed_type"):
        TeacherDistance(unet, *samples)


@pytest.fixture
def folded(tiny_unet):
    """A network that listens to the guidance it is told."""
    unet = copy.deepcopy(tiny_unet)
    fold_guidance(unet, width=8)
    torch.manual_seed(1)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
    return unet


def said(unet, samples, w, empty=None):
    """What a network says at timestep 500 and guidance w, by hand."""
    scheduler, (latents, contexts) = make_scheduler(), samples
    noise = torch.randn(latents.shape, generator=seeded_generator(0))
    steps = torch.full((len(latents),), 500)
    noisy = scheduler.add_noise(latents, noise, steps)
    with torch.no_grad():
        if empty is None:
            told = guidance_embedding(torch.full((len(latents),), w), 8)
            return unet(noisy, steps, contexts, timestep_cond=told).sample
        with_text, without = (unet(noisy, steps, c).sample for c in (contexts, empty.expand_as(contexts)))
        return w * with_text - (w - 1) * without


@pytest.mark.parametrize("w", [1.0, 7.5])
def test_guidance_is_told_to_those_that_are_told_and_done_for_the_others(tiny_unet, folded, samples, w):
    empty = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(2))
    options = {"timesteps": [500], "scheduler": make_scheduler(), "batch_size": 2, "guidance": w}
    judge = TeacherDistance(tiny_unet, *samples, empty_context=empty, **options)
    student, teacher = said(folded, samples, w), said(tiny_unet, samples, w, empty)
    expected = -(student - teacher).flatten(1).norm(dim=1) / teacher.flatten(1).norm(dim=1)
    assert expected.max() < -0.01
    assert judge(folded).values == pytest.approx(expected.numpy(), rel=1e-4)
    assert judge(tiny_unet).mean == pytest.approx(0, abs=1e-6)
    assert judge.subset(2)(folded).values == pytest.approx(judge(folded).values[:2], rel=1e-4)
    # A teacher that is told the guidance needs no empty text.
    assert TeacherDistance(folded, *samples, **options)(folded).mean == 0
    described = TeacherDistance(folded, *samples, **options).describe()
    assert described != TeacherDistance(folded, *samples, **{**options, "guidance": w + 1}).describe()
    assert json.loads(json.dumps(described)) == described


def test_a_network_that_is_told_the_guidance_needs_one(tiny_unet, folded, samples):
    with pytest.raises(ModelError, match="give guidance="):
        TeacherDistance(folded, *samples)
    with pytest.raises(ModelError, match="give guidance="):
        TeacherDistance(tiny_unet, *samples)(folded)
    with pytest.raises(NasError, match="give empty_context="):
        TeacherDistance(folded, *samples, guidance=5.0)(tiny_unet)
    for wrong in ({"guidance": 0.5}, {"guidance": float("nan")}, {"empty_context": samples[1]}):
        with pytest.raises(NasError):
            TeacherDistance(tiny_unet, *samples, **wrong)
