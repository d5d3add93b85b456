"""Judging networks: scorers for the search, and the quality of finished models against guidance, with intervals."""

from __future__ import annotations

from nas.quality._clip import Clip
from nas.quality._clip_score import ClipScore
from nas.quality._distance import Distance, cmmd, cubic_kernel, frechet_distance, gaussian_kernel, kid, squared_mmd
from nas.quality._evaluate import GUIDANCE_SCALES, evaluate
from nas.quality._evaluation import Evaluation, QualityPoint
from nas.quality._image_preparation import ImagePreparation
from nas.quality._judge import Judge, Verdict
from nas.quality._model import SCHEDULERS, Model
from nas.quality._pictures import load_pictures, picture_files, read_sheet
from nas.quality._prompts import load_captions
from nas.quality._teacher_distance import TeacherDistance
from nas.quality.score import Difference, Score, Scorer
from nas.sampling import sample_latents

__all__ = [
    "GUIDANCE_SCALES",
    "SCHEDULERS",
    "Clip",
    "ClipScore",
    "Difference",
    "Distance",
    "Evaluation",
    "ImagePreparation",
    "Judge",
    "Model",
    "QualityPoint",
    "Score",
    "Scorer",
    "TeacherDistance",
    "Verdict",
    "cmmd",
    "cubic_kernel",
    "evaluate",
    "frechet_distance",
    "gaussian_kernel",
    "kid",
    "load_captions",
    "load_pictures",
    "picture_files",
    "read_sheet",
    "sample_latents",
    "squared_mmd",
]
