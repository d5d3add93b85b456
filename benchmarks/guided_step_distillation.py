"""What does it take that a student's one guided step lands where the teacher's two do?

The data are a mixture of two Gaussians on a line, one for each "text", so the teacher is known: with a text its
denoiser is linear, without one it is not. Students of 8 steps learn from 16 steps of it, by the losses of
`nas.training.step_distillation`, in several ways. Each row is the root mean square distance of the student's pictures
to the teacher's, from the same noise, at each guidance w. First the best that any network could do under a loss (least
squares at every z), then small networks trained on it (median over seeds):

    python benchmarks/guided_step_distillation.py --json guided_step_distillation.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _report import write_report
from diffusers import DDIMScheduler
from torch import Tensor, nn

from nas._progress import track
from nas.training import step_distillation as distillation
from nas.training.losses import clean_from_v, noisy
from nas.training.step_distillation import both_branches, ddim_step, guided, teacher_target

STEPS = 8
GUIDANCES = (1.0, 1.5, 2.5, 4.0, 7.5, 10.0, 14.0)
MEANS, SPREADS = torch.tensor([-1.0, 1.0]), torch.tensor([0.3, 0.6])
EMPTY = torch.full((1, 1, 1), -1.0)
SCHEDULER = DDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)
SCHEDULER.set_timesteps(STEPS)
TIMESTEPS = SCHEDULER.timesteps


@dataclass(frozen=True)
class Way:
    """A way to train a student.

    Attributes:
        share: how often a sample is guided.
        between: the range of its w.
        dropped: how often the text is left away.
        balanced: whether squared errors are divided by w^2 + (w - 1)^2.
        draw: whether w is drawn for each "sample"; guided or not for each "step"; or guided or not and w, "all".
        detached: whether the gradient goes through the branch with the text only.
        folded: whether the student is told w.
        own: whether it trains on the guided teacher's pictures instead of on data.
        width: of the student.
        longer: training for so many times as many steps.
    """

    share: float = distillation.GUIDED_SHARE
    between: tuple[float, float] = distillation.GUIDANCE_RANGE
    dropped: float = 0.1
    balanced: bool = False
    draw: str = "sample"
    detached: bool = False
    folded: bool = False
    own: bool = False
    width: int = 64
    longer: int = 1


BEST = {
    "vanilla": Way(share=0.0),
    "CFG-aware, as in the paper": Way(),
    "CFG-aware, p 0.01": Way(share=0.01),
    "CFG-aware, w 7.5 alone, p 1": Way(share=1.0, between=(7.5, 7.5)),
    "CFG-aware, w 7.5 alone, p 1, texts only": Way(share=1.0, between=(7.5, 7.5), dropped=0.0),
    "CFG-aware, w 1 to 4, p 0.9": Way(share=0.9, between=(1.0, 4.0)),
    "balanced, p 0.1": Way(balanced=True),
    "balanced, p 0.9": Way(share=0.9, balanced=True),
}
FOLDED = Way(share=0.9, between=(1.0, 14.0), dropped=0.0, folded=True, width=128, longer=2)
TRAINED = {
    "vanilla, texts only": Way(share=0.0, dropped=0.0),
    "vanilla": Way(share=0.0),
    "CFG-aware, w per sample": Way(),
    "CFG-aware, texts only": Way(dropped=0.0),
    "CFG-aware, p per step": Way(draw="step"),
    "CFG-aware, p and w per step": Way(draw="all"),
    "CFG-aware, text branch alone": Way(detached=True),
    "balanced, p 0.9": Way(share=0.9, balanced=True),
    "vanilla, own pictures": Way(share=0.0, own=True),
    "CFG-aware, own pictures": Way(own=True),
    "balanced, p 0.9, own pictures": Way(share=0.9, balanced=True, own=True),
    "w told": FOLDED,
    "w told, own pictures": Way(**{**vars(FOLDED), "own": True}),
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(1)
    figures: dict[str, object] = {"guidance": list(GUIDANCES), "not distilled": distances(teacher)}
    for name, way in BEST.items():
        figures[f"best: {name}"] = distances(best_student(way))
    figures["best: vanilla, empty text untaught"] = distances(best_student(BEST["vanilla"], teaches_empty=False))
    runs = [(name, seed) for name in TRAINED for seed in range(arguments.seeds)]
    found: dict[str, list[list[float]]] = {name: [] for name in TRAINED}
    for name, seed in track(runs, description="students"):
        found[name].append(distances(train(TRAINED[name], arguments.iterations, seed), told=TRAINED[name].folded))
    for name, rows in found.items():
        figures[f"trained: {name}"] = [statistics.median(column) for column in zip(*rows, strict=True)]
    rounded = {name: [round(value, 3) for value in row] for name, row in figures.items()}
    settings = {"seeds": arguments.seeds, "iterations": arguments.iterations}
    write_report({**rounded, **settings}, arguments.json)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--iterations", type=int, default=1000, help="training steps")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


# The teacher. A context is -1 for the empty text, else the number of the Gaussian.


def teacher(z: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
    """v of the best denoiser at z `[b x 1]`."""
    signal = SCHEDULER.alphas_cumprod[timesteps][:, None].to(z.dtype)
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    variance, deviation = signal * SPREADS**2 + sigma**2, z - alpha * MEANS
    v = alpha * sigma / variance * deviation - sigma * (MEANS + alpha * SPREADS**2 / variance * deviation)
    texts = contexts.flatten().long()
    known = nn.functional.one_hot(texts.clamp_min(0), 2).to(z.dtype)
    return (torch.where((texts < 0)[:, None], posterior(z, alpha, sigma), known) * v).sum(1, keepdim=True)


def posterior(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """How probable each Gaussian is at z `[b x 2]`."""
    variance = alpha**2 * SPREADS**2 + sigma**2
    return torch.softmax(-((z - alpha * MEANS) ** 2) / variance / 2 - variance.log() / 2, 1)


def levels(timesteps: Tensor, like: Tensor) -> distillation.TwoSteps:
    places = distillation.step_timesteps(timesteps, STEPS)
    return distillation.two_steps(SCHEDULER.alphas_cumprod, timesteps, *places, like=like)


@torch.no_grad()
def sample(
    predict: Callable, z: Tensor, contexts: Tensor, w: Tensor, *, twice: bool = False, told: bool = False
) -> Tensor:
    """DDIM in as many steps as the student's, or twice as many, guided by w `[b]` that the network is told or not."""
    for timestep in TIMESTEPS:
        walk = levels(timestep.expand(len(z)), z)
        for start, end in (walk[:2], walk[1:]) if twice else ((walk.start, walk.end),):
            if told:
                v = predict(z, start.timesteps, contexts, w)
            else:
                v = guided(*both_branches(predict, z, start.timesteps, contexts, EMPTY), w)
            z = ddim_step(z, v, start, end)
    return z


def distances(student: Callable, *, told: bool = False, count: int = 1000) -> list[float]:
    """Root mean square distance of the student's samples to the teacher's at each guidance."""
    z = torch.randn(count, 1, generator=torch.Generator().manual_seed(9))
    contexts = (torch.arange(count) % 2).float().view(-1, 1, 1)
    found = []
    for guidance in GUIDANCES:
        w = torch.full((count,), guidance)
        wanted = sample(teacher, z, contexts, w, twice=True)
        found.append((sample(student, z, contexts, w, told=told) - wanted).square().mean().sqrt().item())
    return found


# The best that any network can do: at every z, least squares in its three outputs.


def best_student(way: Way, *, teaches_empty: bool = True) -> Callable:
    grid = torch.linspace(-25, 25, 1001)
    tables = {}
    for timestep in TIMESTEPS.tolist():
        walk = levels(torch.full((len(grid),), timestep), grid[:, None])
        best = least_squares(way, grid[:, None], walk)
        if not teaches_empty:
            v = teacher(grid[:, None], walk.start.timesteps, EMPTY.expand(len(grid), 1, 1))
            best[:, 2] = clean_from_v(grid[:, None], v, walk.start.alpha, walk.start.sigma)[:, 0].numpy()
        tables[timestep] = best

    def predict(z: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
        columns = [np.interp(z[:, 0], grid, column) for column in tables[int(timesteps[0])].T]
        texts = contexts.flatten().long()
        clean = torch.tensor(np.stack(columns, 1), dtype=z.dtype).gather(1, (texts % 3)[:, None])
        signal = SCHEDULER.alphas_cumprod[timesteps][:, None]
        return (signal.sqrt() * z - clean) / (1 - signal).sqrt()

    return predict


def least_squares(way: Way, z: Tensor, walk: distillation.TwoSteps) -> np.ndarray:
    """x with text 0, with text 1 and without `[n x 3]` at which the expected loss is least at every z `[n x 1]`."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    low, high = way.between
    drawn = [(1.0, 1 - way.share)]
    drawn += [((low + high + (high - low) * x) / 2, way.share * y / 2) for x, y in zip(nodes, weights, strict=True)]
    probable = posterior(z, walk.start.alpha, walk.start.sigma).double().numpy()
    # A trace of ridge for what a loss leaves open.
    matrix, right = np.tile(1e-12 * np.eye(3), (len(z), 1, 1)), np.zeros((len(z), 3))
    for text, share in ((0, 1 - way.dropped), (1, 1 - way.dropped), (-1, way.dropped)):
        contexts = torch.full((len(z), 1, 1), float(text))
        for w, weight in drawn:
            target = teacher_target(teacher, z, walk, contexts, empty=EMPTY, guidance=w)[:, 0].double().numpy()
            row = w * np.eye(3)[text] - (w - 1) * np.eye(3)[2]
            gain = distillation.guidance_gain(w) if way.balanced else 1.0
            weighted = weight * share / gain * (1.0 if text < 0 else probable[:, text])
            matrix += np.multiply.outer(weighted, np.outer(row, row))
            right += np.multiply.outer(weighted * target, row)
    return np.linalg.solve(matrix, right[..., None])[..., 0]


# Students that learn.


class Student(nn.Module):
    """The teacher, plus what a small network adds to it, at first nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, z: Tensor, timesteps: Tensor, contexts: Tensor, guidance: Tensor | None = None) -> Tensor:
        text = nn.functional.one_hot(contexts.flatten().long() + 1, 3).float()
        guidance = torch.zeros(len(z)) if guidance is None else (guidance - 1) / 6
        inputs = torch.cat([z, timesteps[:, None] / 500 - 1, guidance[:, None], text], 1)
        return teacher(z, timesteps, contexts) + self.net(inputs)


def train(way: Way, iterations: int, seed: int, *, batch_size: int = 256, rate: float = 3e-3) -> Student:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    student, data = Student(way.width), pictures(generator, own=way.own)
    optimizer = torch.optim.Adam(student.parameters(), rate)
    iterations *= way.longer
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = rate * (1 - iteration / iterations)
        rows = torch.randint(len(data[0]), (batch_size,), generator=generator)
        optimizer.zero_grad()
        loss(way, student, *(column[rows] for column in data), generator).backward()
        optimizer.step()
    return student


def pictures(generator: torch.Generator, *, own: bool, count: int = 6000) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures `[n x 1]`, their texts `[n]` and the guidance `[n]` that they were made with, 1 for data."""
    texts, w = torch.arange(count) % 2, torch.ones(count)
    noise = torch.randn(count, 1, generator=generator)
    if not own:
        return MEANS[texts, None] + SPREADS[texts, None] * noise, texts, w
    w = 1 + 13 * torch.rand(count, generator=generator)
    return sample(teacher, noise, texts.float().view(-1, 1, 1), w, twice=True), texts, w


def loss(
    way: Way, student: Student, clean: Tensor, texts: Tensor, made_with: Tensor, generator: torch.Generator
) -> Tensor:
    count = len(clean)
    walk = levels(TIMESTEPS[torch.randint(STEPS, (count,), generator=generator)], clean)
    z = noisy(clean, torch.randn(clean.shape, generator=generator), walk.start.alpha, walk.start.sigma)
    is_dropped = torch.rand(count, generator=generator) < way.dropped
    contexts = torch.where(is_dropped, -1.0, texts.float()).view(-1, 1, 1)
    w = draw_guidance(way, made_with, generator)
    if way.folded:
        return distillation.folded_loss(student, teacher, z, walk, contexts, EMPTY, w)
    if not way.detached:
        return distillation.cfg_aware_loss(student, teacher, z, walk, contexts, EMPTY, w, balanced=way.balanced)
    with_text, without = both_branches(student, z, walk.start.timesteps, contexts, EMPTY)
    target = teacher_target(teacher, z, walk, contexts, empty=EMPTY, guidance=w)
    return distillation.step_loss(z, guided(with_text, without.detach(), w), target, walk.start)


def draw_guidance(way: Way, made_with: Tensor, generator: torch.Generator) -> Tensor:
    count, is_step = len(made_with), way.draw != "sample"
    share = float(torch.rand((), generator=generator) < way.share) if is_step else way.share
    w = distillation.draw_guidance(count, generator=generator, share=share, between=way.between)
    if way.draw == "all":
        return w[:1].expand(count)
    # The teacher's own pictures go with the guidance that they were made with.
    return torch.where(w > 1, made_with.clamp(*way.between), w) if way.own else w


if __name__ == "__main__":
    sys.exit(main())
