"""Schedulers that were asked for their steps."""

from __future__ import annotations

import copy
from typing import Any

import torch

from nas.errors import NasError


def scheduled(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> Any:
    """A copy of a diffusers scheduler, ready for so many steps; the scheduler is left as it is.

    The UNet predicts once for each of its `timesteps`: for PNDM that is once more than there are steps, for Heun almost
    twice as often.

    Raises:
        NasError: it cannot do so many steps.
    """
    scheduler = copy.deepcopy(scheduler)
    try:
        scheduler.set_timesteps(steps, device=device)
    except (ValueError, IndexError) as error:
        raise NasError(f"steps is {steps}, which the {type(scheduler).__name__} cannot do: {error}") from error
    return scheduler
