"""Two Gaussians, one for each text: the guided teacher is known, without a text it is not linear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from nas.training.step_distillation import (
    both_branches,
    cfg_aware_loss,
    folded_loss,
    guided,
    step_loss,
    step_timesteps,
    teacher_target,
    two_steps,
)

SCHEDULER = DDIMScheduler(
    beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True
)
SCHEDULER.alphas_cumprod = SCHEDULER.alphas_cumprod.double()
MEANS, SPREADS = np.array([-1.0, 1.0]), np.array([0.3, 0.6])
NODES = np.linspace(-2, 2, 9)
GUIDANCES = np.linspace(2, 14, 7)
EMPTY = 2
EMPTY_CONTEXT = torch.full((1, 1, 1), float(EMPTY))
STEPS = 8


def known_v(z: np.ndarray, signal: float, text: int) -> np.ndarray:
    """v of the best denoiser, from the textbook: x by the posterior's mean, e from x, v from both."""
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    variance = signal * SPREADS**2 + sigma**2
    deviation = z[:, None] - alpha * MEANS
    clean = MEANS + alpha * SPREADS**2 / variance * deviation
    noise = sigma / variance * deviation
    density = np.exp(-(deviation**2) / variance / 2) / np.sqrt(variance)
    weights = density / density.sum(1, keepdims=True) if text == EMPTY else np.eye(2)[[text] * len(z)]
    return (weights * (alpha * noise - sigma * clean)).sum(1)


def guided_two_steps(z: np.ndarray, start: int, text: int, w: float) -> np.ndarray:
    """Where two guided steps of diffusers' scheduler land."""
    SCHEDULER.set_timesteps(2 * STEPS)
    at, timestep = torch.tensor(z), start
    for _ in range(2):
        signal = SCHEDULER.alphas_cumprod[timestep].item()
        v = [known_v(at.numpy(), signal, branch) for branch in (text, EMPTY)]
        at = SCHEDULER.step(torch.tensor(v[1] + w * (v[0] - v[1])), timestep, at).prev_sample
        timestep -= 1000 // (2 * STEPS)
    return at.numpy()


def known_target(z: np.ndarray, start: int, text: int, w: float) -> np.ndarray:
    """The x that leads there in one step of 124 timesteps: solved for, not by the paper's formula."""
    signal = [SCHEDULER.alphas_cumprod[start - back].item() for back in (0, 2 * (1000 // (2 * STEPS)))]
    (a, a2), (s, s2) = np.sqrt(signal), np.sqrt(1 - np.array(signal))
    # z'' = a2 x + s2 e with e = (z - a x) / s, two equations in x and e
    system = np.array([[a2, s2], [a, s]])
    return np.linalg.solve(system, np.stack([guided_two_steps(z, start, text, w), z]))[0]


class Case:
    """Every node with every text and guidance, as one batch, in steps of 124 timesteps down from `start`."""

    def __init__(self, start: int, *, guidances: np.ndarray = GUIDANCES, nodes: np.ndarray = NODES) -> None:
        self.start, self.guidances, self.nodes = start, guidances, nodes
        node, text, w = np.meshgrid(np.arange(len(nodes)), [0, 1], guidances, indexing="ij")
        self.node, self.text, self.w = (torch.tensor(each.ravel()) for each in (node, text, w))
        self.z = torch.tensor(nodes)[self.node][:, None]
        self.contexts = self.text.double().view(-1, 1, 1)
        places = [torch.full((len(self.z),), start - back) for back in (0, 62, 124)]
        self.levels = two_steps(SCHEDULER.alphas_cumprod, *places, like=self.z)

    def teacher(self, z: torch.Tensor, timesteps: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        v = torch.empty_like(z)
        for text in (0, 1, EMPTY):
            rows = contexts.flatten() == text
            v[rows, 0] = torch.tensor(
                known_v(z[rows, 0].numpy(), SCHEDULER.alphas_cumprod[timesteps[0]].item(), text), dtype=z.dtype
            )
        return v

    def table(self, values: torch.Tensor) -> Callable:
        """A student that holds its v for every node and text `[n x 3]`, as free as a student can be."""

        def predict(z: torch.Tensor, timesteps: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
            nodes = self.node.repeat(len(z) // len(self.node))
            return values[nodes, contexts.flatten().long()][:, None]

        return predict

    def targets(self) -> np.ndarray:
        """x* by node, text and guidance."""
        columns = [[known_target(self.nodes, self.start, text, w) for w in self.guidances] for text in (0, 1)]
        return np.array(columns).transpose(2, 0, 1)

    def teacher_values(self) -> torch.Tensor:
        signal = SCHEDULER.alphas_cumprod[self.start].item()
        return torch.tensor(np.stack([known_v(self.nodes, signal, text) for text in (0, 1, EMPTY)], 1))

    def guided_clean(self, values: torch.Tensor) -> np.ndarray:
        """x that a table says, guided, by node, text and guidance."""
        branches = both_branches(self.table(values), self.z, self.levels.start.timesteps, self.contexts, EMPTY_CONTEXT)
        v = guided(*branches, self.w)
        clean = self.levels.start.alpha * self.z - self.levels.start.sigma * v
        return clean.detach().numpy().reshape(len(self.nodes), 2, len(self.guidances))

    def train(self, loss: Callable[[Callable], torch.Tensor], values: torch.Tensor | None = None) -> torch.Tensor:
        values = (self.teacher_values() if values is None else values).clone().requires_grad_()
        optimizer = torch.optim.LBFGS([values], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16)

        def closure():
            optimizer.zero_grad()
            found = loss(self.table(values))
            found.backward()
            return found

        for _ in range(3):
            optimizer.step(closure)
        return values.detach()

    def guided_loss(self, student: Callable, *, balanced: bool = False) -> torch.Tensor:
        given = (self.z, self.levels, self.contexts, EMPTY_CONTEXT, self.w)
        return cfg_aware_loss(student, self.teacher, *given, balanced=balanced)

    def vanilla_loss(self, student: Callable) -> torch.Tensor:
        """With and without the texts, as where contexts are dropped."""
        losses = []
        for contexts in (self.contexts, EMPTY_CONTEXT.expand_as(self.contexts)):
            target = teacher_target(self.teacher, self.z, self.levels, contexts)
            v = student(self.z, self.levels.start.timesteps, contexts)
            losses.append(step_loss(self.z, v, target, self.levels.start))
        return torch.stack(losses).mean()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean()))


@pytest.fixture(params=[999, 749, 499], ids=str)
def case(request) -> Case:
    return Case(request.param)


def test_the_guided_teacher_lands_where_diffusers_does(case):
    found = teacher_target(case.teacher, case.z, case.levels, case.contexts, empty=EMPTY_CONTEXT, guidance=case.w)
    np.testing.assert_allclose(found.view(len(NODES), 2, -1), case.targets(), rtol=1e-8, atol=1e-8)


def least_squares(case: Case, gain: np.ndarray) -> np.ndarray:
    """The three x at each node whose guided combinations come closest to the targets."""
    rows = [w * np.eye(3)[text] - (w - 1) * np.eye(3)[EMPTY] for text in (0, 1) for w in case.guidances]
    scale = 1 / np.sqrt(np.tile(gain, 2))
    best = [
        np.linalg.lstsq(np.array(rows) * scale[:, None], target.ravel() * scale, rcond=None)[0]
        for target in case.targets()
    ]
    return np.array(best)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_cfg_aware_student_comes_as_close_as_least_squares(case, balanced):
    values = case.train(lambda student: case.guided_loss(student, balanced=balanced))
    gain = case.guidances**2 + (case.guidances - 1) ** 2 if balanced else np.ones(len(case.guidances))
    best = least_squares(case, gain)
    expected = case.levels.start.alpha[0, 0] * torch.tensor(NODES)[:, None] - torch.tensor(best)
    torch.testing.assert_close(values, expected / case.levels.start.sigma[0, 0], rtol=1e-3, atol=1e-3)


def test_the_cfg_aware_student_is_closer_to_the_guided_teacher_than_the_vanilla_one(case):
    wanted = case.targets()
    aware = distance(case.guided_clean(case.train(case.guided_loss)), wanted)
    vanilla = distance(case.guided_clean(case.train(case.vanilla_loss)), wanted)
    assert aware < vanilla / 2
    # An output that is guided is a straight line in w, the target is not: no student of two branches reaches it.
    bends = np.abs(np.diff(wanted, n=2, axis=-1)).max()
    assert bends > 1e-3
    assert aware > 0.01 * bends


@pytest.mark.parametrize("start", [499, 374, 249])
def test_an_empty_branch_that_is_not_taught_spoils_guidance(start):
    """Far out, where guidance leads, z itself tells the text: with and without it the teacher says the same.

    A student taught the texts only keeps the teacher's own branch without: it makes one step where the other makes two,
    and guidance multiplies the difference.
    """
    case = Case(start, nodes=np.linspace(4, 5, 5))
    wanted = case.targets()[:, 1]
    assert np.ptp(wanted, axis=-1).max() < 0.02

    def texts_only(student):
        v = student(case.z, case.levels.start.timesteps, case.contexts)
        target = teacher_target(case.teacher, case.z, case.levels, case.contexts)
        return step_loss(case.z, v, target, case.levels.start)

    values = case.train(texts_only)
    torch.testing.assert_close(values[:, EMPTY], case.teacher_values()[:, EMPTY])
    both = distance(case.guided_clean(case.train(case.vanilla_loss))[:, 1], wanted)
    untaught = distance(case.guided_clean(values)[:, 1], wanted)
    assert untaught > 5 * both


def test_one_guidance_alone_is_met_but_leaves_the_branches_open(case):
    one = Case(case.start, guidances=np.array([7.5]))
    values = [one.train(one.guided_loss, start) for start in (one.teacher_values(), one.teacher_values() + 1)]
    for value in values:
        np.testing.assert_allclose(one.guided_clean(value), one.targets(), atol=1e-5)
    # Two students that agree at 7.5 and nowhere else: which one comes out is a matter of where it began.
    assert distance(*(case.guided_clean(value) for value in values)) > 0.3


def test_a_student_that_is_told_the_guidance_meets_every_one(case):
    values = torch.zeros(len(NODES), 2, len(GUIDANCES), dtype=torch.float64, requires_grad=True)

    def student(z, timesteps, contexts, guidance):
        assert torch.equal(guidance, case.w)
        assert torch.equal(timesteps, case.levels.start.timesteps)
        assert torch.equal(contexts, case.contexts)
        return values.view(-1, 1)

    optimizer = torch.optim.LBFGS([values], max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = folded_loss(student, case.teacher, case.z, case.levels, case.contexts, EMPTY_CONTEXT, case.w)
        loss.backward()
        return loss

    optimizer.step(closure)
    start = case.levels.start
    clean = (start.alpha * case.z - start.sigma * values.view(-1, 1)).detach()
    np.testing.assert_allclose(clean.view(len(NODES), 2, -1), case.targets(), atol=1e-5)


def test_the_student_takes_steps_of_125_timesteps():
    """Two steps of diffusers' 16 make 124 timesteps, of which this file's case is; the 8 of the student make 125."""
    middle, end = step_timesteps(torch.tensor([999]), STEPS)
    assert (middle.item(), end.item()) == (937, 874)
