"""From a network that predicts noise to one that predicts v."""

from __future__ import annotations

from typing import Any, NamedTuple

from diffusers import DDIMScheduler
from torch import nn

from nas.errors import ModelError
from nas.sampling import ddim_scheduler
from nas.training._data import TrainingData
from nas.training._loop import TrainingLog
from nas.training._robust import robust_train
from nas.training.losses import prediction_type


class VPrediction(NamedTuple):
    """What `to_v_prediction` gives.

    Attributes:
        scheduler: the one that belongs to the network from now on.
        log: the losses.
    """

    scheduler: DDIMScheduler
    log: TrainingLog


def to_v_prediction(
    unet: nn.Module, data: TrainingData, *, scheduler: Any, steps: int, zero_snr: bool = True, **options: Any
) -> VPrediction:
    """Train a network that predicts noise, in place, to predict v = alpha e - sigma x (https://arxiv.org/abs/2202.00512).

    By the data alone, L_ori of SnapFusion §4. Stable Diffusion's schedule leaves a trace of the picture at its last
    timestep (t = 1: alpha is 0.068, not 0), while sampling starts from noise without one. A predicted noise cannot say
    what x is where alpha is 0, a predicted v can, so now the schedule can be put right: with `zero_snr` it is rescaled
    until alpha is 0 at the end (https://arxiv.org/abs/2305.08891), and steps are spaced to begin there.

    Args:
        unet: the network.
        data: clean latents and contexts.
        scheduler: the network's scheduler up to now; not changed.
        steps: training steps.
        zero_snr: put t = 1 right, as said; False keeps the schedule and its spacing.
        **options: of `robust_train`.

    Raises:
        ModelError: the network does not predict noise, by its scheduler.
        NasError: see `robust_train`.
    """
    if (kind := prediction_type(ddim_scheduler(scheduler))) != "epsilon":
        raise ModelError(f"the scheduler's network predicts {kind!r}, not 'epsilon'; there is nothing to convert")
    changes: dict[str, Any] = {"prediction_type": "v_prediction"}
    if zero_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    new = DDIMScheduler.from_config(ddim_scheduler(scheduler).config, **changes)
    return VPrediction(new, robust_train(unet, None, data, scheduler=new, steps=steps, **options))
