"""Multistep consistency distillation: a short step of the teacher, and the student's own for the rest."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import scheduler_of

from nas import NasError
from nas.sampling import sample_latents
from nas.training import Batches, StepDistillationSettings, distil_steps
from nas.training._step_objective import ConsistencyObjective, StepObjective
from nas.training.step_distillation import consistency_timesteps, guided_steps, target_of_steps, two_steps
from nas.unet import fold_guidance, guidance_embedding

SCHEDULER = make_scheduler()
STEPS, TEACHER_STEPS = 4, 20
OPTIONS = {
    "scheduler": SCHEDULER,
    "student_steps": STEPS,
    "teacher_steps": TEACHER_STEPS,
    "steps": 1,
    "batch_size": 3,
    "learning_rate": 1e-12,
}


@given(
    steps=st.integers(1, 60),
    more=st.integers(1, 200),
    spacing=st.sampled_from(["trailing", "leading", "linspace"]),
    offset=st.integers(0, 1),
    place=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_the_students_step_ends_where_diffusers_ends_it(steps, more, spacing, offset, place):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    grid = scheduler.timesteps
    timestep = round(place * grid.max().item())
    middle, end = (each.item() for each in consistency_timesteps(torch.tensor([timestep]), grid, steps + more))
    start = min(each for each in grid.tolist() if each >= timestep)
    assert end == max(start - 1000 // steps, -1)
    assert middle == max(timestep - 1000 // (steps + more), end)


MEAN, SPREAD = 0.7, 0.4


class Gaussian:
    """N(MEAN, SPREAD^2): the best denoiser is linear, and so is any walk of DDIM steps with it."""

    def __init__(self, schedule: str) -> None:
        scheduler = scheduler_of(schedule, zero_snr=True)
        scheduler.set_timesteps(STEPS)
        self.grid, self.signal = scheduler.timesteps, scheduler.alphas_cumprod

    def amplitudes(self, timestep: int) -> tuple[float, float]:
        signal = self.signal[timestep].item() if timestep >= 0 else 1.0
        return signal**0.5, (1 - signal) ** 0.5

    def teacher(self, z, timesteps, contexts):
        alpha, sigma = self.signal[timesteps].sqrt()[:, None], (1 - self.signal[timesteps]).sqrt()[:, None]
        deviation = (z - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        return alpha * sigma * deviation - sigma * (MEAN + alpha * SPREAD**2 * deviation)

    def places(self, timestep: int) -> list[int]:
        """Where the teacher's steps land, to the end of the student's."""
        end = max(min(each for each in self.grid.tolist() if each >= timestep) - 1000 // STEPS, -1)
        places = [timestep]
        while places[-1] > end:
            places.append(max(places[-1] - 1000 // TEACHER_STEPS, end))
        return places

    def slope(self, timestep: int) -> float:
        """Of the x with which one step leads where all of the teacher's lead: x = MEAN + slope (z - alpha MEAN)."""
        walk = [self.amplitudes(place) for place in self.places(timestep)]
        (a, s), (a2, s2) = walk[0], walk[-1]
        shrink = np.prod([(p * q * SPREAD**2 + r * t) / (p**2 * SPREAD**2 + r**2) for (p, r), (q, t) in pairwise(walk)])
        return (shrink - s2 / s) / (a2 - s2 / s * a)

    def student(self, z, timesteps, contexts):
        """v of that x: what consistency distillation leads to."""
        rows = []
        for row, timestep in zip(z, timesteps.tolist(), strict=True):
            alpha, sigma = self.amplitudes(timestep)
            rows.append((alpha * row - (MEAN + self.slope(timestep) * (row - alpha * MEAN))) / sigma)
        return torch.stack(rows)


@pytest.mark.parametrize("schedule", ["stable diffusion", "cosine"])
def test_the_student_that_walks_with_the_teacher_is_the_fixed_point(schedule):
    case = Gaussian(schedule)
    timesteps = torch.tensor([999, 998, 760, 749, 600, 502, 300, 260, 249, 120, 51, 50, 49, 3])
    z = torch.randn(len(timesteps), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    contexts = torch.zeros(len(timesteps), 1, 1)
    places = consistency_timesteps(timesteps, case.grid, TEACHER_STEPS)
    levels = two_steps(case.signal, timesteps, *places, like=z)
    steps = [guided_steps(each, contexts) for each in (case.teacher, case.student)]
    target = target_of_steps(*steps, z, levels)
    alphas = torch.tensor([[case.amplitudes(timestep)[0]] for timestep in timesteps.tolist()])
    slopes = torch.tensor([[case.slope(timestep)] for timestep in timesteps.tolist()])
    torch.testing.assert_close(target, MEAN + slopes * (z - alphas * MEAN))
    # It differs from the teacher's own x, so that there is something to learn.
    itself = target_of_steps(steps[0], steps[0], z, levels)
    assert (itself - target).abs().max() > 1e-3


def by_hand(teacher, student, z, timestep, context, w, empty, told=None):
    """x of the teacher's step and the student's rest, as formulas."""

    def amplitudes(place):
        signal = SCHEDULER.alphas_cumprod[place].item() if place >= 0 else 1.0
        return signal**0.5, (1 - signal) ** 0.5

    def step(network, at, start, end, **options):
        (a, s), (a2, s2) = amplitudes(start), amplitudes(end)
        with torch.no_grad():
            v = network(at, start, context, **options).sample
            if not options and w != 1:
                v = w * v + (1 - w) * network(at, start, empty).sample
        return a2 * (a * at - s * v) + s2 * (s * at + a * v)

    end = max(min(each for each in (999, 749, 499, 249) if each >= timestep) - 250, -1)
    middle = max(timestep - 50, end)
    at = step(teacher, z, timestep, middle)
    if middle > end:
        at = step(student, at, middle, end, **({} if told is None else {"timestep_cond": told}))
    (a, s), (a2, s2) = amplitudes(timestep), amplitudes(end)
    return (at - s2 / s * z) / (a2 - s2 / s * a), a, s


@pytest.mark.parametrize("w", [1.0, 3.0])
@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
def test_the_loss_is_that_of_the_formulas(small_unet, teacher, training_data, w, fold):
    told = None
    if fold:
        fold_guidance(small_unet, width=8)
        torch.nn.init.normal_(small_unet.time_embedding.cond_proj.weight)
        told = guidance_embedding(torch.tensor([w]), 8)
    guidance = {"guided_share": float(w != 1), "guidance_range": (3.0, 3.0), "start_from_noise": False}
    student = copy.deepcopy(small_unet)
    log = distil_steps(student, teacher, training_data, original_share=0.0, **guidance, **OPTIONS)
    batch = Batches(training_data, SCHEDULER, batch_size=3, timesteps=torch.arange(1000)).draw(0, small_unet)
    assert not set(batch.timesteps.tolist()) <= {999, 749, 499, 249}
    empty, errors = training_data.empty_context, []
    for row in range(3):
        z, timestep, context = batch.noisy[row : row + 1], batch.timesteps[row].item(), batch.contexts[row : row + 1]
        target, a, s = by_hand(teacher, small_unet, z, timestep, context, w, empty, told)
        with torch.no_grad():
            v = small_unet(z, timestep, context, **({"timestep_cond": told} if fold else {})).sample
            if w != 1 and not fold:
                v = w * v + (1 - w) * small_unet(z, timestep, empty).sample
        errors.append(max((a / s) ** 2, 1) * (a * z - s * v - target).square().mean().item())
    assert log.losses == pytest.approx([np.mean(errors)], rel=1e-3)


@pytest.mark.parametrize("teacher_steps", [None, 64], ids=["two steps", "consistency"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("to_one", [False, True])
def test_every_timestep_that_is_drawn_can_be_learned_at(
    small_unet, teacher, training_data, teacher_steps, spacing, to_one
):
    """Stable Diffusion's schedules end at the noise of timestep 0, from where a step then leads nowhere."""
    scheduler = make_scheduler(set_alpha_to_one=to_one, timestep_spacing=spacing, steps_offset=0)
    settings = StepDistillationSettings(student_steps=STEPS, teacher_steps=teacher_steps)
    make = StepObjective if teacher_steps is None else ConsistencyObjective
    drawn = make(teacher, training_data, scheduler, settings).batches.timesteps
    assert (0 in drawn) == (to_one and (teacher_steps is not None or spacing == "leading"))
    options = {"scheduler": scheduler, "student_steps": STEPS, "teacher_steps": teacher_steps}
    log = distil_steps(small_unet, teacher, training_data, **options, steps=2, batch_size=10, seed=53)
    assert np.isfinite(log.losses).all()


@pytest.mark.parametrize("teacher_steps", [None, 64], ids=["two steps", "consistency"])
def test_a_grid_from_where_no_step_leads_anywhere_is_refused(small_unet, teacher, training_data, teacher_steps):
    scheduler = make_scheduler(set_alpha_to_one=False, timestep_spacing="leading", steps_offset=0)
    options = {"scheduler": scheduler, "student_steps": 1, "teacher_steps": teacher_steps, "steps": 1}
    with pytest.raises(NasError, match=r"timesteps \[0\] none has a step"):
        distil_steps(small_unet, teacher, training_data, **options)


def test_it_comes_closer_to_the_pictures_of_many_steps(small_unet, training_data):
    student = copy.deepcopy(small_unet)
    noise, contexts = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(9)), training_data.contexts[:8]

    def pictures(network, steps):
        return sample_latents(
            network, SCHEDULER, contexts, training_data.empty_context, noise, steps=steps, guidance_scale=1.0
        )

    wanted = pictures(small_unet, TEACHER_STEPS)
    before = (pictures(student, STEPS) - wanted).square().mean()
    options = {**OPTIONS, "steps": 200, "batch_size": 8, "learning_rate": 1e-3}
    distil_steps(student, small_unet, training_data, original_share=0.0, guided_share=0.0, **options)
    assert (pictures(student, STEPS) - wanted).square().mean() < 0.7 * before


@pytest.mark.parametrize("teacher_steps", [0, STEPS, 1001, 2.5])
def test_mistakes_are_named(small_unet, teacher, training_data, teacher_steps):
    with pytest.raises(NasError, match=f"teacher_steps is {teacher_steps}"):
        distil_steps(small_unet, teacher, training_data, **{**OPTIONS, "teacher_steps": teacher_steps})
