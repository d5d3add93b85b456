"""What the recipe ends with, and its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._files import write_text_atomically
from nas._json import plain
from nas.compression._records import Record
from nas.latency import ImageLatency
from nas.quality import Score

if TYPE_CHECKING:
    import pandas as pd

    from nas.quality import Evaluation

PIPELINE, REPORT = "pipeline", "report.json"
SCHEMA = 1
_GAINS = ("steps", "unet_runs", "unet_ms", "decoder_ms", "image_ms", "unet_parameters", "decoder_parameters")
_SCORE = ("clip_score", "clip_score_low", "clip_score_high")


@dataclass(frozen=True, eq=False)
class Compression:
    """The outcome of `nas.compress`.

    Attributes:
        folder: where everything lies.
        records: of the stages, in order; the plan comes first.
        image_budget_ms: what was asked for; None where nothing was.
        unet_budget_ms: what that left for one run of the UNet.
        before: the image of the pipeline as it was, measured at the end; None where the table's device is elsewhere.
        after: the image of what came of it, measured beside the other.
        evaluation: quality against guidance; None where it was left out.
    """

    folder: Path
    records: tuple[Record, ...]
    image_budget_ms: float | None
    unet_budget_ms: float | None
    before: ImageLatency | None
    after: ImageLatency | None
    evaluation: Evaluation | None

    @property
    def pipeline(self) -> Path:
        """The folder of the pipeline that came of it.

        `DiffusionPipeline.from_pretrained` reads it in a process that has imported `nas.supernet` where the UNet was
        evolved, and `nas.decoder` where the decoder was slimmed.
        """
        return self.folder / PIPELINE

    @property
    def report(self) -> Path:
        """The file that says what each stage cost and gained, see `to_dict`."""
        return self.folder / REPORT

    @property
    def speedup(self) -> float | None:
        """How many times less an image takes, measured; None where it was not."""
        return None if self.before is None or self.after is None else self.before.total_ms / self.after.total_ms

    @property
    def within_budget(self) -> bool | None:
        """Whether the image that came of it, measured, is within the budget; None without a budget or a measurement."""
        if self.image_budget_ms is None or self.after is None:
            return None
        return self.after.total_ms <= self.image_budget_ms

    def to_frame(self) -> pd.DataFrame:
        """One row a stage: what it cost, and the model after it.

        Latencies are the table's for the UNet and the plan's for everything else, in ms; the CLIP score is of the
        recipe's prompts at the steps of that row, with its 95 % interval. `clip_score_gain` is the model's score less
        that of the pipeline as it was, prompt by prompt from the same noise, with its interval.
        """
        import pandas as pd

        staged = [record for record in self.records if "model" in record.figures]
        return pd.DataFrame(
            {
                "stage": record.stage,
                "seconds": record.seconds,
                "training_steps": record.training_steps,
                **{name: record.figures["model"][name] for name in (*_GAINS, *_SCORE)},
                **_gain(record, staged[0]),
            }
            for record in staged
        )

    def to_dict(self) -> dict[str, Any]:
        """The report, for JSON."""
        return plain(
            {
                "schema": SCHEMA,
                "image_budget_ms": self.image_budget_ms,
                "unet_budget_ms": self.unet_budget_ms,
                "seconds": sum(record.seconds for record in self.records),
                "speedup": self.speedup,
                "within_budget": self.within_budget,
                "before": _image(self.before),
                "after": _image(self.after),
                "stages": [_stage(record, self.records[0]) for record in self.records],
                "pipeline": self.pipeline,
            }
        )

    def save(self) -> None:
        """Write the report into the folder.

        Raises:
            StorageError: it cannot be written.
        """
        write_text_atomically(self.report, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


def _gain(record: Record, first: Record) -> dict[str, float | None]:
    """How a model's CLIP score differs from that of the pipeline as it was; no interval with a single prompt."""
    now, before = (Score.of(one.figures["model"]["clip_scores"]) for one in (record, first))
    found = now.minus(before)
    return plain({"clip_score_gain": found.mean, "clip_score_gain_low": found.low, "clip_score_gain_high": found.high})


def _image(image: ImageLatency | None) -> dict[str, Any] | None:
    if image is None:
        return None
    return {
        "total_ms": image.total_ms,
        "steps": image.steps,
        "parts": image.breakdown().to_dict("records"),
        "provenance": image.provenance,
    }


def _stage(record: Record, first: Record) -> dict[str, Any]:
    """A record without what is there for its next call alone."""
    figures = {name: _brief(value) for name, value in record.figures.items()}
    if "model" in figures:
        figures["model"] |= _gain(record, first)
    cost = {"seconds": record.seconds, "training_steps": record.training_steps}
    return {"stage": record.stage, **cost, "settings": record.identity.get("settings"), **figures}


def _brief(value: Any) -> Any:
    # The score of every prompt is in the record.
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if name != "clip_scores"}
    return value
