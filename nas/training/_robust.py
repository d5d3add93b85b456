"""Robust training: a network that tolerates any subset of its blocks."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules
from nas._progress import track
from nas.errors import ModelError
from nas.sampling import in_mode, require_whole_number
from nas.training._batches import EMPTY_CONTEXT_SHARE, Batches
from nas.training._checkpoint import load_checkpoint, save_checkpoint
from nas.training._checks import check_training
from nas.training._data import TrainingData
from nas.training._settings import Settings, make_optimizer
from nas.training.losses import training_loss

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class TrainingLog:
    """What a training run reports.

    Attributes:
        losses: the loss of every step, from the first one on, also across interruptions.
        seconds: how long this call took.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    empty_context_share: float = EMPTY_CONTEXT_SHARE,
    weight_decay: float = 0.01,
    gradient_clip: float = 1.0,
    ema_decay: float | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
) -> TrainingLog:
    """Train a network in place to say what the teacher says, with AdamW.

    A `Supernet` draws a path in every forward pass, so that it learns to do without any of its blocks (paper §2,
    https://arxiv.org/abs/2306.00980); any other UNet is trained as it is. With skip probability 0 both are the same.

    Args:
        supernet: the network.
        teacher: what to imitate; it may not share weights with the network. None: learn from the data alone.
        data: clean latents and contexts.
        scheduler: any diffusers scheduler, for its noise schedule and prediction type; not changed.
        steps: number of steps in all, those before an interruption included; 0 does nothing.
        batch_size: samples a step.
        learning_rate: of AdamW.
        seed: of samples, timesteps, noise and dropped contexts; paths have the supernet's own.
        data_weight: weight of the data loss beside the distillation loss.
        empty_context_share: how often a context is replaced by the empty text's.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: if given, the weights at the end are their exponential moving average.
        accelerator: for mixed precision and many processes; a plain one that moves nothing when None.
        checkpoint: a file to write every `every` steps and at the end. If it exists the run goes on from it, to the
            same weights bit for bit as without the interruption.
        every: steps between checkpoints.

    Returns:
        The losses.

    Raises:
        ModelError: a network or the checkpoint is unsuitable.
        NasError: data or numbers make no sense, or the teacher shares the network's weights.
        SearchError: the checkpoint is of a run with other settings.
    """
    if require_whole_number("steps", steps, least=0) == 0:
        return TrainingLog()
    started = time.perf_counter()
    check_training(supernet, teacher, data)
    settings = Settings(
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        data_weight=data_weight,
        empty_context_share=empty_context_share,
        weight_decay=weight_decay,
        gradient_clip=gradient_clip,
        ema_decay=ema_decay,
    )
    accelerator = accelerator or _OneProcess()
    if accelerator.device_placement:
        supernet.to(accelerator.device)
    run = _Run(supernet, settings, _identity(settings, teacher, data), checkpoint, require_whole_number("every", every))
    batches = Batches(data, scheduler, batch_size=batch_size, seed=seed, empty_context_share=empty_context_share)
    _train(run, teacher, batches, steps, accelerator)
    run.finish()
    return TrainingLog(run.losses, time.perf_counter() - started)


def _train(run: _Run, teacher: nn.Module | None, batches: Batches, steps: int, accelerator: Any) -> None:
    settings = run.settings
    model, optimizer = accelerator.prepare(run.network, run.optimizer)
    with in_mode(run.network, training=True):
        for step in track(range(run.step, steps), description="training"):
            batch = batches.draw(step, run.network).with_teacher(teacher)
            loss = training_loss(batch.run(model), batch.target, batch.teacher, data_weight=settings.data_weight)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(run.parameters, settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            run.note(loss, last=step + 1 == steps)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _identity(settings: Settings, teacher: nn.Module | None, data: TrainingData) -> dict[str, Any]:
    """What a checkpoint must have been made with, so that going on from it is going on with the same run."""
    taught_by = None if teacher is None else fingerprint_of_modules(teacher)
    return {**asdict(settings), "data": data.fingerprint(), "teacher": taught_by}


class _OneProcess:
    """What the loop uses of `accelerate.Accelerator`, without its process-wide state: it moves nothing."""

    device_placement = False

    def prepare(self, *objects: Any) -> tuple[Any, ...]:
        return objects

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: list[nn.Parameter], norm: float) -> None:
        nn.utils.clip_grad_norm_(parameters, norm)

    def unwrap_model(self, model: nn.Module, *, keep_fp32_wrapper: bool) -> nn.Module:
        return model


class _Run:
    """The state of a training run: network, optimizer, average and losses; on disk where a checkpoint is asked for."""

    def __init__(
        self,
        network: nn.Module,
        settings: Settings,
        identity: dict[str, Any],
        path: str | os.PathLike[str] | None,
        every: int,
    ) -> None:
        self.network, self.settings, self._identity, self._path, self._every = network, settings, identity, path, every
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters, settings)
        self.losses: list[float] = []
        self.average = [] if settings.ema_decay is None else [p.detach().clone() for p in self.parameters]
        self._resume()

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    @torch.no_grad()
    def note(self, loss: Tensor, *, last: bool) -> None:
        """Count a step: its loss, its weights into the average, and a checkpoint when one is due."""
        self.losses.append(loss.item())
        if self.average:
            torch._foreach_lerp_(self.average, self.parameters, 1 - self.settings.ema_decay)
        if self._path is not None and (last or self.step % self._every == 0):
            save_checkpoint(self._path, self._state())

    @torch.no_grad()
    def finish(self) -> None:
        """Give the network the averaged weights, if they are asked for."""
        for parameter, average in zip(self.parameters, self.average, strict=False):
            parameter.copy_(average)

    def _state(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**state, "settings": self._identity, "losses": self.losses, "average": self.average}

    def _resume(self) -> None:
        state = load_checkpoint(self._path, self._identity)
        if state is None:
            return
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = [kept.copy_(saved) for kept, saved in zip(self.average, state["average"], strict=True)]
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"the checkpoint {self._path} is of another network; give another path") from error
        self.losses = list(state["losses"])
