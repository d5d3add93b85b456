"""Losses and targets as pure functions of tensors: no networks, no state.

Notation as in https://arxiv.org/abs/2202.00512: z = alpha x + sigma e, alpha^2 + sigma^2 = 1, v = alpha e - sigma x.
Samples are `[b x ...]`, alpha and sigma broadcast against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas.errors import ModelError, NasError


def alpha_sigma(alphas_cumprod: Tensor, timesteps: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise amplitudes at the timesteps `[b]`, shaped `[b x 1 x ...]` to multiply `like` `[b x ...]`."""
    signal = alphas_cumprod.to(like.device)[timesteps.to(like.device)].to(like.dtype)
    signal = signal.view(-1, *[1] * (like.ndim - 1))
    return signal.sqrt(), (1 - signal).sqrt()


def noisy(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z = alpha x + sigma e."""
    return alpha * clean + sigma * noise


def v_target(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha e - sigma x, what a network with v-prediction is to say."""
    return alpha * noise - sigma * clean


def clean_from_v(z: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x = alpha z - sigma v."""
    return alpha * z - sigma * v


def noise_from_v(z: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """e = sigma z + alpha v."""
    return sigma * z + alpha * v


def prediction_target(kind: str, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network is to say, by a scheduler's `prediction_type`: "epsilon", "v_prediction" or "sample".

    Raises:
        ModelError: any other kind.
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return v_target(clean, noise, alpha, sigma)
    if kind == "sample":
        return clean
    raise ModelError(f"prediction type {kind!r} is not one of epsilon, v_prediction, sample")


def data_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, in float32."""
    return functional.mse_loss(output.float(), target.float())


def energy(output: Tensor) -> Tensor:
    """Sum of squares, in float32, above 0 so that it can be divided by; no gradient."""
    return output.detach().float().square().sum().clamp_min(torch.finfo(torch.float32).tiny)


def distillation_loss(student: Tensor, teacher: Tensor, *, size: Tensor | None = None) -> Tensor:
    """Squared error relative to the teacher's own size, sum (s - t)^2 / sum t^2: 0 at the teacher, 1 for zeros.

    Args:
        student: its output.
        teacher: its output.
        size: what to divide by, where this is only a part of a batch: the `energy` of the teacher's whole output.
    """
    error = (student.float() - teacher.detach().float()).square().sum()
    return error / (energy(teacher) if size is None else size)


def feature_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, sizes: Sequence[Tensor] | None = None
) -> Tensor:
    """Mean over stages of the distillation loss of their features, so that no stage outweighs the others.

    Args:
        student: its features, one tensor a stage.
        teacher: its features.
        sizes: for each stage what to divide by, see `distillation_loss`.

    Raises:
        NasError: there are no features, or not the same of both.
    """
    shapes = [[tuple(feature.shape) for feature in features] for features in (student, teacher)]
    if not student or shapes[0] != shapes[1]:
        raise NasError(f"features of student and teacher do not match: {shapes[0]} and {shapes[1]}")
    sizes = [None] * len(student) if sizes is None else sizes
    losses = [distillation_loss(s, t, size=size) for s, t, size in zip(student, teacher, sizes, strict=True)]
    return torch.stack(losses).mean()


def training_loss(output: Tensor, target: Tensor, teacher: Tensor | None, *, data_weight: float) -> Tensor:
    """The distillation loss plus `data_weight` times the data loss; the data loss alone without a teacher."""
    if teacher is None:
        return data_loss(output, target)
    loss = distillation_loss(output, teacher)
    return loss + data_weight * data_loss(output, target) if data_weight else loss


def prediction_type(scheduler: Any) -> str:
    """What a diffusers scheduler takes a network's output for."""
    return scheduler.config.get("prediction_type", "epsilon")
