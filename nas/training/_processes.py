"""How a step is run: by one process or several, in one part or several, with activations kept or computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from nas.errors import ModelError, NasError


class Part(NamedTuple):
    """A part of a step's batch.

    Attributes:
        rows: which samples of the batch.
        share: how large a part of the batch they are; the shares of all parts of all processes add up to 1.
    """

    rows: slice
    share: float


def parts_of(batch_size: int, accelerator: Any, accumulate: int) -> list[Part]:
    """The parts of a batch that this process takes, one after the other.

    Raises:
        NasError: fewer samples than parts.
    """
    processes = accelerator.num_processes
    if batch_size < processes * accumulate:
        raise NasError(
            f"batch_size is {batch_size}, too few for {processes} processes with {accumulate} parts each; "
            f"give at least {processes * accumulate}"
        )
    mine = _pieces(0, batch_size, processes)[accelerator.process_index]
    return [Part(slice(*edges), (edges[1] - edges[0]) / batch_size) for edges in _pieces(*mine, accumulate)]


def _pieces(first: int, last: int, count: int) -> list[tuple[int, int]]:
    return list(pairwise(first + (last - first) * index // count for index in range(count + 1)))


class OneProcess:
    """What training uses of `accelerate.Accelerator`, without its process-wide state: it moves nothing."""

    device_placement = False
    num_processes = 1
    process_index = 0
    is_main_process = True
    scaler = None
    gradient_accumulation_steps = 1

    def prepare(self, *objects: Any) -> tuple[Any, ...]:
        """As they are."""
        return objects

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss."""
        loss.backward()

    def clip_grad_norm_(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale the gradients down to the norm; what it was."""
        return nn.utils.clip_grad_norm_(parameters, norm)

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        """There is nothing to add."""
        return values

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """There is nobody to share gradients with."""
        return nullcontext()

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""

    def unwrap_model(self, model: nn.Module, *, keep_fp32_wrapper: bool) -> nn.Module:
        """As it is."""
        return model

    def free_memory(self) -> None:
        """Nothing is held."""


@contextmanager
def prepared(
    accelerator: Any, network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[nn.Module, torch.optim.Optimizer]]:
    """What is to be called and what is to be stepped; afterwards the network is as it was, without wrappers.

    Raises:
        NasError: the accelerator accumulates gradients itself, which would count parts as steps.
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise NasError(
            f"the accelerator has gradient_accumulation_steps = {accelerator.gradient_accumulation_steps}; "
            "leave it at 1 and give accumulate= instead, which keeps the batch and splits it"
        )
    before = network.__dict__.get("forward")
    with _skipping_allowed(accelerator):
        model, optimizer = accelerator.prepare(network, optimizer)
    try:
        yield model, optimizer
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        if before is None:
            # It leaves a method bound to this network, which copies of it would then call.
            network.__dict__.pop("forward", None)
        # An accelerator holds on to everything that it ever prepared; the next stage needs the memory.
        accelerator.free_memory()


@contextmanager
def _skipping_allowed(accelerator: Any) -> Iterator[None]:
    """Let DDP find the parameters without a gradient: those of blocks that a path skips."""
    if isinstance(accelerator, OneProcess):
        yield
        return
    # Even of a single process, which launchers wrap as well.
    from accelerate import DistributedDataParallelKwargs

    given = accelerator.ddp_handler
    accelerator.ddp_handler = replace(given or DistributedDataParallelKwargs(), find_unused_parameters=True)
    try:
        yield
    finally:
        accelerator.ddp_handler = given


@contextmanager
def gradient_checkpoints(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Compute activations again in the backward pass instead of keeping them, for the time of the block, if `wanted`.

    Raises:
        ModelError: the network has no diffusers model that can do that.
    """
    model = next((part for part in network.modules() if isinstance(part, ModelMixin)), None)
    if not wanted or (model is not None and model.is_gradient_checkpointing):
        yield
        return
    try:
        model.enable_gradient_checkpointing()
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"{type(network).__name__} cannot do gradient checkpointing; give gradient_checkpointing=False"
        ) from error
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()
