"""Checks before training starts, where a mistake is cheap."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nas._progress import say
from nas.errors import ModelError, NasError
from nas.sampling import require_text_only
from nas.training._data import TrainingData
from nas.unet import folded_width

# Steps in a row; a scale of 65536 is halved in each.
_SCALED_PATIENCE = 20


def check_training(student: nn.Module, teacher: nn.Module | None, data: TrainingData) -> None:
    """Check that student and teacher can be run on the data, and that training the one does not change the other.

    Raises:
        ModelError: a network needs other conditions than a text.
        NasError: shapes do not fit, or weights are shared.
    """
    for network in (student, teacher):
        if network is not None:
            require_text_only(network)
            data.require_fit(network)
    if teacher is not None and shares_weights(student, teacher):
        raise NasError(
            "the teacher shares weights with the network to be trained, so it would change with it; "
            "give a copy: copy.deepcopy(unet), or the pipeline's UNet read again"
        )


def shares_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether a parameter of one network is a parameter of the other."""
    known = {id(parameter) for parameter in one.parameters()}
    return any(id(parameter) in known for parameter in other.parameters())


def require_not_told(*networks: nn.Module | None) -> None:
    """Check that no network is told the guidance, where training would not tell it and so teach it nonsense.

    Raises:
        ModelError: one is.
    """
    if any(folded_width(network) is not None for network in networks):
        raise ModelError(
            "a network is told the guidance (nas.unet.fold_guidance), which only nas.training.distil_steps tells it; "
            "give one that is not, and fold the guidance afterwards"
        )


def require_trainable(network: nn.Module) -> None:
    """Check that AdamW can train the weights in their precision.

    Raises:
        ModelError: some are in float16, in which the squares of gradients are 0.
    """
    if any(weights.requires_grad and weights.dtype == torch.float16 for weights in network.parameters()):
        raise ModelError(
            "the network's weights are in float16, which cannot be trained: load it in float32, and give an "
            "Accelerator(mixed_precision='fp16') to compute in float16"
        )


class Finite:
    """Stops a training whose loss or gradient is no finite number, before its weights are none.

    Args:
        accelerator: where it scales the loss, as for float16, steps without a finite gradient are left out until the
            scale fits, so a few of them are no reason to stop.
    """

    def __init__(self, accelerator: Any) -> None:
        self._patience = _SCALED_PATIENCE if getattr(accelerator, "scaler", None) is not None else 0
        self._bad = 0

    def require(self, number: int, loss: float, gradient_norm: Any) -> None:
        """Look at a step before its gradient is used.

        Raises:
            NasError: one is not finite, in too many steps in a row.
        """
        norm = 0.0 if gradient_norm is None else float(gradient_norm)  # accelerate's FSDP does not say
        if math.isfinite(loss) and math.isfinite(norm):
            self._bad = 0
            return
        self._bad += 1
        if self._bad > self._patience:
            raise NasError(
                f"the training fell apart: in step {number} the loss is {loss:.4g} and the gradient's norm {norm:.4g}; "
                "try a smaller learning_rate or gradient_clip, and look for numbers in the data that are not finite"
            )


def warn_of_emulated_bf16(network: nn.Module, accelerator: Any) -> None:
    """Tell people where bf16 will cost time instead of saving some: on an x86 CPU that torch has no bf16 kernels for.

    There convolutions take far longer than in float32.
    """
    parameters = list(network.parameters())
    weights = any(parameter.dtype == torch.bfloat16 for parameter in parameters)
    mixed = getattr(accelerator, "mixed_precision", "no") == "bf16"
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    emulated = on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if accelerator.is_main_process and emulated and (weights or mixed):
        say(
            "this CPU (AVX2) has no bf16, and torch's stand-in for its convolutions is very slow: "
            "training in float32 is much faster here"
        )
