"""The numbers of a training run, checked before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from nas.errors import NasError
from nas.sampling import require_whole_number
from nas.training._batches import EMPTY_CONTEXT_SHARE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every training has; each kind adds what else decides the weights after a number of steps.

    Attributes:
        batch_size: samples a step, of all processes together.
        learning_rate: of AdamW.
        seed: of everything that is drawn.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights; None for no average.

    Raises:
        NasError: a number makes no sense.
    """

    batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        require_whole_number("batch_size", self.batch_size)
        require_whole_number("seed", self.seed, least=0)
        self.require("above 0", lambda value: value > 0, "learning_rate", "gradient_clip")
        self.require("of at least 0", lambda value: value >= 0, "weight_decay")
        if self.ema_decay is not None:
            self.require("from 0 to below 1", lambda value: 0 <= value < 1, "ema_decay")

    def require(self, rule: str, holds: Callable[[float], bool], *names: str) -> None:
        """Check that the attributes of these names are finite numbers for which `holds` is true; `rule` says when.

        Raises:
            NasError: one is not.
        """
        for name in names:
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or not holds(value):
                raise NasError(f"{name} is {value!r}; it must be a number {rule}")


@dataclass(frozen=True, kw_only=True)
class RobustTrainingSettings(Settings):
    """The settings of robust training and of probes.

    Attributes:
        data_weight: weight of the data loss beside the distillation loss.
        feature_weight: weight of the loss of the stages' features beside the distillation loss.
        empty_context_share: how often a context is replaced by the empty text's.
    """

    data_weight: float = 0.0
    feature_weight: float = 0.0
    empty_context_share: float = EMPTY_CONTEXT_SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("of at least 0", lambda value: value >= 0, "data_weight", "feature_weight")
        self.require("from 0 to 1", lambda value: 0 <= value <= 1, "empty_context_share")


def make_optimizer(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """AdamW, with no gradients left from before; fused where torch can, which saves a fifth of a small UNet's step."""
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )
    optimizer.zero_grad()
    return optimizer
