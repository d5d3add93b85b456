"""Gaussian data, whose best denoiser is linear: everything has a closed form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from schedules import levels_of, scheduler_of

from nas.training.losses import noisy
from nas.training.step_distillation import original_loss, teacher_target, total_loss, vanilla_loss

MEAN, SPREAD = 0.7, 0.4


def gaussian_v(z, alpha, sigma):
    """v of the best denoiser of N(MEAN, SPREAD^2)."""
    deviation = (z - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
    return alpha * sigma * deviation - sigma * (MEAN + alpha * SPREAD**2 * deviation)


class GaussianCase:
    """Four samples whose first two moments are exactly those of z, and the closed forms as numbers."""

    def __init__(self, start: int, *, steps: int = 8) -> None:
        self.clean = MEAN + SPREAD * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
        self.noise = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
        self.schedule = scheduler_of("stable diffusion", zero_snr=True)
        self.levels = levels_of(self.schedule, [start] * 4, steps, self.clean)
        self.z = noisy(self.clean, self.noise, self.levels.start.alpha, self.levels.start.sigma)
        self.contexts = torch.zeros(4, 1, 1)
        amplitudes = [(level.alpha[0].item(), level.sigma[0].item()) for level in self.levels]
        (a, s), _, (a2, s2) = amplitudes
        self.a, self.s, self.variance = a, s, a**2 * SPREAD**2 + s**2
        shrink = np.prod([_ddim_slope(*pair) for pair in pairwise(amplitudes)])
        # x* = MEAN + slope (z - a MEAN)
        self.slope = (shrink - s2 / s) / (a2 - s2 / s * a)
        self.weight = max(a**2 / s**2, 1)

    def teacher(self, z, timesteps, contexts):
        signal = self.schedule.alphas_cumprod[timesteps][:, None]
        return gaussian_v(z, signal.sqrt(), (1 - signal).sqrt())

    def loss_and_gradient(self, p: float, q: float) -> tuple[float, float, float]:
        """Of the student v = p z + q, in expectation."""
        slope = self.a - self.s * p - self.slope
        shift = slope * self.a * MEAN - self.s * q - MEAN + self.slope * self.a * MEAN
        loss = self.weight * (shift**2 + slope**2 * self.variance)
        by_p = -2 * self.s * self.weight * (shift * self.a * MEAN + slope * self.variance)
        return loss, by_p, -2 * self.s * self.weight * shift

    def best(self) -> tuple[float, float]:
        return (self.a - self.slope) / self.s, -(1 - self.slope * self.a) * MEAN / self.s


def _ddim_slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    """A DDIM step with the best denoiser scales z - alpha MEAN by this."""
    (a, s), (a2, s2) = start, end
    return (a * a2 * SPREAD**2 + s * s2) / (a**2 * SPREAD**2 + s**2)


@pytest.fixture(params=[999, 749, 499, 249, 124], ids=str)
def gaussian(request) -> GaussianCase:
    return GaussianCase(request.param)


def test_gaussian_target(gaussian):
    target = teacher_target(gaussian.teacher, gaussian.z, gaussian.levels, gaussian.contexts)
    torch.testing.assert_close(target, MEAN + gaussian.slope * (gaussian.z - gaussian.a * MEAN))


@pytest.mark.parametrize("place", ["teacher", "elsewhere", "best"])
def test_gaussian_loss_and_gradient(gaussian, place):
    p, q = {"teacher": _line(gaussian), "elsewhere": (0.3, -0.8), "best": gaussian.best()}[place]
    parameters = torch.tensor([p, q], dtype=torch.float64, requires_grad=True)
    loss = gaussian_loss(gaussian, parameters)
    loss.backward()
    expected, *gradient = gaussian.loss_and_gradient(p, q)
    torch.testing.assert_close(loss.item(), expected)
    torch.testing.assert_close(parameters.grad.tolist(), gradient)
    assert (loss.item() < 1e-20) == (place == "best")


def gaussian_loss(case: GaussianCase, parameters: torch.Tensor) -> torch.Tensor:
    student = lambda z, timesteps, contexts: parameters[0] * z + parameters[1]  # noqa: E731
    return vanilla_loss(student, case.teacher, case.z, case.levels, case.contexts)


def _line(case: GaussianCase) -> tuple[float, float]:
    """Slope and offset of the teacher's v at the start."""
    zero, one = (gaussian_v(z, case.a, case.s) for z in (0.0, 1.0))
    return one - zero, zero


@pytest.mark.parametrize("with_original", [False, True])
def test_a_linear_student_learns_the_best_one(gaussian, with_original):
    parameters = torch.tensor(_line(gaussian), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameters], 0.3, momentum=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss = gaussian_loss(gaussian, parameters)
        if with_original:
            v = parameters[0] * gaussian.z + parameters[1]
            # L_ori alone would lead back to the teacher, but dynamic gamma vanishes as the target is reached.
            loss = total_loss(loss, original_loss(v, gaussian.clean, gaussian.noise, gaussian.levels.start))
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(parameters.tolist(), gaussian.best(), atol=1e-6)
    assert abs(gaussian.best()[0] - _line(gaussian)[0]) > 1e-3
