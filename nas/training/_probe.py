"""A few steps of training for a candidate that shares the supernet's weights, undone afterwards to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas.sampling import in_mode, placement, require_text_only, require_whole_number
from nas.training._batches import EMPTY_CONTEXT_SHARE, Batch, Batches
from nas.training._checks import require_not_told
from nas.training._data import TrainingData
from nas.training._settings import RobustTrainingSettings, make_optimizer
from nas.training.losses import training_loss


class Snapshot:
    """The weights that training has changed, as they were before."""

    def __init__(self) -> None:
        self._kept: dict[nn.Parameter, Tensor] = {}

    def keep(self, parameters: Iterable[nn.Parameter]) -> None:
        """Remember the parameters that are about to change; each is copied once, when it first has a gradient."""
        for parameter in parameters:
            if parameter.grad is not None and parameter not in self._kept:
                self._kept[parameter] = parameter.detach().clone()

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def restore(self) -> None:
        """Give every parameter its value back, bit for bit, and forget it."""
        while self._kept:
            parameter, value = self._kept.popitem()
            parameter.copy_(value)


class Probe:
    """Trains any candidate on the same few batches from the teacher, for the time of a `with` block.

        probe = Probe(teacher, data, scheduler=pipe.scheduler, steps=8)
        with probe(supernet.candidate(architecture)) as trained:
            score = judge(trained)
        # here all weights are what they were, also after an error

    Batches and the teacher's outputs are computed once, here: candidates are compared on equal terms, and the teacher
    may change afterwards, or be the supernet itself. Only parameters that the candidate uses are copied.

    Args:
        teacher: what to imitate.
        data: clean latents and contexts.
        scheduler: any diffusers scheduler, for its noise schedule and prediction type.
        steps: training steps; 0 leaves candidates as they are.
        batch_size: samples a step.
        learning_rate: of AdamW.
        seed: of samples, timesteps, noise and dropped contexts.
        data_weight: weight of the data loss beside the distillation loss.
        gradient_clip: largest norm of the gradient.
        empty_context_share: how often a context is replaced by the empty text's.

    Raises:
        ModelError: the teacher needs other conditions than a text, or is told the guidance.
        NasError: data or numbers make no sense.
    """

    def __init__(
        self,
        teacher: nn.Module,
        data: TrainingData,
        *,
        scheduler: Any,
        steps: int,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        seed: int = 0,
        data_weight: float = 0.0,
        gradient_clip: float = 1.0,
        empty_context_share: float = EMPTY_CONTEXT_SHARE,
    ) -> None:
        require_text_only(teacher)
        require_not_told(teacher)
        data.require_fit(teacher)
        require_whole_number("steps", steps, least=0)
        self.settings = RobustTrainingSettings(
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            data_weight=data_weight,
            empty_context_share=empty_context_share,
            weight_decay=0.0,
            gradient_clip=gradient_clip,
        )
        batches = Batches(data, scheduler, batch_size=batch_size, seed=seed, empty_context_share=empty_context_share)
        self.batches = [batches.draw(step, teacher).with_teacher(teacher) for step in range(steps)]

    @contextmanager
    def __call__(self, unet: nn.Module) -> Iterator[nn.Module]:
        """Train `unet` in place, lend it, and undo the training."""
        snapshot = self.train(unet)
        try:
            yield unet
        finally:
            snapshot.restore()

    def train(self, unet: nn.Module) -> Snapshot:
        """Train `unet` in place; `restore()` of what is returned undoes it. After an error nothing is left to undo."""
        require_not_told(unet)
        snapshot = Snapshot()
        try:
            self._train(unet, snapshot)
        except BaseException:
            snapshot.restore()
            raise
        return snapshot

    def _train(self, unet: nn.Module, snapshot: Snapshot) -> None:
        parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in parameters]
        optimizer = make_optimizer(parameters, self.settings)
        try:
            with in_mode(unet, training=False), torch.enable_grad():
                for batch in self.batches:
                    self._step(unet, batch.to(*placement(unet)), parameters, optimizer, snapshot)
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient

    def _step(
        self,
        unet: nn.Module,
        batch: Batch,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        snapshot: Snapshot,
    ) -> None:
        weight = self.settings.data_weight
        training_loss(batch.run(unet), batch.target, batch.teacher, data_weight=weight).backward()
        snapshot.keep(parameters)
        nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()


def probe_train(unet: nn.Module, teacher: nn.Module, data: TrainingData, **options: Any) -> Snapshot:
    """Train a candidate in place for a few steps; `restore()` of what is returned undoes it. Options as of `Probe`."""
    return Probe(teacher, data, **options).train(unet)


@contextmanager
def probe(unet: nn.Module, teacher: nn.Module, data: TrainingData, **options: Any) -> Iterator[nn.Module]:
    """Lend a candidate trained for a few steps and undo the training afterwards. Options as of `Probe`.

    For more than one candidate make a `Probe`: it runs the teacher once for all of them.
    """
    with Probe(teacher, data, **options)(unet) as trained:
        yield trained
