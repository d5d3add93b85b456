"""What an objective is told of a step, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.training._processes import Part

Losses = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """What an objective is told of a step.

    Attributes:
        number: of the step, from 0.
        network: what is trained.
        model: what is to be called: the network as the accelerator wrapped it.
        parts: the parts of the batch that this process takes.
        add_up: adds a tensor up over all processes.
    """

    number: int
    network: nn.Module
    model: nn.Module
    parts: list[Part]
    add_up: Callable[[Tensor], Tensor]

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """The sum of tensors of one shape, over this process's parts and all processes; no gradient."""
        return self.add_up(torch.stack([value.detach() for value in values]).sum(0))


Objective = Callable[[Step], list[Callable[[], Losses]]]
