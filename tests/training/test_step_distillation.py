from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedules import SCHEDULES, levels_of, scheduler_of

from nas import NasError
from nas.training.losses import noise_from_v, noisy, v_target
from nas.training.step_distillation import (
    both_branches,
    cfg_aware_loss,
    ddim_step,
    draw_guidance,
    guidance_gain,
    guided,
    moves,
    plain_and_guided,
    step_loss,
    step_timesteps,
    teacher_target,
    total_loss,
    truncated_snr,
    two_step_target,
    two_steps,
    v_from_noise,
    vanilla_loss,
)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wavy(z, timesteps, contexts):
    """A network that is anything but linear."""
    places = timesteps.view(-1, *[1] * (z.ndim - 1)) / 100
    return torch.sin(3 * z + places) + contexts.mean(dim=(1, 2)).view(places.shape) * z


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.booleans(),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([1.0, 2.0, 7.5]),
)
def test_one_step_of_the_student_lands_where_two_of_diffusers_do(schedule, zero, to_one, steps, stride, where, w):
    total = 2 * steps * stride
    scheduler = scheduler_of(schedule, zero_snr=zero, total=total, set_alpha_to_one=to_one)
    start = stride + round(where * (total - 1 - stride))
    z, contexts, empty = draw(0, 1, 4, 3, 3), draw(1, 1, 5, 2), draw(2, 1, 5, 2)
    levels = levels_of(scheduler, [start], steps, z)
    assume(levels.end.alpha > levels.start.alpha)

    def teacher(latents, timestep):
        at = torch.tensor([timestep])
        return w * wavy(latents, at, contexts) - (w - 1) * wavy(latents, at, empty)

    scheduler.set_timesteps(2 * steps)
    middle = scheduler.step(teacher(z, start), start, z).prev_sample
    landed = scheduler.step(teacher(middle, start - stride), start - stride, middle).prev_sample

    target = teacher_target(wavy, z, levels, contexts, empty=empty, guidance=w)
    torch.testing.assert_close(target, two_step_target(z, landed, levels.start, levels.end), rtol=1e-6, atol=1e-6)
    # The student's v that says x* at z, walked by diffusers in half as many steps.
    v = (levels.start.alpha * z - target) / levels.start.sigma
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(scheduler.step(v, start, z).prev_sample, landed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ddim_step(z, v, levels.start, levels.end), landed, rtol=1e-6, atol=1e-6)
    assert step_loss(z, v, target, levels.start).item() == pytest.approx(0, abs=1e-12)


@given(st.floats(0.02, 0.98), st.integers(0, 2**31))
def test_the_loss_is_one_of_v_with_a_weight_between_a_half_and_one(signal, seed):
    schedule = torch.tensor([1 - signal / 1e3, signal**0.5, signal], dtype=torch.float64)
    z, v, wanted = draw(seed, 2, 3), draw(seed + 1, 2, 3), draw(seed + 2, 2, 3)
    levels = two_steps(schedule, *(torch.tensor([place, place]) for place in (2, 1, -1)), like=z)
    target = levels.start.alpha * z - levels.start.sigma * wanted
    expected = max(signal, 1 - signal) * (v - wanted).square().mean()
    torch.testing.assert_close(step_loss(z, v, target, levels.start), expected)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("steps", [2, 8, 16])
def test_from_the_first_timestep_one_step_is_all_there_is(spacing, steps):
    """Grids of these spacings contain timestep 0, as diffusers has them by default."""
    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps[-1] == 0
    middle, end = step_timesteps(scheduler.timesteps, steps)
    levels = two_steps(
        scheduler.alphas_cumprod, scheduler.timesteps, middle, end, like=scheduler.timesteps[:, None].float()
    )
    assert (middle[-1], end[-1]) == (-1, -1)
    assert ((middle > end) | (scheduler.timesteps == 0)).all()
    assert torch.isfinite(two_step_target(torch.ones(1), torch.ones(1), levels.start, levels.end)).all()


def test_a_step_that_stands_still_is_refused_by_name():
    alphas = DDIMScheduler(set_alpha_to_one=False).alphas_cumprod
    places = [torch.tensor(each) for each in ([125, 0], [62, -1], [0, -1])]
    assert moves(alphas, places[0], places[2], final=alphas[0]).tolist() == [True, False]
    with pytest.raises(NasError, match=r"from \[0\] to \[-1\] ends where it starts"):
        two_steps(alphas, *places, like=torch.zeros(2, 1), final=alphas[0])


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 8, 16, 32])
def test_steps_land_where_diffusers_goes_on(spacing, steps):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    middle, end = step_timesteps(scheduler.timesteps, steps)
    assert ((scheduler.timesteps > middle) & (middle > end) & (middle >= 0)).all()
    # Where the steps do not divide the timesteps, diffusers lands within a timestep of where it goes on.
    assert (end[:-1] - scheduler.timesteps[1:]).abs().max() <= 1 if steps > 1 else end.tolist() == [-1]
    assert end[-1] == -1
    assert (timesteps_apart := (scheduler.timesteps - middle)[:-1]).tolist() == [1000 // steps // 2] * len(
        timesteps_apart
    )


# t = 1


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noisiest_level_is_finite(schedule, zero, dtype):
    scheduler = scheduler_of(schedule, zero_snr=zero)
    z = draw(0, 2, 4, 3, 3).to(dtype)
    scheduler.set_timesteps(8)
    assert scheduler.timesteps[0] == 999
    levels = levels_of(scheduler, [999, 999], 8, z)
    assert (levels.start.alpha == 0).all() == zero
    assert truncated_snr(levels.start).flatten().tolist() == [1, 1]
    contexts, empty, weight = draw(1, 2, 5, 2).to(dtype), draw(2, 1, 5, 2).to(dtype), torch.ones(1, requires_grad=True)

    def student(z, timesteps, contexts):
        return weight.to(z.dtype) * wavy(z, timesteps, contexts)

    loss = cfg_aware_loss(student, wavy, z, levels, contexts, empty, torch.tensor([1.0, 9.0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0
    assert weight.grad.isfinite().all()
    assert weight.grad.abs() > 0


def test_where_there_is_no_signal_the_teacher_is_told_as_is():
    scheduler = scheduler_of("stable diffusion", zero_snr=True)
    z = draw(0, 1, 3)
    levels = levels_of(scheduler, [999], 8, z)
    clean = draw(1, 1, 3)
    # A teacher that knows the picture: v is -x at alpha = 0.
    said = {999: -clean, 937: v_target(clean, z, levels.middle.alpha, levels.middle.sigma)}
    target = teacher_target(lambda z, t, c: said[int(t)], z, levels, torch.zeros(1, 1, 1))
    torch.testing.assert_close(target, clean)


# A network that predicts noise


def test_predicted_noise_as_v():
    scheduler = scheduler_of("stable diffusion")
    clean, noise = draw(0, 3, 4), draw(1, 3, 4)
    level = levels_of(scheduler, [999, 500, 125], 8, clean).start
    z = noisy(clean, noise, level.alpha, level.sigma)
    v = v_from_noise(z, noise, level)
    torch.testing.assert_close(v, v_target(clean, noise, level.alpha, level.sigma))
    torch.testing.assert_close(noise_from_v(z, v, level.alpha, level.sigma), noise)


def test_predicted_noise_says_nothing_without_signal():
    z = draw(0, 2, 4)
    level = levels_of(scheduler_of("linear", zero_snr=True), [500, 999], 8, z).start
    with pytest.raises(NasError, match="timestep 999"):
        v_from_noise(z, z, level)


# Guidance and the parts


def test_guidance_of_each_sample():
    with_context, without = draw(0, 3, 2, 2), draw(1, 3, 2, 2)
    expected = torch.stack([with_context[0], 2 * with_context[1] - without[1], 5 * with_context[2] - 4 * without[2]])
    torch.testing.assert_close(guided(with_context, without, torch.tensor([1.0, 2.0, 5.0])), expected)
    torch.testing.assert_close(guided(with_context, without, 2.0)[1], expected[1])
    with pytest.raises(NasError, match=r"shape \[2\]; give a number or \[3\]"):
        guided(with_context, without, torch.ones(2))


def test_guidance_of_half_precision_outputs_is_computed_in_full():
    with_context, without = draw(0, 4, 8).bfloat16(), draw(1, 4, 8).bfloat16()
    w = torch.tensor([1.0, 2.3, 7.3, 13.9], dtype=torch.float64)
    expected = without.double() + w[:, None] * (with_context.double() - without.double())
    found = guided(with_context, without, w)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_branches_are_told_their_own_contexts():
    z, timesteps, contexts, empty = draw(0, 2, 3), torch.tensor([5, 9]), draw(1, 2, 4, 2), draw(2, 1, 4, 2)
    found = both_branches(wavy, z, timesteps, contexts, empty)
    torch.testing.assert_close(found[0], wavy(z, timesteps, contexts))
    torch.testing.assert_close(found[1], wavy(z, timesteps, empty.expand(2, 4, 2)))


def test_guidance_of_one_is_the_vanilla_loss():
    z, contexts, empty = draw(0, 2, 4, 3, 3), draw(1, 2, 5, 2), draw(2, 1, 5, 2)
    levels = levels_of(scheduler_of("linear"), [999, 374], 8, z)
    losses = [
        cfg_aware_loss(torch_negative, wavy, z, levels, contexts, empty, w, balanced=balanced)
        for w in (1.0, torch.ones(2))
        for balanced in (False, True)
    ]
    for loss in losses:
        torch.testing.assert_close(loss, vanilla_loss(torch_negative, wavy, z, levels, contexts))


def torch_negative(z, timesteps, contexts):
    return -wavy(z, timesteps, contexts)


def test_samples_of_one_batch_do_not_mix():
    z, contexts, empty = draw(0, 3, 4, 3, 3), draw(1, 3, 5, 2), draw(2, 1, 5, 2)
    scheduler, places, w = scheduler_of("linear"), [999, 374, 124], torch.tensor([1.0, 3.0, 12.0])
    for balanced in (False, True):
        whole = cfg_aware_loss(
            torch_negative, wavy, z, levels_of(scheduler, places, 8, z), contexts, empty, w, balanced=balanced
        )
        parts = [
            cfg_aware_loss(
                torch_negative,
                wavy,
                z[i : i + 1],
                levels_of(scheduler, places[i : i + 1], 8, z),
                contexts[i : i + 1],
                empty,
                w[i].item(),
                balanced=balanced,
            )
            for i in range(3)
        ]
        torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_a_unet_learns_and_its_teacher_is_left_alone(small_unet):
    teacher, empty, w = copy.deepcopy(small_unet), draw(2, 1, 5, 12).float(), torch.tensor([1.0, 5.0])
    z, contexts = draw(0, 2, 4, 8, 8).float(), draw(1, 2, 5, 12).float()
    levels = levels_of(scheduler_of("stable diffusion"), [999, 124], 8, z)
    predict_student, predict_teacher = (
        lambda z, timesteps, contexts, unet=unet: unet(z, timesteps, contexts, return_dict=False)[0]
        for unet in (small_unet, teacher)
    )
    loss = cfg_aware_loss(predict_student, predict_teacher, z, levels, contexts, empty, w)
    loss.backward()
    # A step of the teacher itself is not yet two of them.
    assert loss > 0
    assert all(parameter.grad is not None for parameter in small_unet.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_guidance_is_drawn_as_asked():
    drawn = draw_guidance(20000, generator=torch.Generator().manual_seed(0))
    is_guided = drawn != 1
    assert is_guided.double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert drawn[is_guided].min() >= 2
    assert drawn[is_guided].max() <= 14
    assert drawn[is_guided].mean().item() == pytest.approx(8, abs=0.3)
    # The closed form of what a guided sample weighs on average, by which large w outweigh the vanilla loss.
    assert guidance_gain(drawn[is_guided]).mean().item() == pytest.approx(137, rel=0.05)
    for wrong in ({"share": 1.5}, {"between": (3.0, 2.0)}, {"between": (0.0, 2.0)}):
        with pytest.raises(NasError, match="must be"):
            draw_guidance(1, generator=torch.Generator(), **wrong)


def test_gamma_is_dynamic_and_has_no_gradient():
    weight = torch.tensor(2.0, requires_grad=True)
    distillation, original = weight**2, 10 * weight
    total = total_loss(distillation, original)
    total.backward()
    assert total.item() == pytest.approx(1.2 * 4)
    assert weight.grad.item() == pytest.approx(4 + 0.2 * 4 / 20 * 10)
    assert total_loss(distillation, 0 * original).item() == 4
    assert total_loss(distillation, original, share=0.0) == distillation
    with pytest.raises(NasError, match="negative"):
        total_loss(distillation, original, share=-1.0)


def test_mistakes_are_named():
    z, contexts = draw(0, 1, 3), torch.zeros(1, 1, 1)
    schedule = scheduler_of("linear").alphas_cumprod
    for places in ((5, 5, 3), (5, 3, 4), (1000, 5, 3), (5, -1, -2)):
        with pytest.raises(NasError, match="do not descend"):
            two_steps(schedule, *(torch.tensor([place]) for place in places), like=z)
    with pytest.raises(NasError, match="steps is 501"):
        step_timesteps(torch.tensor([999]), 501)
    levels = two_steps(schedule, *(torch.tensor([place]) for place in (9, 5, -1)), like=z)
    with pytest.raises(NasError, match="give empty="):
        teacher_target(wavy, z, levels, contexts, guidance=2.0)


@pytest.mark.parametrize("w", [[1.0, 3.0, 1.0, 7.5], [2.0] * 4, [1.0] * 4])
def test_samples_without_guidance_are_evaluated_once(w):
    counts = []

    def counting(z, timesteps, contexts):
        counts.append(len(z))
        return wavy(z, timesteps, contexts)

    z, contexts, empty, places = (
        draw(0, 4, 4, 3, 3),
        draw(1, 4, 5, 2),
        draw(2, 1, 5, 2),
        torch.tensor([9, 99, 499, 999]),
    )
    w = torch.tensor(w, dtype=torch.float64)
    plain, led = plain_and_guided(counting, z, places, contexts, empty, w)
    assert counts == [4 + (w != 1).sum().item()]
    branches = both_branches(wavy, z, places, contexts, empty)
    torch.testing.assert_close(plain, branches[0])
    torch.testing.assert_close(led, guided(*branches, w))
    for wrong in (torch.ones(3), torch.full((5,), 2.0)):
        with pytest.raises(NasError, match=r"give a number or \[4\]"):
            plain_and_guided(wavy, z, places, contexts, empty, wrong)


def test_the_gradient_goes_through_both_branches():
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z, contexts, empty, places = draw(0, 2, 4, 3, 3), draw(1, 2, 5, 2), draw(2, 1, 5, 2), torch.tensor([9, 99])

    def student(z, timesteps, contexts):
        return scale * wavy(z, timesteps, contexts)

    _, led = plain_and_guided(student, z, places, contexts, empty, torch.tensor([1.0, 4.0]))
    led.sum().backward()
    with torch.no_grad():
        expected = guided(*both_branches(wavy, z, places, contexts, empty), torch.tensor([1.0, 4.0])).sum()
    torch.testing.assert_close(scale.grad, expected)
