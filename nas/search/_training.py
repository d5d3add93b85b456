"""Three kinds of training: of the supernet between rounds, of candidates to be judged, of the result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_tensors
from nas.errors import SearchError
from nas.search._settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from nas.supernet import EvolvedUNet, Supernet
    from nas.training import TrainingData

_UNFINISHED = ".training.pt"
_PROBE_OPTIONS = ("batch_size", "learning_rate", "data_weight", "gradient_clip", "empty_context_share")


@dataclass(frozen=True, eq=False)
class Lessons:
    """Who is taught what, how long; every lesson is decided by the settings' seed.

    Attributes:
        settings: steps and options.
        workdir: where unfinished training is kept.
        data: latents and text states; None if nothing is trained.
        teacher: what is imitated; shares no weights with the supernet.
        scheduler: noise schedule and prediction type.
    """

    settings: Settings
    workdir: Path
    data: TrainingData | None = None
    teacher: nn.Module | None = None
    scheduler: Any = None

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        settings: Settings,
        workdir: Path,
        *,
        data: TrainingData | None,
        teacher: nn.Module | None,
        scheduler: Any,
    ) -> Lessons:
        """Check that what the settings ask for can be taught; make the teacher where none is given.

        Raises:
            SearchError: steps without data or without a scheduler.
        """
        if not settings.trains:
            return cls(settings, workdir)
        for name, given in (("data", data), ("scheduler", scheduler)):
            if given is None:
                raise SearchError(f"probe_steps, train_steps and final_steps need {name}=...; give it or set them to 0")
        return cls(settings, workdir, data, _steady(teacher, supernet), scheduler)

    def describe(self) -> dict[str, Any]:
        """What decides the lessons beside the settings, for the journal."""
        if not self.settings.trains:
            return {}
        return {
            "teacher": fingerprint_of_modules(self.teacher),
            "data": self.data.fingerprint(),
            "schedule": fingerprint_of_tensors([("alphas_cumprod", self.scheduler.alphas_cumprod)]),
            "prediction_type": self.scheduler.config.get("prediction_type", "epsilon"),
        }

    def train(self, supernet: Supernet, round: int) -> None:
        """Robust training of the supernet at its current architecture, before the candidates of a round are judged."""
        self._teach(supernet, self.settings.train_steps, f"round-{round}")

    def finish(self, unet: EvolvedUNet) -> None:
        """Distillation of the result, without skipping."""
        if self.settings.final_steps:
            self._teach(unet, self.settings.final_steps, "final")

    def probation(self) -> Callable[[EvolvedUNet], AbstractContextManager[object]]:
        """What trains a candidate for the time of a `with` block; every candidate sees the same batches."""
        from nas.training import Probe

        options = {name: value for name, value in self.settings.training.items() if name in _PROBE_OPTIONS}
        seed, steps = self.settings.seed_for("probe"), self.settings.probe_steps
        return Probe(self.teacher, self.data, scheduler=self.scheduler, steps=steps, seed=seed, **options)

    def forget(self) -> None:
        """Drop what was kept of unfinished training, once its outcome is kept elsewhere."""
        for path in self.workdir.glob(f"*{_UNFINISHED}"):
            path.unlink()

    def _teach(self, network: nn.Module, steps: int, name: str) -> None:
        from nas.training import robust_train

        path = self.workdir / f"{name}{_UNFINISHED}"
        if not path.exists():
            self.forget()
        seed = self.settings.seed_for(name)
        options = {"steps": steps, "seed": seed, "checkpoint": path, **self.settings.training}
        robust_train(network, self.teacher, self.data, scheduler=self.scheduler, **options)


def _steady(teacher: nn.Module | None, supernet: Supernet) -> nn.Module:
    """A teacher that does not change when the supernet is trained."""
    from nas.training import shares_weights

    if teacher is None:
        return supernet.extract(supernet.space.full)
    return copy.deepcopy(teacher) if shares_weights(teacher, supernet) else teacher
