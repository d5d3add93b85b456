"""Checks before training starts, where a mistake is cheap."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas._progress import say
from nas.errors import ModelError, NasError
from nas.sampling import require_text_only
from nas.training._data import TrainingData
from nas.unet import folded_width


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
