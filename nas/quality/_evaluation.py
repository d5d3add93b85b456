"""What an evaluation gives back: quality of models against guidance."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nas._files import write_text_atomically
from nas.errors import NasError
from nas.quality._distance import Distance
from nas.quality.score import Score

SCHEMA = 1
MEASURES = ("clip_score", "kid", "cmmd", "fid")
DISTANCES = MEASURES[1:]


@dataclass(frozen=True, eq=False)
class QualityPoint:
    """One model at one guidance.

    Attributes:
        model: its name.
        guidance_scale: guidance; up to 1 means none.
        steps: sampling steps.
        scheduler: class of the scheduler.
        clip_score: mean cosine of picture and prompt, with the cosine of each prompt.
        kid: kernel distance over CLIP's features, see `Judge`.
        cmmd: Gaussian kernel distance over CLIP's features.
        fid: Fréchet distance; None where no Inception network was given.
        diverged: pictures that were not finite.
    """

    model: str
    guidance_scale: float
    steps: int
    scheduler: str
    clip_score: Score
    kid: Distance
    cmmd: Distance
    fid: Distance | None = None
    diverged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        data = {name: getattr(self, name) for name in _PLAIN}
        measures = {name: measure.to_dict() for name in MEASURES if (measure := getattr(self, name)) is not None}
        return {**data, **measures}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualityPoint:
        """What `to_dict` gave."""
        distances = {name: Distance.from_dict(data[name]) for name in DISTANCES if name in data}
        return cls(**{name: data[name] for name in _PLAIN}, clip_score=Score.from_dict(data["clip_score"]), **distances)

    def row(self) -> dict[str, Any]:
        """The figures without those of each picture."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        row |= {"prompts": len(self.clip_score.values), "seconds": self.clip_score.seconds}
        for name in MEASURES:
            if (measure := getattr(self, name)) is not None:
                mean = measure.mean if isinstance(measure, Score) else measure.value
                row |= {name: mean, f"{name}_low": measure.low, f"{name}_high": measure.high}
        return row


_PLAIN = ("model", "guidance_scale", "steps", "scheduler", "diverged")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of `nas.evaluate`.

    Attributes:
        points: one for each model and guidance, model by model, in the order of the arguments.
        judged_by: what all of them were judged by: numbers of prompts and real pictures, fingerprints, seed.
    """

    points: tuple[QualityPoint, ...]
    judged_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(dict.fromkeys(point.model for point in self.points))

    def curve(self, model: str) -> tuple[QualityPoint, ...]:
        """A model's points by rising guidance.

        Raises:
            NasError: there is no such model.
        """
        points = [point for point in self.points if point.model == model]
        if not points:
            raise NasError(f"no model is called {model!r}; there is {', '.join(self.models) or 'none'}")
        return tuple(sorted(points, key=lambda point: point.guidance_scale))

    def point(self, model: str, guidance_scale: float) -> QualityPoint:
        """A model at a guidance.

        Raises:
            NasError: it was not evaluated there.
        """
        for point in self.curve(model):
            if abs(point.guidance_scale - guidance_scale) < 1e-9:
                return point
        known = ", ".join(f"{point.guidance_scale:g}" for point in self.curve(model))
        raise NasError(f"{model!r} was not evaluated at guidance {guidance_scale:g}; there is {known}")

    def differences(self, model: str, reference: str) -> pd.DataFrame:
        """A model less another, prompt by prompt, at every guidance that both have.

        Returns:
            One row a guidance: guidance_scale, and for clip_score, kid, cmmd and, where there is one, fid, the
            difference, the ends of its 95 % interval (`kid_low`, `kid_high`) and whether it leaves out zero
            (`kid_settled`).

        Raises:
            NasError: there is no such model.
        """
        others = {point.guidance_scale: point for point in self.curve(reference)}
        rows = [
            _difference(point, others[point.guidance_scale])
            for point in self.curve(model)
            if point.guidance_scale in others
        ]
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a point: every measure with the ends of its interval (`kid`, `kid_low`, `kid_high`)."""
        return pd.DataFrame([point.row() for point in self.points])

    def to_dict(self) -> dict[str, Any]:
        """For reports: all points, how every model differs from the first one, and what they were judged by."""
        reference, *others = self.models
        return {
            "points": self.to_frame().to_dict("records"),
            "reference": reference,
            "differences": {name: self.differences(name, reference).to_dict("records") for name in others},
            "judged_by": dict(self.judged_by),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, with the values of each picture.

        Raises:
            StorageError: it cannot be written.
        """
        data = {
            "schema": SCHEMA,
            "judged_by": dict(self.judged_by),
            "points": [point.to_dict() for point in self.points],
        }
        write_text_atomically(path, json.dumps(data, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            NasError: there is no such file, or it is damaged.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise ValueError(f"its schema is {data['schema']}, this version reads {SCHEMA}")
            return cls(tuple(QualityPoint.from_dict(point) for point in data["points"]), data["judged_by"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NasError(f"{path} holds no evaluation that can be read: {error}") from error


def _difference(point: QualityPoint, reference: QualityPoint) -> dict[str, Any]:
    row: dict[str, Any] = {"guidance_scale": point.guidance_scale}
    for name in MEASURES:
        mine, other = getattr(point, name), getattr(reference, name)
        if mine is not None and other is not None:
            found = mine.minus(other)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            row[f"{name}_settled"] = found.settled
    return row
