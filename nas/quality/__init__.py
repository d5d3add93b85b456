"""Scorers: a number for a network's quality, with its interval, from samples that all networks share."""

from __future__ import annotations

from nas.quality._clip import Clip
from nas.quality._clip_score import ClipScore
from nas.quality._image_preparation import ImagePreparation
from nas.quality._prompts import load_captions
from nas.quality._teacher_distance import TeacherDistance
from nas.quality.score import Difference, Score, Scorer
from nas.sampling import sample_latents

__all__ = [
    "Clip",
    "ClipScore",
    "Difference",
    "ImagePreparation",
    "Score",
    "Scorer",
    "TeacherDistance",
    "load_captions",
    "sample_latents",
]
