"""Step distillation as pure functions of tensors: two steps of a teacher become one step of a student.

The losses of SnapFusion (https://arxiv.org/abs/2306.00980), which build on progressive distillation
(https://arxiv.org/abs/2202.00512) and on the distillation of guided models (https://arxiv.org/abs/2210.03142). A
network enters only as a callable `predict(z, timesteps, contexts) -> v`.

What the CFG-aware loss needs, which the paper does not say. Found on two Gaussians on a line, one for each text, where
the teacher is known; 16 steps of it into 8. Figures are the root mean square distance of the guided student's pictures
to the guided teacher's, from `python benchmarks/guided_step_distillation.py --seeds 2`. "At best" is a loss's exact
optimum at every z, for a network of any size; "trained" are small networks. Undistilled: 0.049 at w 2.5, 0.064 at 7.5.

- The branch without a text must be taught as well: in the vanilla loss some contexts must be the empty text's. Where
  that branch still makes one step and the other makes two, guidance multiplies the difference: at best 1.242 at w 7.5,
  instead of 0.034; trained 0.711, instead of 0.199.
- Only a combination of both branches is taught, so one w alone leaves them open: without empty contexts a student of w
  7.5 (the one of least norm) is exact there and off by 1.015 at w 2.5. Empty contexts settle it, or a range of w.
- A guided output is a straight line in w and two guided steps are not, so two branches cannot meet the target at every
  w. A guided sample's squared error weighs w^2 + (w - 1)^2 times a branch's, 137 on average over the paper's range, so
  even with p = 0.1 the large w decide. At best 0.007 at w 7.5, where vanilla has 0.034; but 0.071 at w 2.5 (vanilla
  0.014) and 0.307 without guidance (0). So let w range over what will be sampled with: w from 1 to 4 and p = 0.9 give
  0.005 at w 2.5. `balanced=True` divides by that weight: with p = 0.9 at best 0.039 at w 2.5 and 0.011 at w 7.5.
- For the same reason the draws must be per sample. Vanilla or guided drawn per step, the rare guided step has so large
  a gradient that training suffers: at w 7.5 trained 0.412, with w per step too 0.627, per sample 0.111.
- The gradient may go through both branches or only through the one with the text, where the other is taught by empty
  contexts: trained 0.111 and 0.141 at w 7.5.
- Guided sampling leads where noisy data do not lie. Trained on pictures of the guided teacher instead of on data: 0.034
  at w 7.5, not 0.111. Only so did trained students come below the undistilled there.
- A student that is told w (`folded_loss`) has no straight line to keep to and one evaluation a step, but more to learn:
  trained twice as long and twice as wide, on the teacher's pictures, 0.032 at w 2.5 and 0.056 at w 7.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.errors import NasError
from nas.training._guided import (
    GUIDANCE_RANGE,
    GUIDED_SHARE,
    Predict,
    PredictGuided,
    both_branches,
    draw_guidance,
    guidance_gain,
    guided,
    plain_and_guided,
)
from nas.training._levels import Level, TwoSteps, consistency_timesteps, few, moves, step_timesteps, two_steps
from nas.training.losses import clean_from_v, data_loss, noise_from_v, v_target

Steps = Callable[[Tensor, Level, Level], Tensor]
"""`step(z, start, end) -> z`: latents `[b x ...]` at one noise level, brought to another."""

# The paper's part of L_ori in the whole.
ORIGINAL_SHARE = 0.2

__all__ = [
    "GUIDANCE_RANGE",
    "GUIDED_SHARE",
    "ORIGINAL_SHARE",
    "Level",
    "Predict",
    "PredictGuided",
    "Steps",
    "TwoSteps",
    "both_branches",
    "cfg_aware_loss",
    "consistency_timesteps",
    "ddim_step",
    "draw_guidance",
    "folded_loss",
    "guidance_gain",
    "guided",
    "guided_steps",
    "moves",
    "original_loss",
    "original_weight",
    "plain_and_guided",
    "step_loss",
    "step_timesteps",
    "target_of_steps",
    "teacher_target",
    "total_loss",
    "truncated_snr",
    "two_step_target",
    "two_steps",
    "v_from_noise",
    "vanilla_loss",
]


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


def guided_steps(
    predict: Predict,
    contexts: Tensor,
    *,
    empty: Tensor | None = None,
    guidance: float | Tensor = 1.0,
    dtype: torch.dtype | None = None,
) -> Steps:
    """A network's guided DDIM steps as a function of where they start and end.

    Args:
        predict: the network.
        contexts: `[b x l x d]`.
        empty: the empty text's context `[1 x l x d]`, which guidance needs.
        guidance: w, a number or one for each sample `[b]`; a sample of w = 1 costs one evaluation a step, not two.
        dtype: of the latents that the network is shown; their own when None. Steps are computed in float32 or better.
    """

    def step(z: Tensor, start: Level, end: Level) -> Tensor:
        # A step that begins at the end of sampling stands still, whatever a network says there.
        shown, timesteps = z.to(dtype or z.dtype), start.timesteps.clamp_min(0)
        _, v = plain_and_guided(predict, shown, timesteps, contexts, empty, guidance)
        return ddim_step(z, v, start, end)

    return step


@torch.no_grad()
def target_of_steps(first: Steps, second: Steps, z: Tensor, steps: TwoSteps) -> Tensor:
    """x* `[b x ...]` of the step that leads where two others lead one after the other; no gradient.

    With the teacher's steps for both it is progressive distillation's. With the student's own for the second one, which
    then ends the step that passes by z, it is multistep consistency distillation's (https://arxiv.org/abs/2403.06807).
    """
    landed = second(first(z, steps.start, steps.middle), steps.middle, steps.end)
    return two_step_target(z, landed, steps.start, steps.end)


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
        guidance: w, a number or one for each sample `[b]`; a sample of w = 1 costs one evaluation a step, not two.

    Raises:
        NasError: guidance without the empty text's context.
    """
    step = guided_steps(teacher, contexts, empty=empty, guidance=guidance, dtype=z.dtype)
    return target_of_steps(step, step, z, steps)


def truncated_snr(level: Level) -> Tensor:
    """The weight max(alpha^2 / sigma^2, 1) of a squared error in x, shaped like the amplitudes; 1 where alpha = 0."""
    return (level.alpha / level.sigma).square().clamp_min(1)


def step_loss(z: Tensor, v: Tensor, target: Tensor, start: Level, *, gain: float | Tensor = 1.0) -> Tensor:
    """max(alpha^2 / sigma^2, 1) (x - x*)^2, the mean over everything, where x is what the student's v says of z.

    Args:
        z: noisy latents `[b x ...]`.
        v: the student's output, guided or not.
        target: x* `[b x ...]`.
        start: where z lies.
        gain: what the squared errors are divided by, a number or one for each sample `[b]`.
    """
    error = clean_from_v(z, v, start.alpha, start.sigma) - target
    if isinstance(gain, Tensor) and gain.ndim:
        gain = gain.to(error).view(-1, *[1] * (error.ndim - 1))
    return (truncated_snr(start) * error.square() / gain).mean()


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
    *,
    balanced: bool = False,
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
        balanced: divide each sample's squared error by `guidance_gain`, so that large w do not decide alone. Not in
            the paper.
    """
    _, v = plain_and_guided(student, z, steps.start.timesteps, contexts, empty, guidance)
    target = teacher_target(teacher, z, steps, contexts, empty=empty, guidance=guidance)
    return step_loss(z, v, target, steps.start, gain=guidance_gain(guidance) if balanced else 1.0)


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


def original_loss(v: Tensor, clean: Tensor, noise: Tensor, start: Level) -> Tensor:
    """L_ori: the mean squared error of the unguided v at z = alpha x + sigma e against v = alpha e - sigma x."""
    return data_loss(v, v_target(clean, noise, start.alpha, start.sigma))


def original_weight(distillation: Tensor, original: Tensor, *, share: float = ORIGINAL_SHARE) -> Tensor:
    """The dynamic gamma of `total_loss`: `share` times L_dstl / L_ori; 0 where L_ori is 0. No gradient.

    Raises:
        NasError: a negative share.
    """
    if share < 0:
        raise NasError(f"share is {share}; it must not be negative")
    known = original.detach()
    return share * torch.where(known > 0, distillation.detach() / known, torch.zeros_like(known))


def total_loss(distillation: Tensor, original: Tensor, *, share: float = ORIGINAL_SHARE) -> Tensor:
    """L_dstl + gamma L_ori; gamma is `share` times the detached ratio L_dstl / L_ori, so both pull in proportion.

    The value is therefore always (1 + share) L_dstl: log the parts. Where the student reaches its target, gamma is 0
    and L_ori does not move it away.

    Raises:
        NasError: a negative share.
    """
    return distillation + original_weight(distillation, original, share=share) * original


def v_from_noise(z: Tensor, noise: Tensor, level: Level) -> Tensor:
    """The v that says the same as a predicted noise e: (e - sigma z) / alpha.

    What a network with e-prediction, on its way to v-prediction, is taken for; its error grows by 1 / alpha.

    Raises:
        NasError: alpha is 0 (the last timestep of a schedule with zero SNR), where a predicted noise says nothing of x.
    """
    if bool((level.alpha == 0).any()):
        raise NasError(
            "a network that predicts noise cannot be converted where alpha is 0 (timestep "
            f"{few(level.timesteps[level.alpha.flatten() == 0])[0]}); teach v by the data there, or use the schedule "
            "without rescale_betas_zero_snr"
        )
    return (noise - level.sigma * z) / level.alpha
