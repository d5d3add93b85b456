"""The UNet with every block skippable, and the networks that are taken out of it."""

# Not used here: a pipeline that holds an `EvolvedUNet` is read back by diffusers only if the module that its
# `model_index.json` names, this one, also has the base class whose `from_pretrained` is to be called.
from diffusers import ModelMixin  # noqa: F401

from nas.supernet._evolved import EvolvedUNet
from nas.supernet._schedules import Schedule, by_depth, constant, ramp, sandwich
from nas.supernet._supernet import Supernet

__all__ = ["EvolvedUNet", "Schedule", "Supernet", "by_depth", "constant", "ramp", "sandwich"]
