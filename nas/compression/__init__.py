"""The whole recipe: architecture, decoder and steps, one after the other, within a budget for the whole image."""

from __future__ import annotations

from nas.compression._budget import image_of, unet_budget_ms
from nas.compression._compress import compress, follow
from nas.compression._recipe import Recipe, load_recipe
from nas.compression._records import Record
from nas.compression._result import Compression
from nas.compression._settings import (
    DataSettings,
    DecoderSettings,
    EvaluationSettings,
    EvolutionSettings,
    JudgeSettings,
    RobustSettings,
    StepSettings,
)

__all__ = [
    "Compression",
    "DataSettings",
    "DecoderSettings",
    "EvaluationSettings",
    "EvolutionSettings",
    "JudgeSettings",
    "Recipe",
    "Record",
    "RobustSettings",
    "StepSettings",
    "compress",
    "follow",
    "image_of",
    "load_recipe",
    "unet_budget_ms",
]
