"""How much memory a training needs, found and said before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas._progress import say
from nas.errors import NasError
from nas.sampling import in_mode, placement
from nas.training._free_memory import free_bytes
from nas.training._processes import Part, gradient_checkpoints
from nas.training._rehearsal import most_alive
from nas.training._settings import Settings
from nas.training._step import Step

# Below this much of weights, gradients and averages nobody asks: a rehearsal takes time.
_WORTH_ASKING = 2**25
# Below this much in all nobody is told.
_WORTH_SAYING = 2**30
# Estimates leave out what libraries and allocators take, and a machine's free memory moves: only a clear lack counts.
_CLEARLY = 0.9


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one process of a training takes where its network lies, at the fullest moment of a step.

    All but `activations` are counts and exact. `activations` rests on a rehearsal of a step, forward and backward, on
    tensors without values, in which every tensor's bytes count while it lives. It leaves out what libraries take inside
    an operation and what an allocator wastes.

    Attributes:
        weights: of the network, buffers included.
        others: weights of all other networks that a step runs, teachers above all; only of those on the same device.
        gradients: of the weights that are trained; twice as much where processes exchange them.
        optimizer: AdamW's two moments.
        average: the moving average of the weights.
        activations: what a step's fullest moment takes beyond all gradients: activations kept for the backward pass and
            all that comes and goes. While activations are at their fullest there are no gradients yet, unless the step
            has several parts; so with one part this is less than the activations by themselves, at least 0.
    """

    weights: int
    others: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.others + self.to_come

    @property
    def to_come(self) -> int:
        """What the training takes besides the networks, which are there already."""
        return self.gradients + self.optimizer + self.average + self.activations

    def __str__(self) -> str:
        parts = ("weights", "others", "gradients", "optimizer", "average", "activations")
        return f"{_gib(self.total)} ({', '.join(f'{name} {_gib(getattr(self, name))}' for name in parts)})"


def training_memory(
    network: nn.Module,
    objective: Any,
    settings: Settings,
    parts: Sequence[Part],
    *,
    gradient_checkpointing: bool = False,
    mixed_precision: str = "no",
    processes: int = 1,
) -> TrainingMemory:
    """How much memory a training needs, without taking any of it.

    Args:
        network: what is to be trained, with its weights where they will be.
        objective: has `others`, the networks that it runs besides, and `rehearse(step)`, which gives functions like
            those of a step: they make their tensors themselves, look at no value and take the most costly way. Those
            that return losses are gone backward through.
        settings: of the training.
        parts: of a step's batch, see `nas.training._processes.parts_of`.
        gradient_checkpointing: as of `train`.
        mixed_precision: of the accelerator: "no", "bf16" or "fp16".
        processes: how many train together.
    """
    counted = _counted(network, objective.others, settings, processes)
    run = _functions(network, objective, parts, mixed_precision)
    with in_mode(network, training=True), gradient_checkpoints(network, gradient_checkpointing):
        most = most_alive(run, [network, *objective.others], placement(network)[0])
    trained = sum(_bytes(parameter) for parameter in network.parameters() if parameter.requires_grad)
    return replace(counted, activations=max(0, most - trained))


def memory_checked(
    network: nn.Module,
    objective: Any,
    settings: Settings,
    parts: list[Part],
    accelerator: Any,
    *,
    gradient_checkpointing: bool = False,
) -> TrainingMemory | None:
    """How much memory a training needs, said to people; None where it is little or cannot be found.

    Raises:
        NasError: there is clearly not so much.
    """
    processes, precision = accelerator.num_processes, getattr(accelerator, "mixed_precision", "no")
    if not hasattr(objective, "rehearse"):
        return None
    if _counted(network, objective.others, settings, processes).to_come < _WORTH_ASKING:
        return None
    options = {"gradient_checkpointing": gradient_checkpointing, "mixed_precision": precision, "processes": processes}
    try:
        memory = training_memory(network, objective, settings, parts, **options)
    except Exception as error:  # a network of one's own may look at values, which stand-ins do not have
        say(f"how much memory the training needs cannot be found, for its step cannot be rehearsed: {error}")
        return None
    device = placement(network)[0]
    free = free_bytes(device)
    if free is not None and device.type == "cpu":
        free //= processes
    if accelerator.is_main_process and memory.total >= _WORTH_SAYING:
        there = "" if free is None else f"; {_gib(memory.to_come)} of it are to come, {_gib(free)} are free"
        say(f"training needs about {memory} of memory on {device}{there}")
    if free is not None and free < _CLEARLY * memory.to_come:
        levers = _levers(network, objective, settings, parts, gradient_checkpointing, precision)
        raise NasError(
            f"the training needs about {_gib(memory.to_come)} more memory on {device} than its networks, but only "
            f"{_gib(free)} are free: {memory}. To need less: {', '.join(levers)}; or check_memory=False to try anyway"
        )
    return memory


def _levers(
    network: nn.Module,
    objective: Any,
    settings: Settings,
    parts: list[Part],
    gradient_checkpointing: bool,
    precision: str,
) -> list[str]:
    """What would save memory and is not done yet."""
    device, dtype = placement(network)
    largest = max(part.rows.stop - part.rows.start for part in parts)
    heavy = any(placement(other) == (device, torch.float32) for other in objective.others if _tensors(other))
    whole = precision == "no" and dtype == torch.float32
    levers = {
        "gradient_checkpointing=True": not gradient_checkpointing,
        f"accumulate={2 * len(parts)} (the same batch in more parts)": largest > 1,
        "a smaller batch_size": largest > 1,
        'accelerator=Accelerator(mixed_precision="bf16")': whole,
        "the other networks in bf16": heavy,
        "ema_decay=None": settings.ema_decay is not None,
    }
    return [lever for lever, helps in levers.items() if helps] or ["another device"]


def _functions(network: nn.Module, objective: Any, parts: Sequence[Part], precision: str) -> Callable[[], None]:
    """A step's rehearsal as one function, which is to run on stand-ins."""
    step = Step(0, network, _as_wrapped(network, precision), list(parts), lambda values: values)
    functions = objective.rehearse(step)

    def run() -> None:
        for function in functions:
            losses = function()
            if losses is not None:
                losses["loss"].backward()

    return run


def _as_wrapped(network: nn.Module, precision: str) -> Any:
    """What an accelerator of this precision would call."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if dtype is None:
        return network

    def model(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(placement(network)[0].type, dtype):
            return network(*args, **kwargs)

    return model


def _counted(network: nn.Module, others: Sequence[nn.Module], settings: Settings, processes: int) -> TrainingMemory:
    """All but the activations."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients, device, own = sum(map(_bytes, parameters)), placement(network)[0], _tensors(network)
    foreign = {tensor for other in others for tensor in _tensors(other)} - own
    return TrainingMemory(
        weights=sum(map(_bytes, own)),
        others=sum(_bytes(tensor) for tensor in foreign if tensor.device == device),
        # Processes exchange gradients by a copy of them.
        gradients=gradients * (1 if processes == 1 else 2),
        # Two moments like the weights, and the number of a step in float32.
        optimizer=2 * gradients + 4 * len(parameters),
        average=0 if settings.ema_decay is None else sum(_average_bytes(parameter) for parameter in parameters),
        activations=0,
    )


def _tensors(module: nn.Module) -> set[Tensor]:
    return {*module.parameters(), *module.buffers()}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _average_bytes(parameter: Tensor) -> int:
    return parameter.numel() * torch.promote_types(parameter.dtype, torch.float32).itemsize


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
