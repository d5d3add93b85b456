"""Step distillation as pure functions of tensors: two steps of a teacher become one step of a student.

The losses of SnapFusion (https://arxiv.org/abs/2306.00980), which build on progressive distillation
(https://arxiv.org/abs/2202.00512) and on the distillation of guided models (https://arxiv.org/abs/2210.03142). A network
enters only as a callable `predict(z, timesteps, contexts) -> v`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nas.errors import NasError
from nas.training.losses import clean_from_v, data_loss, noise_from_v, v_target

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(z, timesteps, contexts) -> v`: latents `[b x ...]`, timesteps `[b]`, contexts `[b x l x d]`; v like z."""
PredictGuided = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`predict(z, timesteps, contexts, guidance) -> v`: the same for a network that is told the guidance `[b]`."""

GUIDANCE_RANGE = (2.0, 14.0)
GUIDED_SHARE = 0.1
ORIGINAL_SHARE = 0.2


class Level(NamedTuple):
    """A noise level of each sample.

    Attributes:
        timesteps: `[b]`, as the network is told them; below 0 for the end of sampling.
        alpha: amplitude of the signal `[b x 1 x ...]`.
        sigma: amplitude of the noise `[b x 1 x ...]`.
    """

    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor


class TwoSteps(NamedTuple):
    """The noise levels that the teacher walks through in two steps and the student in one."""

    start: Level
    middle: Level
    end: Level


def step_timesteps(timesteps: Tensor, steps: int, *, total: int = 1000) -> tuple[Tensor, Tensor]:
    """Where the teacher's two steps land if the student samples in `steps` steps from `total` training timesteps.

    As `DDIMScheduler.step` counts them, whatever the spacing: the student lands `total // steps` lower; a timestep
    below 0 is the end of sampling.

    Args:
        timesteps: of the student `[b]`, on its own grid (`scheduler.set_timesteps(steps)`) or anywhere.

    Returns:
        Middle and end `[b]`.

    Raises:
        NasError: there is no timestep between start and end.
    """
    if not 1 <= steps <= total // 2:
        raise NasError(f"steps is {steps}; two teacher steps in one of a student need from 1 to {total // 2} steps")
    stride = total // steps
    # At the last step the end lies below 0 and so may the middle; the teacher must still make two steps of it.
    end = (timesteps - stride).clamp_min(-1)
    middle = torch.maximum(timesteps - stride // 2, end + 1)
    return middle, end


def two_steps(
    alphas_cumprod: Tensor, timesteps: Tensor, middle: Tensor, end: Tensor, *, like: Tensor, final: float | Tensor = 1.0
) -> TwoSteps:
    """Noise levels at t > t' > t'', shaped to multiply `like` `[b x ...]`, in float32 or better.

    Args:
        alphas_cumprod: squared signal amplitudes of the schedule `[n]`.
        timesteps: t `[b]`.
        middle: t' `[b]`.
        end: t'' `[b]`, below 0 for the end of sampling.
        like: the latents.
        final: squared signal amplitude at the end of sampling, a scheduler's `final_alpha_cumprod`.

    Raises:
        NasError: timesteps that do not descend or are not of the schedule.
    """
    if not bool(((timesteps > middle) & (middle > end) & (middle >= 0) & (timesteps < len(alphas_cumprod))).all()):
        raise NasError(
            f"timesteps {_few(timesteps)}, {_few(middle)}, {_few(end)} do not descend within the schedule's "
            f"{len(alphas_cumprod)}; only the last may lie below 0"
        )
    return TwoSteps(*(_level(alphas_cumprod, place, like, final) for place in (timesteps, middle, end)))


def _level(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor, final: float | Tensor) -> Level:
    dtype = torch.promote_types(like.dtype, torch.float32)
    signal = alphas_cumprod.to(like.device, dtype)[timesteps.to(like.device).clamp_min(0)]
    signal = torch.where(timesteps.to(like.device) < 0, torch.as_tensor(final, device=like.device, dtype=dtype), signal)
    signal = signal.view(-1, *[1] * (like.ndim - 1))
    return Level(timesteps, signal.sqrt(), (1 - signal).sqrt())


def _few(timesteps: Tensor) -> list[int]:
    return timesteps.flatten()[:3].tolist()


def guided(with_context: Tensor, without: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance w o(c) - (w - 1) o(0) of outputs `[b x ...]`; w = 1 is none.

    It is the same for e, v and x, which are linear in one another at a given z.

    Args:
        with_context: outputs with the text's context.
        without: outputs with the empty text's.
        guidance: w, a number or one for each sample `[b]`.

    Raises:
        NasError: w is neither.
    """
    if isinstance(guidance, Tensor) and guidance.ndim:
        if guidance.shape != with_context.shape[:1]:
            raise NasError(f"guidance has shape {list(guidance.shape)}; give a number or [{len(with_context)}]")
        guidance = guidance.to(with_context).view(-1, *[1] * (with_context.ndim - 1))
    return guidance * with_context - (guidance - 1) * without


def both_branches(
    predict: Predict, z: Tensor, timesteps: Tensor, contexts: Tensor, empty: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs with the contexts `[b x l x d]` and with the empty text's `[1 x l x d]`, in one call of twice the batch."""
    both = torch.cat([contexts, empty.expand_as(contexts)])
    said = predict(torch.cat([z, z]), torch.cat([timesteps, timesteps]), both)
    with_context, without = said.chunk(2)
    return with_context, without


def ddim_step(z: Tensor, v: Tensor, start: Level, end: Level) -> Tensor:
    """One deterministic DDIM step in v (https://arxiv.org/abs/2010.02502): alpha' x + sigma' e, x and e of z and v."""
    clean = clean_from_v(z, v, start.alpha, start.sigma)
    return end.alpha * clean + end.sigma * noise_from_v(z, v, start.alpha, start.sigma)


def two_step_target(z: Tensor, landed: Tensor, start: Level, end: Level) -> Tensor:
    """The x with which one DDIM step goes from z to where two steps `landed` `[b x ...]`.

    x* = (z'' - (sigma''/sigma) z) / (alpha'' - (sigma''/sigma) alpha). Finite wherever the end is less noisy than the
    start, alpha = 0 included, for sigma is not 0 there.
    """
    ratio = end.sigma / start.sigma
    return (landed - ratio * z) / (end.alpha - ratio * start.alpha)


@torch.no_grad()
def teacher_target(
    teacher: Predict,
    z: Tensor,
    steps: TwoSteps,
    contexts: Tensor,
    *,
    empty: Tensor | None = None,
    guidance: float | Tensor = 1.0,
) -> Tensor:
    """x* `[b x ...]` of two teacher steps from z, each guided by w; no gradient.

    Args:
        teacher: the network of more steps.
        z: latents at the start.
        steps: the three noise levels.
        contexts: `[b x l x d]`.
        empty: the empty text's context `[1 x l x d]`, which guidance needs.
        guidance: w, a number or one for each sample `[b]`; 1.0 costs one evaluation a step, not two.

    Raises:
        NasError: guidance without the empty text's context.
    """
    at = z
    for start, end in (steps[:2], steps[1:]):
        v = _guided_v(teacher, at.to(z.dtype), start.timesteps, contexts, empty, guidance)
        at = ddim_step(at, v, start, end)
    return two_step_target(z, at, steps.start, steps.end)


def _guided_v(
    predict: Predict, z: Tensor, timesteps: Tensor, contexts: Tensor, empty: Tensor | None, guidance: float | Tensor
) -> Tensor:
    if not isinstance(guidance, Tensor) and guidance == 1:
        return predict(z, timesteps, contexts)
    if empty is None:
        raise NasError("guidance needs the context of the empty text: give empty=")
    return guided(*both_branches(predict, z, timesteps, contexts, empty), guidance)


def truncated_snr(level: Level) -> Tensor:
    """The weight max(alpha^2 / sigma^2, 1) of a squared error in x, shaped like the amplitudes; 1 where alpha = 0."""
    return (level.alpha / level.sigma).square().clamp_min(1)


def step_loss(z: Tensor, v: Tensor, target: Tensor, start: Level) -> Tensor:
    """max(alpha^2 / sigma^2, 1) (x - x*)^2, the mean over everything, where x is what the student's v says of z."""
    error = clean_from_v(z, v, start.alpha, start.sigma) - target
    return (truncated_snr(start) * error.square()).mean()


def vanilla_loss(student: Predict, teacher: Predict, z: Tensor, steps: TwoSteps, contexts: Tensor) -> Tensor:
    """The student's one step against the teacher's two, neither guided."""
    v = student(z, steps.start.timesteps, contexts)
    return step_loss(z, v, teacher_target(teacher, z, steps, contexts), steps.start)


def cfg_aware_loss(
    student: Predict,
    teacher: Predict,
    z: Tensor,
    steps: TwoSteps,
    contexts: Tensor,
    empty: Tensor,
    guidance: float | Tensor,
) -> Tensor:
    """The student's one guided step against the teacher's two, all guided by the same w; the vanilla loss where w = 1.

    The gradient goes through both branches of the student. So a loss that is vanilla for some samples and guided for
    others is this one with w = 1 for some, as `draw_guidance` gives them.

    Args:
        student: the network that learns.
        teacher: the network of twice the steps.
        z: noisy latents `[b x ...]`.
        steps: the three noise levels.
        contexts: `[b x l x d]`.
        empty: the empty text's context `[1 x l x d]`.
        guidance: w, a number or one for each sample `[b]`.
    """
    v = _guided_v(student, z, steps.start.timesteps, contexts, empty, guidance)
    return step_loss(z, v, teacher_target(teacher, z, steps, contexts, empty=empty, guidance=guidance), steps.start)


def folded_loss(
    student: PredictGuided,
    teacher: Predict,
    z: Tensor,
    steps: TwoSteps,
    contexts: Tensor,
    empty: Tensor,
    guidance: Tensor,
) -> Tensor:
    """Guidance folded into one pass: the student is told w and makes of it, in one evaluation, two guided steps.

    Not in SnapFusion; https://arxiv.org/abs/2210.03142 folds guidance and halves the steps one after the other.

    Args:
        student: a network that takes w `[b]` besides.
        teacher: the network of twice the steps, guided from outside.
        z: noisy latents `[b x ...]`.
        steps: the three noise levels.
        contexts: `[b x l x d]`.
        empty: the empty text's context `[1 x l x d]`.
        guidance: w of each sample `[b]`.
    """
    v = student(z, steps.start.timesteps, contexts, guidance)
    return step_loss(z, v, teacher_target(teacher, z, steps, contexts, empty=empty, guidance=guidance), steps.start)


def draw_guidance(
    count: int,
    *,
    generator: torch.Generator,
    share: float = GUIDED_SHARE,
    between: tuple[float, float] = GUIDANCE_RANGE,
) -> Tensor:
    """Guidance for each of `count` samples: with probability `share` uniform in a range, else 1, the vanilla loss.

    Raises:
        NasError: a share that is no probability, or a range that is none.
    """
    low, high = between
    if not 0 <= share <= 1 or not 1 <= low <= high:
        raise NasError(f"share {share} must be from 0 to 1, and of the range {between} 1 <= low <= high")
    drawn = low + (high - low) * torch.rand(count, generator=generator)
    is_guided = torch.rand(count, generator=generator) < share
    return torch.where(is_guided, drawn, torch.ones(count))


def original_loss(v: Tensor, clean: Tensor, noise: Tensor, start: Level) -> Tensor:
    """L_ori: the mean squared error of the unguided v at z = alpha x + sigma e against v = alpha e - sigma x."""
    return data_loss(v, v_target(clean, noise, start.alpha, start.sigma))


def total_loss(distillation: Tensor, original: Tensor, *, share: float = ORIGINAL_SHARE) -> Tensor:
    """L_dstl + gamma L_ori; gamma is `share` times the detached ratio L_dstl / L_ori, so both pull in proportion.

    The value is therefore always (1 + share) L_dstl: log the parts. Where the student reaches its target, gamma is 0
    and L_ori does not move it away.

    Raises:
        NasError: a negative share.
    """
    if share < 0:
        raise NasError(f"share is {share}; it must not be negative")
    known = original.detach()
    gamma = share * torch.where(known > 0, distillation.detach() / known, torch.zeros_like(known))
    return distillation + gamma * original


def v_from_noise(z: Tensor, noise: Tensor, level: Level) -> Tensor:
    """The v that says the same as a predicted noise e: (e - sigma z) / alpha.

    What a network with e-prediction, on its way to v-prediction, is taken for; its error grows by 1 / alpha.

    Raises:
        NasError: alpha is 0 (the last timestep of a schedule with zero SNR), where a predicted noise says nothing of x.
    """
    if bool((level.alpha == 0).any()):
        raise NasError(
            "a network that predicts noise cannot be converted where alpha is 0 (timestep "
            f"{_few(level.timesteps[level.alpha.flatten() == 0])[0]}); teach v by the data there, or use the schedule "
            "without rescale_betas_zero_snr"
        )
    return (noise - level.sigma * z) / level.alpha
