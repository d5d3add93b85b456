"""Batches: which samples, timesteps and noise a step sees. Step i of seed s is the same for every network."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.sampling import ddim_scheduler, in_mode, placement, random_rows, seeded_generator
from nas.training._data import TrainingData
from nas.training._features import stage_features
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
        features: what the teacher's stages say, see `stage_features`; empty where nobody asked.
    """

    noisy: Tensor
    timesteps: Tensor
    contexts: Tensor
    target: Tensor
    teacher: Tensor | None = None
    features: tuple[Tensor, ...] = ()

    def run(self, network: nn.Module, **options: Any) -> Tensor:
        """The network's output on this batch `[b x c x h x w]`."""
        return network(self.noisy, self.timesteps, self.contexts, return_dict=False, **options)[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch elsewhere; timesteps keep their type."""

        def moved(value: Any) -> Any:
            return value.to(device, dtype if value.is_floating_point() else None) if torch.is_tensor(value) else value

        return self._each(moved)

    def take(self, rows: slice) -> Batch:
        """Some samples of the batch."""
        return self._each(lambda value: value[rows] if torch.is_tensor(value) else value)

    def _each(self, change: Any) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        features = tuple(change(feature) for feature in values.pop("features"))
        return Batch(features=features, **{name: change(value) for name, value in values.items()})

    def with_teacher(self, teacher: nn.Module | None, *, features: bool = False) -> Batch:
        """The batch with the teacher's output, and if asked for its features, computed without gradient."""
        if teacher is None:
            return self
        # A teacher may lie elsewhere, or in another precision, than the network that learns.
        elsewhere = self.to(*placement(teacher))
        with torch.no_grad(), in_mode(teacher, training=False), stage_features(teacher, wanted=features) as kept:
            said = elsewhere.run(teacher)
        return replace(self, teacher=said.to(self.noisy), features=tuple(each.to(self.noisy) for each in kept))


class Batches:
    """Draws batches from data; a batch depends on the seed and the step's number, not on what was drawn before.

    So a run that stopped goes on exactly, and all candidates of a search see the same batches.

    Args:
        data: latents and contexts.
        scheduler: any diffusers scheduler: whose noise schedule and prediction type.
        batch_size: samples a step, without repetition where there are enough.
        seed: of samples, timesteps, noise and dropped contexts.
        empty_context_share: how often a context is replaced by the empty text's.
        timesteps: which timesteps are drawn, all equally often; all of the schedule when not given.
    """

    def __init__(
        self,
        data: TrainingData,
        scheduler: Any,
        *,
        batch_size: int = 32,
        seed: int = 0,
        empty_context_share: float = EMPTY_CONTEXT_SHARE,
        timesteps: Tensor | None = None,
    ) -> None:
        self.data = data
        self.scheduler = ddim_scheduler(scheduler)
        self.batch_size = batch_size
        self.seed = seed
        self.empty_context_share = empty_context_share
        every = torch.arange(self.scheduler.config.num_train_timesteps)
        self.timesteps = every if timesteps is None else timesteps.cpu()

    def draw(self, step: int, network: nn.Module) -> Batch:
        """The batch of step number `step`, on the network's device and in its dtype."""
        return self.sample(step).to(*placement(network))

    def blank(self, count: int) -> Batch:
        """So many samples of the shapes of a batch, all zeros."""
        noisy = torch.zeros(count, *self.data.latents.shape[1:])
        contexts = torch.zeros(count, *self.data.contexts.shape[1:])
        return Batch(noisy, torch.zeros(count, dtype=torch.long), contexts, torch.zeros_like(noisy))

    def sample(self, step: int) -> Batch:
        """The batch of step number `step`, on the CPU and in float32."""
        generator = seeded_generator(self.seed, step)
        rows = random_rows(len(self.data), self.batch_size, generator)
        clean = self.data.latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = self.timesteps[torch.randint(len(self.timesteps), (len(rows),), generator=generator)]
        dropped = torch.rand(len(rows), generator=generator) < self.empty_context_share
        contexts = torch.where(dropped.view(-1, 1, 1), self.data.empty_context, self.data.contexts[rows])
        amplitudes = alpha_sigma(self.scheduler.alphas_cumprod, timesteps, like=clean)
        target = prediction_target(prediction_type(self.scheduler), clean, noise, *amplitudes)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        return Batch(noisy, timesteps, contexts, target)
