from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDIMScheduler

import nas
from nas import NasError
from nas.errors import ModelError, SearchError
from nas.pipelines import load_unet
from nas.sampling import sample_latents
from nas.training import Batches, TrainingData, distil_steps
from nas.training._loop import Step
from nas.training._processes import Part
from nas.training._step_objective import StepDistillationSettings, StepObjective
from nas.unet import fold_guidance, guidance_embedding

SCHEDULER = make_scheduler()
STEPS = 4
OPTIONS = {"scheduler": SCHEDULER, "student_steps": STEPS, "steps": 1, "batch_size": 3}


def v_of(unet, z, timestep, context, w=1.0, empty=None, **options):
    """Guided v of one sample, one call for each branch."""
    with torch.no_grad():
        v = unet(z, timestep, context, **options).sample
        return v if w == 1 else empty_v(unet, z, timestep, empty) * (1 - w) + w * v


def empty_v(unet, z, timestep, empty):
    return unet(z, timestep, empty).sample


def stock_target(teacher, z, timestep, context, w, empty, scheduler=SCHEDULER):
    """The x with which one step of diffusers goes where its two steps of half the size go."""
    half = DDIMScheduler.from_config(scheduler.config)
    half.set_timesteps(2 * STEPS)
    at, place = z, timestep
    for _ in range(2):
        at = half.step(v_of(teacher, at, place, context, w, empty), place, at).prev_sample
        place -= 1000 // (2 * STEPS)
    signal = [half.alphas_cumprod[timestep], half.alphas_cumprod[place] if place >= 0 else torch.tensor(1.0)]
    (a, a2), (s, s2) = [each.sqrt() for each in signal], [(1 - each).sqrt() for each in signal]
    # at = a2 x + s2 e, z = a x + s e
    return (at - s2 / s * z) / (a2 - s2 / s * a), a, s


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_loss_is_that_of_diffusers_own_steps(small_unet, teacher, training_data, share):
    student = copy.deepcopy(small_unet)
    log = distil_steps(
        student, teacher, training_data, guided_share=share, guidance_range=(3.0, 3.0), original_share=0.5, **OPTIONS
    )
    grid = DDIMScheduler.from_config(SCHEDULER.config)
    grid.set_timesteps(STEPS)
    batch = Batches(training_data, SCHEDULER, batch_size=3, timesteps=grid.timesteps).draw(0, small_unet)
    w, empty = 3.0 if share else 1.0, training_data.empty_context
    errors, original = [], []
    for row in range(3):
        z, timestep, context = batch.noisy[row : row + 1], batch.timesteps[row].item(), batch.contexts[row : row + 1]
        assert timestep in (999, 749, 499, 249)
        target, a, s = stock_target(teacher, z, timestep, context, w, empty)
        clean = a * z - s * v_of(small_unet, z, timestep, context, w, empty)
        errors.append(max((a / s).item() ** 2, 1) * (clean - target).square().mean().item())
        original.append((v_of(small_unet, z, timestep, context) - batch.target[row]).square().mean().item())
    assert log.parts["distillation"] == pytest.approx([np.mean(errors)], rel=1e-3)
    assert log.parts["original"] == pytest.approx([np.mean(original)], rel=1e-4)
    assert log.losses == pytest.approx([1.5 * np.mean(errors)], rel=1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), small_unet.parameters(), strict=True))


class Perfect(torch.nn.Module):
    """A student that is perfect by construction: it says what leads to where two steps of diffusers lead."""

    def __init__(self, teacher, empty):
        super().__init__()
        self.config, self.one = teacher.config, torch.nn.Parameter(torch.ones(1))
        # Not a submodule: its weights are not the student's.
        self.known = [teacher, empty]

    def forward(self, z, timesteps, contexts, return_dict=False):
        teacher, empty = self.known
        rows = []
        for row in range(len(z)):
            at, timestep = z[row : row + 1], int(timesteps[row])
            target, a, s = stock_target(teacher, at, timestep, contexts[row : row + 1], 1.0, empty)
            rows.append((a * at - target) / s)
        return (self.one * torch.cat(rows),)


def test_a_student_that_lands_where_diffusers_does_has_no_loss(teacher, training_data):
    perfect = Perfect(copy.deepcopy(teacher), training_data.empty_context)
    log = distil_steps(perfect, teacher, training_data, guided_share=0.0, learning_rate=1e-12, **OPTIONS)
    itself = distil_steps(copy.deepcopy(teacher), teacher, training_data, guided_share=0.0, **OPTIONS)
    assert log.losses[0] < 1e-6 * itself.losses[0]


@pytest.mark.parametrize(("w", "fold"), [(1.0, False), (3.0, False), (3.0, True)], ids=["plain", "guided", "folded"])
def test_it_comes_closer_to_the_teachers_pictures(small_unet, training_data, w, fold):
    student = copy.deepcopy(small_unet)
    if fold:
        fold_guidance(student, width=8)
    noise, contexts = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(9)), training_data.contexts[:8]

    def pictures(network, steps):
        empty = training_data.empty_context
        return sample_latents(network, SCHEDULER, contexts, empty, noise, steps=steps, guidance_scale=w)

    wanted = pictures(small_unet, 2 * STEPS)
    before = (pictures(student, STEPS) - wanted).square().mean()
    options = {**OPTIONS, "steps": 40, "batch_size": 8, "learning_rate": 1e-3}
    guidance = {"guided_share": 0.0 if w == 1 else 1.0, "guidance_range": (3.0, 3.0)}
    distil_steps(student, small_unet, training_data, original_share=0.0, **guidance, **options)
    after = (pictures(student, STEPS) - wanted).square().mean()
    assert before > 0
    assert after < 0.7 * before


def vanilla(student, teacher, data, steps) -> list[float]:
    """The vanilla loss on batches that no training here saw."""
    options = {"scheduler": SCHEDULER, "student_steps": 8, "batch_size": 2, "seed": 77, "learning_rate": 1e-12}
    twin = copy.deepcopy(student)
    return distil_steps(twin, teacher, data, steps=steps, guided_share=0.0, original_share=0.0, **options).losses


def test_the_bundled_network_has_something_to_learn_and_learns_it():
    teacher = load_unet(nas.bundled("emoji") / "unet")
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 4, 16, 16), (16, 8, 256), (1, 8, 256))
    data = TrainingData(*(torch.randn(shape, generator=generator) for shape in shapes))
    student = copy.deepcopy(teacher)
    before = vanilla(student, teacher, data, 3)
    assert min(before) > 0
    options = {"scheduler": SCHEDULER, "student_steps": 8, "batch_size": 2, "learning_rate": 3e-5}
    log = distil_steps(student, teacher, data, steps=15, guided_share=0.0, original_share=0.0, **options)
    assert len(log.losses) == 15
    assert sum(vanilla(student, teacher, data, 3)) < sum(before)


@pytest.mark.parametrize("teacher_steps", [None, 20], ids=["two steps", "consistency"])
def test_resuming_is_exact(small_unet, teacher, training_data, tmp_path, teacher_steps):
    options = {**OPTIONS, "teacher_steps": teacher_steps, "guided_share": 0.5, "ema_decay": 0.5, "learning_rate": 1e-3}
    whole, halves, final = (copy.deepcopy(small_unet) for _ in range(3))
    expected = distil_steps(whole, teacher, training_data, **{**options, "steps": 4})
    path = tmp_path / "run.pt"
    distil_steps(halves, teacher, training_data, checkpoint=path, **{**options, "steps": 2})
    log = distil_steps(final, teacher, training_data, checkpoint=path, **{**options, "steps": 4})
    assert (log.losses, log.parts) == (expected.losses, expected.parts)
    assert all(torch.equal(a, b) for a, b in zip(final.parameters(), whole.parameters(), strict=True))
    for change in ({"student_steps": 8}, {"teacher_steps": 25}, {"guidance_range": (1.0, 3.0)}, {"balanced": True}):
        with pytest.raises(SearchError, match=next(iter(change))):
            distil_steps(final, teacher, training_data, checkpoint=path, **{**options, **change})
    other = {**options, "scheduler": make_scheduler(beta_end=0.02)}
    with pytest.raises(SearchError, match="schedule"):
        distil_steps(final, teacher, training_data, checkpoint=path, **other)


def test_unguided_samples_cost_one_evaluation(small_unet, teacher, training_data):
    counts = []
    for network in (small_unet, teacher):
        network.conv_in.register_forward_hook(lambda part, given, said: counts.append(len(given[0])))
    distil_steps(small_unet, teacher, training_data, guided_share=0.0, **OPTIONS)
    assert counts == [3, 3, 3]
    counts.clear()
    distil_steps(small_unet, teacher, training_data, guided_share=1.0, **OPTIONS)
    assert counts == [6, 6, 6]


def test_balanced_divides_by_the_gain(small_unet, teacher, training_data):
    options = {**OPTIONS, "guided_share": 1.0, "guidance_range": (3.0, 3.0), "original_share": 0.0}
    plain = distil_steps(copy.deepcopy(small_unet), teacher, training_data, **options)
    balanced = distil_steps(small_unet, teacher, training_data, balanced=True, **options)
    assert balanced.losses == pytest.approx([plain.losses[0] / (3**2 + 2**2)])


def objective(data, teacher, scheduler, **changes):
    settings = StepDistillationSettings(student_steps=STEPS, batch_size=10, **changes)
    return StepObjective(teacher, data, scheduler, settings)


@pytest.mark.parametrize(("zero_snr", "from_noise"), [(True, True), (False, True), (False, False)])
def test_the_first_step_starts_from_noise_alone(training_data, teacher, zero_snr, from_noise):
    scheduler = make_scheduler(rescale_betas_zero_snr=zero_snr)
    made = objective(training_data, teacher, scheduler, start_from_noise=from_noise)
    batch = made.batches.sample(0)
    first = batch.timesteps == 999
    assert 0 < first.sum() < len(first)
    z, from_data = made._start(batch, made._levels(batch.timesteps, like=batch.noisy))
    assert torch.equal(z[~first], batch.noisy[~first])
    signal = scheduler.alphas_cumprod[999]
    clean = signal.sqrt() * batch.noisy - (1 - signal).sqrt() * batch.target
    alone = (batch.noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
    if from_noise:
        torch.testing.assert_close(z[first], alone[first], rtol=1e-4, atol=1e-5)
    assert torch.equal(from_data, ~first if from_noise and not zero_snr else torch.ones_like(first))
    assert (zero_snr or not from_noise) == torch.allclose(z, batch.noisy)


def test_a_student_that_is_told_the_guidance_learns_the_guided_teacher(small_unet, teacher, training_data):
    fold_guidance(small_unet, width=8)
    torch.nn.init.normal_(small_unet.time_embedding.cond_proj.weight)
    options = {**OPTIONS, "guidance_range": (3.0, 3.0), "learning_rate": 1e-12}
    log = distil_steps(copy.deepcopy(small_unet), teacher, training_data, **options)
    made = objective(training_data, teacher, SCHEDULER)
    batch = made.batches.sample(0).take(slice(0, 0))
    assert len(batch.noisy) == 0
    grid = made.grid
    batch = Batches(training_data, SCHEDULER, batch_size=3, timesteps=grid).draw(0, small_unet)
    told, errors = guidance_embedding(torch.tensor([3.0]), 8), []
    for row in range(3):
        z, timestep, context = batch.noisy[row : row + 1], batch.timesteps[row].item(), batch.contexts[row : row + 1]
        target, a, s = stock_target(teacher, z, timestep, context, 3.0, training_data.empty_context)
        clean = a * z - s * v_of(small_unet, z, timestep, context, timestep_cond=told)
        errors.append(max((a / s).item() ** 2, 1) * (clean - target).square().mean().item())
    # The teacher says what v is without guidance only where w is 1, and here it is 1 nowhere.
    assert log.parts["original"] == [0]
    assert log.losses == pytest.approx([np.mean(errors)], rel=1e-3)


def test_a_teacher_that_is_told_the_guidance_is_run_once(small_unet, teacher, training_data):
    fold_guidance(teacher, width=8)
    told = []
    teacher.time_embedding.register_forward_hook(lambda part, given, said: told.append(given[1]))
    options = {**OPTIONS, "guidance_range": (3.0, 3.0), "guided_share": 1.0}
    distil_steps(small_unet, teacher, training_data, **options)
    expected = guidance_embedding(torch.full((3,), 3.0), 8)
    assert len(told) == 2
    assert all(torch.equal(each, expected) for each in told)


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"student_steps": 0}, NasError, "student_steps is 0"),
        ({"student_steps": 600}, NasError, "steps is 600"),
        ({"guided_share": 1.5}, NasError, r"guided_share is 1\.5"),
        ({"guidance_range": (3.0, 2.0)}, NasError, "low <= high"),
        ({"original_share": -1.0}, NasError, r"original_share is -1\.0"),
        ({"scheduler": make_scheduler(prediction_type="epsilon")}, ModelError, "to_v_prediction"),
    ],
)
def test_mistakes_are_named(small_unet, teacher, training_data, changes, kind, sentence):
    with pytest.raises(kind, match=sentence):
        distil_steps(small_unet, teacher, training_data, **{**OPTIONS, **changes})


def test_no_steps_do_nothing_and_a_shared_teacher_is_refused(small_unet, training_data):
    assert distil_steps(small_unet, small_unet, training_data, **{**OPTIONS, "steps": 0}).losses == []
    with pytest.raises(NasError, match="shares weights"):
        distil_steps(small_unet, small_unet, training_data, **OPTIONS)


def gradients(unet, made, parts):
    """Of the first step, taken in these parts."""
    student = copy.deepcopy(unet)
    shares = [Part(rows, (rows.stop - rows.start) / 10) for rows in parts]
    for losses_of in made(Step(0, student, student, shares, lambda values: values)):
        losses_of()["loss"].backward()
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("changes", [{}, {"guided_share": 0.5, "guidance_range": (2.0, 4.0)}], ids=["paper", "guided"])
def test_the_gradient_of_parts_is_that_of_the_whole_batch(small_unet, teacher, training_data, changes):
    """Gamma is a ratio of losses, which differs from part to part: it must be the batch's."""
    made = objective(training_data, teacher, SCHEDULER, original_share=5.0, **changes)
    whole = gradients(small_unet, made, [slice(0, 10)])
    split = gradients(small_unet, made, [slice(0, 3), slice(3, 10)])
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-5)
    # Each part with a gamma of its own is something else.
    alone = [gradients(small_unet, made, [rows]) for rows in (slice(0, 3), slice(3, 10))]
    off = sum((a + b - g).square().sum() for a, b, g in zip(*alone, whole, strict=True))
    assert off > 100 * sum((a - g).square().sum() for a, g in zip(split, whole, strict=True))


def test_gamma_of_parts_costs_a_forward_pass_and_no_other_evaluation(small_unet, teacher, training_data):
    counts = {small_unet: 0, teacher: 0}

    def count(part, given, said):
        counts[small_unet if part is small_unet.conv_in else teacher] += len(given[0])

    for network in counts:
        network.conv_in.register_forward_hook(count)
    options = {**OPTIONS, "batch_size": 4, "guided_share": 0.0, "accumulate": 2}
    distil_steps(small_unet, teacher, training_data, **options)
    assert list(counts.values()) == [8, 8]
    counts.update(dict.fromkeys(counts, 0))
    distil_steps(small_unet, teacher, training_data, original_share=0.0, **options)
    assert list(counts.values()) == [4, 8]


def test_another_end_of_the_sampling_is_another_run(small_unet, teacher, training_data, tmp_path):
    def run(network, **changes):
        schedule = make_scheduler(**changes)
        options = {**OPTIONS, "scheduler": schedule, "checkpoint": tmp_path / "run.pt"}
        distil_steps(network, teacher, training_data, **options)

    run(copy.deepcopy(small_unet), set_alpha_to_one=True)
    with pytest.raises(SearchError, match="schedule"):
        run(copy.deepcopy(small_unet), set_alpha_to_one=False)
