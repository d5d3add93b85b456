from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from nas import NasError
from nas.errors import ModelError
from nas.training.losses import (
    alpha_sigma,
    clean_from_v,
    data_loss,
    distillation_loss,
    feature_loss,
    noise_from_v,
    noisy,
    prediction_target,
    prediction_type,
    training_loss,
    v_target,
)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[{}, {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}], ids=["linear", "zero"])
def schedule(request):
    return DDPMScheduler(**request.param)


def test_noisy_and_v_are_those_of_diffusers(schedule):
    clean, noise, steps = draw(0, 4, 3, 2, 2), draw(1, 4, 3, 2, 2), torch.tensor([0, 10, 500, 999])
    alpha, sigma = alpha_sigma(schedule.alphas_cumprod, steps, like=clean)
    assert alpha.shape == (4, 1, 1, 1)
    torch.testing.assert_close(noisy(clean, noise, alpha, sigma), schedule.add_noise(clean, noise, steps))
    torch.testing.assert_close(v_target(clean, noise, alpha, sigma), schedule.get_velocity(clean, noise, steps))


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_v_is_a_rotation(seed, angle):
    alpha, sigma = torch.cos(torch.tensor(angle * 1.5707)).double(), torch.sin(torch.tensor(angle * 1.5707)).double()
    clean, noise = draw(seed, 2, 3), draw(seed + 1, 2, 3)
    z, v = noisy(clean, noise, alpha, sigma), v_target(clean, noise, alpha, sigma)
    torch.testing.assert_close(clean_from_v(z, v, alpha, sigma), clean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(noise_from_v(z, v, alpha, sigma), noise, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.square() + v.square(), clean.square() + noise.square(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_makes_ddim_find_the_clean_latents(kind):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    clean, noise, step = draw(0, 1, 3, 2, 2), draw(1, 1, 3, 2, 2), torch.tensor([600])
    amplitudes = alpha_sigma(scheduler.alphas_cumprod, step, like=clean)
    target = prediction_target(prediction_type(scheduler), clean, noise, *amplitudes)
    scheduler.set_timesteps(5)
    found = scheduler.step(target, 600, noisy(clean, noise, *amplitudes)).pred_original_sample
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-5)


def test_unknown_prediction_type():
    with pytest.raises(ModelError, match="'flow'"):
        prediction_target("flow", *[torch.zeros(1)] * 4)


def test_data_loss_closed_form():
    output = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = data_loss(output, torch.tensor([0.0, 4.0]))
    loss.backward()
    assert loss.item() == 2.5
    assert output.grad.tolist() == [1, -2]


def test_distillation_loss_closed_form():
    teacher = draw(0, 2, 3).float()
    assert distillation_loss(teacher.clone(), teacher) == 0
    assert distillation_loss(torch.zeros(2, 3), teacher).item() == pytest.approx(1)
    assert distillation_loss(1.5 * teacher, teacher).item() == pytest.approx(0.25)
    student = draw(1, 2, 3).float().requires_grad_()
    distillation_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach() - teacher) / teacher.square().sum())


@given(st.floats(0.01, 100))
def test_distillation_loss_has_no_unit(scale):
    student, teacher = draw(0, 4).float(), draw(1, 4).float()
    loss = distillation_loss(student, teacher).item()
    assert distillation_loss(scale * student, scale * teacher).item() == pytest.approx(loss, rel=1e-4)


def test_distillation_loss_leaves_the_teacher_alone_and_survives_zeros():
    teacher = torch.ones(3, requires_grad=True)
    student = torch.zeros(3, requires_grad=True)
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    assert distillation_loss(torch.zeros(3), torch.zeros(3)) == 0


def test_feature_loss_is_the_mean_over_stages():
    teacher = [draw(0, 2, 3).float(), 100 * draw(1, 5).float()]
    student = [1.1 * teacher[0], 1.3 * teacher[1]]
    assert feature_loss(student, teacher).item() == pytest.approx((0.01 + 0.09) / 2, rel=1e-4)
    for wrong in ([], teacher[:1], [teacher[1], teacher[0]]):
        with pytest.raises(NasError, match="do not match"):
            feature_loss(wrong, teacher)


def test_training_loss_weighs_its_parts():
    output, target, teacher = (draw(seed, 2, 3).float() for seed in range(3))
    distilled, data = distillation_loss(output, teacher), data_loss(output, target)
    assert training_loss(output, target, teacher, data_weight=0.0) == distilled
    assert training_loss(output, target, teacher, data_weight=0.3) == distilled + 0.3 * data
    assert training_loss(output, target, None, data_weight=0.3) == data


def test_half_precision_is_summed_in_full():
    output = torch.full((70000,), 1.0, dtype=torch.float16)
    assert data_loss(output, 2 * output) == 1
    assert distillation_loss(output, 2 * output).item() == pytest.approx(0.25)
