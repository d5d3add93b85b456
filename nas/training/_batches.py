"""Batches: which samples, timesteps and noise a step sees. Step i of seed s is the same for every network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.sampling import ddim_scheduler, in_mode, placement, seeded_generator
from nas.training._data import TrainingData
from nas.training.losses import alpha_sigma, prediction_target, prediction_type

EMPTY_CONTEXT_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's tensors.

    Attributes:
        noisy: latents with noise `[b x c x h x w]`.
        timesteps: `[b]`.
        contexts: text states `[b x l x d]`.
        target: what the network is to say by the data `[b x c x h x w]`.
        teacher: what the teacher says `[b x c x h x w]`, or None.
    """

    noisy: Tensor
    timesteps: Tensor
    contexts: Tensor
    target: Tensor
    teacher: Tensor | None = None

    def run(self, network: nn.Module) -> Tensor:
        """The network's output on this batch `[b x c x h x w]`."""
        return network(self.noisy, self.timesteps, self.contexts, return_dict=False)[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch elsewhere; timesteps keep their type."""
        moved = {name: getattr(self, name).to(device, dtype) for name in ("noisy", "contexts", "target")}
        teacher = None if self.teacher is None else self.teacher.to(device, dtype)
        return Batch(timesteps=self.timesteps.to(device), teacher=teacher, **moved)

    def with_teacher(self, teacher: nn.Module | None) -> Batch:
        """The batch with the teacher's output, computed without gradient."""
        if teacher is None:
            return self
        # A teacher may lie elsewhere, or in another precision, than the network that learns.
        with torch.no_grad(), in_mode(teacher, training=False):
            said = self.to(*placement(teacher)).run(teacher)
        return replace(self, teacher=said.to(self.noisy))


class Batches:
    """Draws batches from data; a batch depends on the seed and the step's number, not on what was drawn before.

    So a run that stopped goes on exactly, and all candidates of a search see the same batches.

    Args:
        data: latents and contexts.
        scheduler: any diffusers scheduler: whose noise schedule and prediction type.
        batch_size: samples a step, without repetition where there are enough.
        seed: of samples, timesteps, noise and dropped contexts.
        empty_context_share: how often a context is replaced by the empty text's.
    """

    def __init__(
        self,
        data: TrainingData,
        scheduler: Any,
        *,
        batch_size: int = 32,
        seed: int = 0,
        empty_context_share: float = EMPTY_CONTEXT_SHARE,
    ) -> None:
        self.data = data
        self.scheduler = ddim_scheduler(scheduler)
        self.batch_size = batch_size
        self.seed = seed
        self.empty_context_share = empty_context_share

    def draw(self, step: int, network: nn.Module) -> Batch:
        """The batch of step number `step`, on the network's device and in its dtype."""
        generator = seeded_generator(self.seed, step)
        rows = self._rows(generator)
        clean = self.data.latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        total = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(total, (len(rows),), generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < self.empty_context_share
        contexts = torch.where(dropped.view(-1, 1, 1), self.data.empty_context, self.data.contexts[rows])
        amplitudes = alpha_sigma(self.scheduler.alphas_cumprod, timesteps, like=clean)
        target = prediction_target(prediction_type(self.scheduler), clean, noise, *amplitudes)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        return Batch(noisy, timesteps, contexts, target).to(*placement(network))

    def _rows(self, generator: torch.Generator) -> Tensor:
        if self.batch_size <= len(self.data):
            return torch.randperm(len(self.data), generator=generator)[: self.batch_size]
        return torch.randint(len(self.data), (self.batch_size,), generator=generator)
