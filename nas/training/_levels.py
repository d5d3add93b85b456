"""The noise levels between which a teacher makes two steps and its student one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nas.errors import NasError


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
        NasError: so many steps that no timestep lies between start and end.
    """
    if not 1 <= steps <= total // 2:
        raise NasError(f"steps is {steps}; two teacher steps in one of a student need from 1 to {total // 2} steps")
    stride = total // steps
    # At the last step the end lies below 0 and so may the middle; the teacher must still make two steps of it.
    end = (timesteps - stride).clamp_min(-1)
    middle = torch.maximum(timesteps - stride // 2, end + 1)
    # From timestep 0, which leading and linspace spacings have, the first step is all there is.
    return torch.minimum(middle, timesteps - 1), end


def consistency_timesteps(
    timesteps: Tensor, grid: Tensor, teacher_steps: int, *, total: int = 1000
) -> tuple[Tensor, Tensor]:
    """Where a step of the teacher lands from anywhere, and where the student's step that passes there ends.

    Args:
        timesteps: `[b]`, none above the grid.
        grid: the student's `[n]`, as diffusers sets them; its steps go `total // n` lower.
        teacher_steps: so many steps the teacher makes in all, each `total // teacher_steps` lower; it stops where the
            student's step ends.

    Returns:
        Middle and end `[b]`; both are the same where the teacher gets to the end.

    Raises:
        NasError: not more steps than the student's, or more than there are timesteps.
    """
    if not len(grid) < teacher_steps <= total:
        raise NasError(
            f"teacher_steps is {teacher_steps}; it must be more than the student's {len(grid)}, up to {total}"
        )
    ascending = grid.to(timesteps.device).sort().values
    end = (ascending[torch.searchsorted(ascending, timesteps)] - total // len(grid)).clamp_min(-1)
    return torch.maximum(timesteps - total // teacher_steps, end), end


def two_steps(
    alphas_cumprod: Tensor, timesteps: Tensor, middle: Tensor, end: Tensor, *, like: Tensor, final: float | Tensor = 1.0
) -> TwoSteps:
    """Noise levels at t > t' >= t'', shaped to multiply `like` `[b x ...]`, in float32 or better.

    Args:
        alphas_cumprod: squared signal amplitudes of the schedule `[n]`.
        timesteps: t `[b]`.
        middle: t' `[b]`.
        end: t'' `[b]`, below 0 for the end of sampling, and less noisy than the start (see `moves`). Where it is the
            middle too, the second step stands still.
        like: the latents.
        final: squared signal amplitude at the end of sampling, a scheduler's `final_alpha_cumprod`.

    Raises:
        NasError: timesteps that do not descend or are not of the schedule.
    """
    inside = (timesteps < len(alphas_cumprod)) & ((middle >= 0) | (middle == end))
    right = (timesteps > middle) & (middle >= end) & inside
    if not bool(right.all()):
        wrong = [few(each[~right]) for each in (timesteps, middle, end)]
        raise NasError(
            f"timesteps {wrong[0]}, {wrong[1]}, {wrong[2]} do not descend within the schedule's "
            f"{len(alphas_cumprod)}; only the last may lie below 0"
        )
    moving = moves(alphas_cumprod, timesteps, end, final=final)
    if not bool(moving.all()):
        raise NasError(
            f"a step from {few(timesteps[~moving])} to {few(end[~moving])} ends where it starts: the schedule's end of "
            "sampling is as noisy as its first timestep; leave those timesteps out"
        )
    return TwoSteps(*(_level(alphas_cumprod, place, like, final) for place in (timesteps, middle, end)))


def moves(alphas_cumprod: Tensor, timesteps: Tensor, end: Tensor, *, final: float | Tensor = 1.0) -> Tensor:
    """For which samples the end is less noisy than the start `[b]`.

    Where a schedule's end of sampling is as noisy as its timestep 0, as Stable Diffusion's is with
    `set_alpha_to_one=False`, a step from there stands still, whatever a network says: there is nothing to learn.
    """
    return _signal(alphas_cumprod, end, final) > _signal(alphas_cumprod, timesteps, final)


def _signal(alphas_cumprod: Tensor, timesteps: Tensor, final: float | Tensor) -> Tensor:
    """Squared amplitudes `[b]`."""
    signal = alphas_cumprod.to(timesteps.device)[timesteps.clamp_min(0)]
    return torch.where(timesteps < 0, torch.as_tensor(final).to(signal), signal)


def _level(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor, final: float | Tensor) -> Level:
    dtype, timesteps = torch.promote_types(like.dtype, torch.float32), timesteps.to(like.device)
    signal = _signal(alphas_cumprod, timesteps, final).to(dtype)
    signal = signal.view(-1, *[1] * (like.ndim - 1))
    return Level(timesteps, signal.sqrt(), (1 - signal).sqrt())


def few(timesteps: Tensor) -> list[int]:
    """The first of many timesteps, for a message."""
    return timesteps.flatten()[:3].tolist()
