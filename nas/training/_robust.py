"""Robust training: a network that tolerates any subset of its blocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules
from nas.architecture import Architecture
from nas.errors import NasError
from nas.sampling import fingerprint_of_schedule, placement, require_whole_number
from nas.supernet import Supernet
from nas.training._batches import EMPTY_CONTEXT_SHARE, Batch, Batches
from nas.training._checks import check_training, require_not_told
from nas.training._data import TrainingData
from nas.training._features import stage_features
from nas.training._loop import TrainingLog, train
from nas.training._settings import RobustTrainingSettings
from nas.training._step import Losses, Step
from nas.training.losses import data_loss, distillation_loss, energy, feature_loss

if TYPE_CHECKING:
    from accelerate import Accelerator


def robust_train(
    supernet: nn.Module,
    teacher: nn.Module | None,
    data: TrainingData,
    *,
    scheduler: Any,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    seed: int = 0,
    data_weight: float = 0.0,
    feature_weight: float = 0.0,
    empty_context_share: float = EMPTY_CONTEXT_SHARE,
    weight_decay: float = 0.01,
    gradient_clip: float = 1.0,
    ema_decay: float | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    accumulate: int = 1,
    gradient_checkpointing: bool = False,
    check_memory: bool = True,
) -> TrainingLog:
    """Train a network in place to say what the teacher says, with AdamW.

    A `Supernet` draws a path in every step, so that it learns to do without any of its blocks (paper §2,
    https://arxiv.org/abs/2306.00980); any other UNet is trained as it is. With skip probability 0 both are the same.
    Where the schedule asks for several paths a step (`nas.supernet.sandwich`), all of them see the same batch and the
    loss is their mean; the teacher runs once for all.

    Several processes (a script with `accelerator=Accelerator(mixed_precision="bf16")`, started by `accelerate launch`)
    draw the same path and the same batch and share the batch among them, so that their number changes nothing but the
    time. Each gives the same data and teacher; all end with the same weights.

    Args:
        supernet: the network.
        teacher: what to imitate; it may not share weights with the network. None: learn from the data alone.
        data: clean latents and contexts.
        scheduler: any diffusers scheduler, for its noise schedule and prediction type; not changed.
        steps: number of steps in all, those before an interruption included; 0 does nothing.
        batch_size: samples a step, of all processes together.
        learning_rate: of AdamW.
        seed: of samples, timesteps, noise and dropped contexts; paths have the supernet's own.
        data_weight: weight of the data loss beside the distillation loss.
        feature_weight: weight of the loss of the stages' outputs beside the distillation loss: the mean over stages of
            their squared error relative to the teacher's own size. The teacher's stages must be as wide.
        empty_context_share: how often a context is replaced by the empty text's.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: if given, the weights at the end are their exponential moving average.
        accelerator: for mixed precision and many processes; networks and teacher are moved to its device. None: one
            process, nothing is moved.
        checkpoint: a file to write every `every` steps and at the end. If it exists the run goes on from it, to the
            same weights bit for bit as without the interruption.
        every: steps between checkpoints.
        accumulate: in how many parts each process takes its samples, to save memory; the gradient is the same.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        check_memory: see `nas.training.train`.

    Returns:
        The losses; the parts are "output", "features" and "data", where there are such.

    Raises:
        ModelError: a network or the checkpoint is unsuitable; a network that is told the guidance is.
        NasError: data or numbers make no sense, the teacher shares the network's weights, or memory is short.
        SearchError: the checkpoint is of a run with other settings or other weights, or is longer.
    """
    if require_whole_number("steps", steps, least=0) == 0:
        return TrainingLog()
    check_training(supernet, teacher, data)
    require_not_told(supernet, teacher)
    settings = RobustTrainingSettings(
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        data_weight=data_weight,
        feature_weight=feature_weight,
        empty_context_share=empty_context_share,
        weight_decay=weight_decay,
        gradient_clip=gradient_clip,
        ema_decay=ema_decay,
    )
    if feature_weight and teacher is None:
        raise NasError(f"feature_weight is {feature_weight}, but there is no teacher whose features to learn")
    batches = Batches(data, scheduler, batch_size=batch_size, seed=seed, empty_context_share=empty_context_share)
    return train(
        supernet,
        RobustObjective(teacher, batches, settings),
        settings,
        steps=steps,
        identity={
            "data": data.fingerprint(),
            "teacher": None if teacher is None else fingerprint_of_modules(teacher),
            "schedule": fingerprint_of_schedule(scheduler),
            "paths": supernet.fingerprint_of_paths() if isinstance(supernet, Supernet) else None,
        },
        accelerator=accelerator,
        checkpoint=checkpoint,
        every=every,
        accumulate=accumulate,
        gradient_checkpointing=gradient_checkpointing,
        check_memory=check_memory,
    )


class RobustObjective:
    """For every path of the step: what it says against what the teacher, or the data, says."""

    def __init__(self, teacher: nn.Module | None, batches: Batches, settings: RobustTrainingSettings) -> None:
        self.teacher, self.batches, self.settings = teacher, batches, settings

    def __call__(self, step: Step) -> list[Callable[[], Losses]]:
        whole = self.batches.sample(step.number)
        taught = [self._taught(whole.take(part.rows), step.network) for part in step.parts]
        sizes = self._sizes(step, taught)
        # Drawn here and not in the forward pass, so that all parts and all processes run the same.
        paths = step.network.draw_paths() if isinstance(step.network, Supernet) else [None]
        return [
            partial(self._losses, step, path, batch, part.share / len(paths), len(paths), sizes)
            for path in paths
            for part, batch in zip(step.parts, taught, strict=True)
        ]

    @property
    def others(self) -> list[nn.Module]:
        """The networks that it runs besides."""
        return [] if self.teacher is None else [self.teacher]

    def rehearse(self, step: Step) -> list[Callable[[], Losses | None]]:
        """A step of the longest paths, see `nas.training.training_memory`."""
        paths, taught, sizes = _longest_paths(step.network), [], []

        def teach() -> None:
            blanks = [self.batches.blank(part.rows.stop - part.rows.start) for part in step.parts]
            taught.extend(self._taught(blank, step.network) for blank in blanks)
            sizes.extend(self._sizes(step, taught))

        def losses(path: Architecture | None, index: int) -> Losses:
            return self._losses(step, path, taught[index], step.parts[index].share, len(paths), sizes)

        return [teach, *(partial(losses, path, index) for path in paths for index in range(len(step.parts)))]

    def _taught(self, batch: Batch, network: nn.Module) -> Batch:
        return batch.to(*placement(network)).with_teacher(self.teacher, features=self.settings.feature_weight > 0)

    def _sizes(self, step: Step, batches: list[Batch]) -> list[Tensor]:
        """The size of the teacher's output and features, of the whole batch."""
        if self.teacher is None:
            return []
        known = [torch.stack([energy(batch.teacher), *map(energy, batch.features)]) for batch in batches]
        return list(step.total(known))

    def _losses(
        self, step: Step, path: Architecture | None, batch: Batch, share: float, paths: int, sizes: list[Tensor]
    ) -> Losses:
        options = {} if path is None else {"architecture": path}
        weights = self.settings
        with stage_features(step.network, wanted=weights.feature_weight > 0) as features:
            output = batch.run(step.model, **options)
        losses = {}
        if batch.teacher is None or weights.data_weight:
            losses["data"] = share * data_loss(output, batch.target)
        if batch.teacher is None:
            return {"loss": losses["data"], **losses}
        losses["output"] = distillation_loss(output, batch.teacher, size=sizes[0]) / paths
        loss = losses["output"]
        if weights.data_weight:
            loss = loss + weights.data_weight * losses["data"]
        if weights.feature_weight:
            losses["features"] = feature_loss(features, batch.features, sizes=sizes[1:]) / paths
            loss = loss + weights.feature_weight * losses["features"]
        return {"loss": loss, **losses}


def _longest_paths(network: nn.Module) -> list[Architecture | None]:
    """As many paths as the next step draws, none of which skips anything; None for a network that draws none."""
    if not isinstance(network, Supernet):
        return [None]
    before = network.step
    count = len(network.draw_paths())
    network.step = before
    return [network.current] * count
