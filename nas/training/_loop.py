"""The loop that all trainings share; what is particular to one is its objective.

    def objective(step: Step) -> list[Callable[[], Losses]]:
        batch = draw(step.number)                    # the whole batch, the same in every process
        def loss(part: Part) -> Losses:
            error = mse(step.model(batch[part.rows]), target[part.rows])
            return {"loss": part.share * error}      # shares: they add up to the step's loss
        return [partial(loss, part) for part in step.parts]

    log = train(network, objective, settings, steps=1000, identity={"data": data.fingerprint()}, checkpoint="run.pt")

What an objective has to keep to:

- Everything that it draws comes from the seed and `step.number` alone (`nas.sampling.seeded_generator`), so a run that
  stopped goes on exactly, and every process draws the same.
- It returns one function for each backward pass, usually one for each of `step.parts`, in the same number in every
  process. The loop calls them in order and goes backward through "loss" right after each, so only one graph is in
  memory at a time. Work without a gradient for all of them (a teacher's outputs) comes before, in the objective.
- Each calls `step.model` exactly once (DDP prepares a backward pass in every forward pass), and nothing else of the
  network but hooks on `step.network`.
- Losses are shares: over all functions and processes they add up to the step's loss. A mean over the samples of a part
  times `part.share` is one; so is a sum divided by a number for the whole batch, which `step.total` gets from all
  processes. Then neither the number of processes nor that of parts changes a loss or a gradient beyond rounding.
- All losses are logged, by name; "loss" is the one that is minimised.

To say before it starts how much memory it needs, a training rehearses a step, if the objective has what
`nas.training.training_memory` asks of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas._progress import track
from nas.sampling import in_mode, require_whole_number
from nas.training._checks import Finite, require_trainable, warn_of_emulated_bf16
from nas.training._memory import TrainingMemory, memory_checked
from nas.training._processes import OneProcess, Part, gradient_checkpoints, parts_of, prepared
from nas.training._run import Run
from nas.training._settings import Settings
from nas.training._step import Losses, Objective, Step

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class TrainingLog:
    """What a training run reports.

    Attributes:
        losses: the loss of every step, from the first one on, also across interruptions; the mean over processes.
        seconds: how long this call took.
        parts: other losses of every step, by name, of which the loss is made.
        memory: what the training was to need; None where it is too little to ask, or where nobody can say.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)
    memory: TrainingMemory | None = None


def train(
    network: nn.Module,
    objective: Objective,
    settings: Settings,
    *,
    steps: int,
    identity: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    accumulate: int = 1,
    gradient_checkpointing: bool = False,
    check_memory: bool = True,
    description: str = "training",
) -> TrainingLog:
    """Train a network in place with AdamW.

    Args:
        network: its parameters that require a gradient are trained, in train mode; modes are given back.
        objective: the losses of a step.
        settings: the numbers; all of them are part of the run's identity.
        steps: in all, those before an interruption included; 0 does nothing.
        identity: what else decides the weights (fingerprints of data and teacher): a checkpoint made with something
            else, or that began with other weights of the network, is refused. Numbers, texts, None.
        accelerator: of many processes and mixed precision, for this training alone: it is emptied at the end. Unless it
            says otherwise, the network and what its objective runs besides are moved to its device. None: one process,
            nothing is moved.
        checkpoint: a file to write every `every` steps and at the end, by the main process. If it exists, the run goes
            on from it, to the same weights bit for bit as without the interruption (on CUDA, where torch has been told
            to use deterministic algorithms).
        every: steps between checkpoints.
        accumulate: in how many parts each process takes its part of the batch, to save memory.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        check_memory: find out first how much memory the training needs (`TrainingMemory`), say it where that is more
            than 1 GiB, and refuse to start where it is clearly not there. Not done where gradients, averages and the
            optimizer take less than 32 MiB.
        description: of the progress bar.

    Returns:
        The losses.

    Raises:
        ModelError: the checkpoint is unsuitable, the network cannot do gradient checkpointing, or its weights are in
            float16.
        NasError: a number makes no sense, there is not enough memory, or loss or gradient are no finite numbers any
            more. What the last checkpoint holds is kept then.
        SearchError: the checkpoint is of a run with other settings or other weights, or is longer.
    """
    if require_whole_number("steps", steps, least=0) == 0:
        return TrainingLog()
    started = time.perf_counter()
    accelerator = OneProcess() if accelerator is None else accelerator
    if accelerator.device_placement:
        # A teacher that stayed on the CPU would be run there, in every step.
        for module in (network, *getattr(objective, "others", ())):
            nn.Module.to(module, accelerator.device)
    require_trainable(network)
    warn_of_emulated_bf16(network, accelerator)
    parts = parts_of(settings.batch_size, accelerator, require_whole_number("accumulate", accumulate))
    memory = None
    if check_memory:
        memory = memory_checked(
            network, objective, settings, parts, accelerator, gradient_checkpointing=gradient_checkpointing
        )
    identity = {**asdict(settings), **(identity or {})}
    run = Run(network, settings, steps, identity, checkpoint, every, accelerator)
    # Nobody trains, and so writes, before everybody has read.
    accelerator.wait_for_everyone()
    if run.step < steps:
        with in_mode(network, training=True), gradient_checkpoints(network, gradient_checkpointing):
            _steps(run, objective, steps, parts, accelerator, description)
    accelerator.wait_for_everyone()
    run.finish()
    others = {name: losses for name, losses in run.losses.items() if name != "loss"}
    return TrainingLog(run.losses["loss"], time.perf_counter() - started, others, memory)


def _steps(run: Run, objective: Objective, steps: int, parts: list[Part], accelerator: Any, description: str) -> None:
    def add_up(values: Tensor) -> Tensor:
        return accelerator.reduce(values, reduction="sum")

    numbers, finite = range(run.step, steps), Finite(accelerator)
    with prepared(accelerator, run.network, run.optimizer) as (model, optimizer):
        for number in track(numbers, description=description) if accelerator.is_main_process else numbers:
            step = Step(number, run.network, model, parts, add_up)
            losses = _backward(objective(step), step, accelerator)
            norm = accelerator.clip_grad_norm_(run.parameters, run.settings.gradient_clip)
            finite.require(number, losses["loss"], norm)
            optimizer.step()
            optimizer.zero_grad()
            run.note(losses, last=number + 1 == steps)


def _backward(functions: list[Callable[[], Losses]], step: Step, accelerator: Any) -> dict[str, float]:
    """Gradients of the step's loss, and its losses."""
    known = []
    for index, losses_of in enumerate(functions):
        last = index + 1 == len(functions)
        # Processes exchange gradients once a step, in the last backward pass.
        with nullcontext() if last else accelerator.no_sync(step.model):
            losses = losses_of()
            # DDP takes the mean over processes of what is to be added up.
            accelerator.backward(losses["loss"] * accelerator.num_processes)
        known.append(torch.stack([loss.detach() for loss in losses.values()]))
    return dict(zip(losses, step.total(known).tolist(), strict=True))
