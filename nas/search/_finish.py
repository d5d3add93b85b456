"""After the search: the network itself, trained on, scored and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas._files import replacing
from nas.architecture import Architecture
from nas.errors import DeviceError
from nas.quality import Score
from nas.search._actions import RESULT, Latencies
from nas.search._judging import Case, Judge
from nas.search._result import UNET, Evolution, history_frame, pareto_frame
from nas.search._steps import Step
from nas.search._training import Lessons

if TYPE_CHECKING:
    from torch import nn

    from nas.supernet import EvolvedUNet

_MEASURED, _KEPT = "measured", "result"


@dataclass
class Finish:
    """Turns the architecture that a search found into an `Evolution`.

    Attributes:
        lut: latency table.
        workdir: where the network is kept, so that a run that is repeated gives the same one.
        lessons: the final training.
        measure: whether to measure on the table's device, or what to measure with.
    """

    lut: Latencies
    workdir: Path
    lessons: Lessons
    measure: bool | Callable[[nn.Module], float] = True

    def __call__(
        self, architecture: Architecture, steps: Sequence[Step], budget_ms: float, judge: Judge, full_score: Score
    ) -> Evolution:
        """Train, keep, score and measure the network."""
        full = judge.supernet.space.full
        unet = self._network(architecture, judge)
        case = Case(len(steps) + 1, RESULT, architecture, full_score, trained=self.lessons.settings.final_steps > 0)
        score = judge.judge(case, unet).score
        measured = self._measured(unet, judge)
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
            measured_ms=measured.get("result"),
            machine_drift=measured.get("drift"),
            predicted_full_ms=predicted_full_ms,
            full_ms=measured.get("full") or predicted_full_ms,
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

    def _measured(self, unet: EvolvedUNet, judge: Judge) -> dict[str, float]:
        """Result and full network in ms, and the machine's drift beside the result; measured once a run."""
        if self.measure is False:
            return {}
        known = judge.journal.noted(_MEASURED)
        if known is None:
            full = judge.supernet.candidate(judge.supernet.space.full)
            known = self._measure_by_hand(unet, full) if callable(self.measure) else self._measure_as_table(unet, full)
            judge.journal.note(_MEASURED, known)
        return known

    def _measure_by_hand(self, unet: nn.Module, full: nn.Module) -> dict[str, float]:
        return {"result": float(self.measure(unet)), "full": float(self.measure(full))}

    def _measure_as_table(self, unet: nn.Module, full: nn.Module) -> dict[str, float]:
        from nas.latency import measure_networks_ms

        try:
            rows = measure_networks_ms({"result": unet, "full": full}, self.lut)
        except DeviceError:  # the table may be of a device that is elsewhere
            return {}
        return {**{name: row.latency_ms for name, row in rows.items()}, "drift": rows["result"].drift}
