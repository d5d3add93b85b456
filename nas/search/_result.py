"""What a search gives back, and its folder on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nas._files import replacing, write_text_atomically
from nas.architecture import Architecture
from nas.errors import SearchError
from nas.quality import Score
from nas.search._journal import Record
from nas.search._steps import Step

if TYPE_CHECKING:
    from nas.supernet import EvolvedUNet

EVOLUTION, HISTORY, UNET = "evolution.json", "history.csv", "unet"
SCHEMA = 2


@dataclass(eq=False)
class Evolution:
    """The outcome of `nas.evolve`.

    Attributes:
        architecture: what was found.
        unet: the network, independent of the supernet; a `UNet2DConditionModel` to the rest of diffusers.
        history: one row a judged candidate: round, action, place, stage, architecture, predicted_ms, delta_ms, score
            with low and high, delta_score with delta_low, delta_high and settled, value (delta_score / delta_ms),
            prompts, executed, reused, seconds.
        steps: what was done, round by round.
        pareto: the candidates that no other beats in both latency and score, by latency: latency_ms, score,
            architecture.
        budget_ms: the budget.
        predicted_ms: latency of the result by the table.
        measured_ms: latency of the result, measured; None if it was not measured.
        predicted_full_ms: latency of the full network by the table.
        full_ms: latency of the full network, measured; by the table if it was not measured.
        score: score of the result, after `final_steps` of training.
        full_score: score of the full network, before any training of this search.
        slowdown: by what fraction the full network was slower when the result was measured than in the table; None if
            it is not known.
        safety_margin: how much slower than predicted networks might be, a fraction: the search got under
            budget_ms / (1 + safety_margin) by the table.
    """

    architecture: Architecture
    unet: EvolvedUNet
    history: pd.DataFrame
    steps: tuple[Step, ...]
    pareto: pd.DataFrame
    budget_ms: float
    predicted_ms: float
    measured_ms: float | None
    predicted_full_ms: float
    full_ms: float
    score: Score
    full_score: Score
    slowdown: float | None = None
    safety_margin: float = 0.0

    @property
    def removed(self) -> tuple[str, ...]:
        """Places where nothing runs any more."""
        return self.architecture.removed

    @property
    def added(self) -> tuple[str, ...]:
        """Places with copies, each as often as it has copies."""
        return self.architecture.added

    @property
    def prediction_error(self) -> float | None:
        """(predicted - measured) / measured, as measured; None if it was not measured."""
        return None if self.measured_ms is None else self.predicted_ms / self.measured_ms - 1

    @property
    def prediction_error_at_equal_speed(self) -> float | None:
        """The same had the full network been as fast as in the table: the table's error, apart from the machine's."""
        if self.measured_ms is None or self.slowdown is None:
            return None
        return self.predicted_ms * (1 + self.slowdown) / self.measured_ms - 1

    def __repr__(self) -> str:
        latency = f"{self.predicted_ms:.2f} ms predicted"
        if self.measured_ms is not None:
            latency += f", {self.measured_ms:.2f} ms measured"
        latency += f", budget {self.budget_ms:.2f} ms, full {self.full_ms:.2f} ms"
        score = f"score {self.score.mean:.4f}, full {self.full_score.mean:.4f}"
        return f"Evolution({latency}; {score}; {len(self.removed)} blocks removed, {len(self.added)} added)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write into a folder: `evolution.json`, `history.csv` and `unet/`, which diffusers loads.

        What bears these names there is replaced, everything else left; so the folder of the run itself will do.

        Raises:
            StorageError: it cannot be written.
        """
        folder = Path(path)
        with replacing(folder / UNET) as temporary:
            self.unet.save_pretrained(temporary)
        write_text_atomically(folder / HISTORY, self.history.to_csv(index=False))
        write_text_atomically(folder / EVOLUTION, json.dumps(self._to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evolution:
        """Read what `save` wrote.

        Raises:
            SearchError: there is no such folder, or it is damaged.
        """
        from nas.supernet import EvolvedUNet

        folder = Path(path)
        try:
            data = json.loads((folder / EVOLUTION).read_text(encoding="utf-8"))
            history = pd.read_csv(folder / HISTORY, keep_default_na=False, na_values={"value": [""]})
            unet = EvolvedUNet.from_pretrained(folder / UNET, local_files_only=True).eval()
            return cls._from_dict(data, unet, history)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchError(f"{folder} holds no evolution that can be read: {error}") from error

    def _to_dict(self) -> dict[str, Any]:
        plain = (
            "budget_ms",
            "predicted_ms",
            "measured_ms",
            "predicted_full_ms",
            "full_ms",
            "slowdown",
            "safety_margin",
        )
        return {
            "schema": SCHEMA,
            "architecture": str(self.architecture),
            **{name: getattr(self, name) for name in plain},
            "score": self.score.to_dict(),
            "full_score": self.full_score.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "pareto": self.pareto.to_dict(orient="records"),
        }

    @classmethod
    def _from_dict(cls, data: dict[str, Any], unet: EvolvedUNet, history: pd.DataFrame) -> Evolution:
        if (schema := data.pop("schema")) != SCHEMA:
            raise ValueError(f"its schema is {schema}, this version reads {SCHEMA}")
        read = {
            "architecture": Architecture.parse(data["architecture"]),
            "score": Score.from_dict(data["score"]),
            "full_score": Score.from_dict(data["full_score"]),
            "steps": tuple(Step.from_dict(step) for step in data["steps"]),
            "pareto": pd.DataFrame(data["pareto"], columns=PARETO_COLUMNS),
        }
        return cls(**{**data, **read}, unet=unet, history=history)


PARETO_COLUMNS = ["latency_ms", "score", "architecture"]


def pareto_frame(records: Iterable[Record]) -> pd.DataFrame:
    """The networks, judged on all prompts, that no other beats in both predicted latency and score, by latency."""
    complete = [record for record in records if record.stage == "complete"]
    rows = [(record.predicted_ms, record.score, record.architecture) for record in complete]
    rows.sort(key=lambda row: (row[0], -row[1]))
    front: list[tuple[float, float, str]] = []
    for row in rows:
        if not front or row[1] > front[-1][1]:
            front.append(row)
    return pd.DataFrame(front, columns=PARETO_COLUMNS)


def history_frame(records: Iterable[Record], steps: Sequence[Step]) -> pd.DataFrame:
    """One row a judged candidate, in the order of judging."""
    executed = {(step.round, move.action, move.place) for step in steps for move in step.moves}
    return pd.DataFrame([_row(record, executed) for record in records])


def _row(record: Record, executed: set[tuple[int, str, str]]) -> dict[str, Any]:
    row = asdict(record)
    row["prompts"] = len(row.pop("values"))
    row["executed"] = (record.round, record.action, record.place) in executed
    row["value"] = float("nan") if record.value is None else record.value
    del row["score_seconds"]
    return row
