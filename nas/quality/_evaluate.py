"""Judging finished models: CLIP score and distance to real pictures against guidance."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPModel

from nas._files import write_text_atomically
from nas._fingerprint import fingerprint_of_texts
from nas._progress import track
from nas.errors import NasError
from nas.quality._clip import Clip, find_clip
from nas.quality._evaluation import Evaluation, QualityPoint
from nas.quality._judge import Inception, Judge
from nas.quality._model import Model, OpenModel
from nas.quality._pictures import Pictures
from nas.sampling import check_prompts, require_whole_number

# Of the paper's curves.
GUIDANCE_SCALES = tuple(1 + 0.5 * index for index in range(19))
POINTS = "points"


def evaluate(
    models: Any,
    *,
    prompts: Sequence[str],
    real: Pictures,
    guidance_scales: Sequence[float] = GUIDANCE_SCALES,
    steps: int = 50,
    clip: Clip | CLIPModel | str | os.PathLike[str] | None = None,
    inception: Inception | None = None,
    seed: int = 0,
    batch_size: int = 32,
    compute_on: str | None = None,
    workdir: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Quality of models against guidance: CLIP score, and KID, CMMD and FID to real pictures, with 95 % intervals.

    All models draw the same prompts from the same noise, which depends on `seed` and the prompt's position alone, and
    are judged by one CLIP against the same real pictures; so differences of two models are taken prompt by prompt
    (`Evaluation.differences`). The intervals hold for pictures of prompts that are drawn independently; see `Score` and
    `Distance` for how they come about. KID and CMMD are unbiased; the interval of FID leaves out its bias.

    Args:
        models: name -> `Model`, pipeline or pipeline's folder; or a single one of these.
        prompts: the texts, one picture each.
        real: real pictures: a folder, bytes `[m x h x w x 3]`, or values from 0 to 1 `[m x 3 x h x w]`.
        guidance_scales: any numbers of at least 0; up to 1 means no guidance.
        steps: sampling steps of models that do not say.
        clip: the judge, as in `ClipScore`; the folder `clip` in the first model's own when None.
        inception: for FID, a network or its TorchScript file, see `Judge`; no FID when None.
        seed: of the noise.
        batch_size: prompts at a time.
        compute_on: "cuda" or "mps" for pipelines and a CLIP that are read from folders; what is given as an object lies
            where it lies, and a TorchScript file for FID is run on the CPU.
        workdir: folder in which every point is kept when it is done: the same call goes on there after an interruption,
            a call with more models or guidance computes only what is new. Nothing is kept when None.

    Raises:
        DeviceError: torch does not have the device of `compute_on` here.
        ModelError: a model, the CLIP model or Inception is missing, damaged or unsuitable.
        NasError: there are no prompts or pictures, or a number makes no sense.
        StorageError: `workdir` cannot be written.
    """
    named = _named(models)
    scales = _scales(guidance_scales)
    steps, seed = require_whole_number("steps", steps), require_whole_number("seed", seed, least=0)
    batch_size = require_whole_number("batch_size", batch_size)
    prompts = check_prompts(prompts)
    if compute_on is not None and not any(model.in_folder for model in named.values()):
        raise NasError("compute_on is for pipelines that are read from folders; these lie where they lie")
    how = {"steps": steps, "compute_on": compute_on}
    first, *others = named.values()
    opened = first.open(**how)
    found = find_clip(clip, opened.pipe, compute_on=compute_on)
    judge = Judge(found, prompts, real, inception, batch_size=batch_size)
    for model in others:
        model.open(**how)  # refuses now what would be refused after hours
    judged_by = {**judge.describe(), "seed": seed}
    points: list[QualityPoint] = []
    with track(description="evaluating", total=len(named) * len(scales) * len(prompts)) as bar:
        for index, (name, model) in enumerate(named.items()):
            opened = model.open(**how) if index else opened
            journal = _Journal(workdir, {"judged_by": judged_by, "model": opened.describe()})
            draw = _Drawing(opened, prompts, seed=seed, batch_size=batch_size)
            for scale in scales:
                if (point := journal.read(name, scale)) is None:
                    point = journal.keep(_point(name, scale, draw, judge, bar))
                else:
                    bar.update(len(prompts))
                points.append(point)
    return Evaluation(tuple(points), judged_by)


class _Drawing:
    """A model at work: its contexts are computed when the first picture is drawn, which may be never."""

    def __init__(self, opened: OpenModel, prompts: Sequence[str], *, seed: int, batch_size: int) -> None:
        self.opened = opened
        self._prompts, self._options = prompts, {"seed": seed, "batch_size": batch_size}
        self._contexts: tuple[Tensor, Tensor] | None = None

    def __call__(self, scale: float) -> Iterator[Tensor]:
        self._contexts = self._contexts or self.opened.encode(self._prompts)
        return self.opened.pictures(self._contexts, guidance_scale=scale, **self._options)


def _point(name: str, scale: float, draw: _Drawing, judge: Judge, bar: tqdm) -> QualityPoint:
    opened, verdict = draw.opened, judge(_counted(draw(scale), bar))
    return QualityPoint(name, scale, opened.steps, type(opened.scheduler).__name__, **verdict._asdict())


def _counted(pictures: Iterable[Tensor], bar: tqdm) -> Iterator[Tensor]:
    for batch in pictures:
        yield batch
        bar.update(len(batch))


class _Journal:
    """The points of one model that are done, a file each; what decided a point stands in its file and names it."""

    def __init__(self, workdir: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self._folder = None if workdir is None else Path(workdir) / POINTS
        self._identity = json.loads(json.dumps(identity))  # as it will be read back

    def read(self, model: str, scale: float) -> QualityPoint | None:
        """The point if it is there, under the name that the model has now."""
        if self._folder is None:
            return None
        try:
            data = json.loads(self._file(scale).read_text(encoding="utf-8"))
            if data["identity"] != self._identity:
                return None
            return QualityPoint.from_dict({**data["point"], "model": model})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NasError(f"{self._file(scale)} is damaged ({error}); delete it, it is computed again") from error

    def keep(self, point: QualityPoint) -> QualityPoint:
        """Write a point and give it back."""
        if self._folder is not None:
            data = {"identity": self._identity, "point": point.to_dict()}
            write_text_atomically(self._file(point.guidance_scale), json.dumps(data, allow_nan=False))
        return point

    def _file(self, scale: float) -> Path:
        assert self._folder is not None
        return self._folder / f"{fingerprint_of_texts([json.dumps([self._identity, scale], sort_keys=True)])}.json"


def _named(models: Any) -> dict[str, Model]:
    if not isinstance(models, Mapping):
        pipe = models.pipe if isinstance(models, Model) else models
        folder = pipe if isinstance(pipe, str | os.PathLike) else getattr(pipe, "name_or_path", None)
        models = {Path(folder).name if folder else "model": models}
    if not models:
        raise NasError("there are no models to evaluate; give at least one pipeline")
    named = {str(name): model if isinstance(model, Model) else Model(model) for name, model in models.items()}
    for model in named.values():
        model.require_folder()
    return named


def _scales(guidance_scales: Sequence[float]) -> list[float]:
    try:
        scales = sorted({float(scale) for scale in guidance_scales})
    except (TypeError, ValueError):
        scales = []
    if not scales or not all(np.isfinite(scale) and scale >= 0 for scale in scales):
        raise NasError(f"guidance_scales are {guidance_scales!r}; they must be numbers of at least 0, at least one")
    return scales
