"""After the search: the network itself, trained on and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas._files import replacing
from nas.architecture import Architecture
from nas.quality import Score
from nas.search._actions import RESULT, Latencies
from nas.search._finalists import Finalist
from nas.search._judging import Case, Judge
from nas.search._result import UNET, Evolution, history_frame, pareto_frame
from nas.search._steps import Step
from nas.search._training import Lessons

if TYPE_CHECKING:
    from nas.supernet import EvolvedUNet

_KEPT = "result"


@dataclass
class Finish:
    """Turns the network that a search ended with into an `Evolution`.

    Attributes:
        lut: latency table.
        workdir: where the network is kept, so that a run that is repeated gives the same one.
        lessons: the final training.
    """

    lut: Latencies
    workdir: Path
    lessons: Lessons

    def __call__(
        self, found: Finalist, steps: Sequence[Step], budget_ms: float, judge: Judge, full_score: Score
    ) -> Evolution:
        """Train, keep and score the network."""
        architecture, full = found.architecture, judge.supernet.space.full
        unet = self._network(architecture, judge)
        case = Case(len(steps) + 1, RESULT, architecture, full_score, trained=self.lessons.settings.final_steps > 0)
        score = judge.judge(case, unet).score
        records = list(judge.journal.records.values())
        predicted_full_ms = self.lut.latency_ms(full)
        return Evolution(
            architecture=architecture,
            unet=unet,
            history=history_frame(records, steps),
            steps=tuple(steps),
            pareto=pareto_frame(records),
            budget_ms=budget_ms,
            predicted_ms=self.lut.latency_ms(architecture),
            measured_ms=found.measured_ms,
            slowdown=found.slowdown,
            predicted_full_ms=predicted_full_ms,
            full_ms=found.full_ms or predicted_full_ms,
            score=score,
            full_score=full_score,
        )

    def _network(self, architecture: Architecture, judge: Judge) -> EvolvedUNet:
        from nas.supernet import EvolvedUNet

        supernet, path = judge.supernet, self.workdir / UNET
        if path.is_dir() and judge.journal.noted(_KEPT) == str(architecture):
            kept = EvolvedUNet.from_pretrained(path, torch_dtype=supernet.dtype, local_files_only=True)
            return kept.to(supernet.device).eval()
        unet = supernet.extract(architecture)
        self.lessons.finish(unet)
        with replacing(path) as temporary:
            unet.save_pretrained(temporary)
        judge.journal.note(_KEPT, str(architecture))
        self.lessons.forget()
        return unet.eval()
