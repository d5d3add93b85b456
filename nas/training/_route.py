"""From many steps to few: distillations one after the other, each the teacher of the next."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nas.errors import NasError
from nas.sampling import require_whole_number
from nas.training._data import TrainingData
from nas.training._distil_steps import distil_steps
from nas.training._loop import TrainingLog
from nas.unet import fold_guidance, folded_width


@dataclass(frozen=True, eq=False)
class Stage:
    """A distillation of a route.

    Attributes:
        name: "16-full" or "8-student" for instance: the steps, and whether the network has the teacher's architecture.
        student_steps: DDIM steps with which the network samples.
        network: the result, in eval mode.
        log: the losses.
    """

    name: str
    student_steps: int
    network: nn.Module
    log: TrainingLog


def distil_route(
    teacher: nn.Module,
    data: TrainingData,
    *,
    scheduler: Any,
    steps: int | Sequence[int],
    route: Sequence[int] = (16, 8),
    student: nn.Module | None = None,
    fold: bool = False,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Stage]:
    """Distil a network to fewer and fewer steps, the result of each stage being the teacher of the next.

    With a `student`, another and usually smaller network, this is the paper's route (§4,
    https://arxiv.org/abs/2306.00980): with `route=(16, 8)` teacher and student are each distilled to 16 steps by the
    teacher at 32, then the student to 8 steps by the teacher distilled to 16. `route=(8,)` is the direct one, where the
    teacher's 16 steps are made into 8 at once.

    Args:
        teacher: a network with v-prediction; not changed.
        data: see `distil_steps`.
        scheduler: see `distil_steps`.
        steps: training steps of every distillation, or a number for each entry of `route`.
        route: steps of sampling after each stage, descending.
        student: the network to end up with; not changed. None: a copy of the teacher.
        fold: the network to end up with is told the guidance in the last stage, so that its steps are one evaluation.
        folder: where each stage keeps its checkpoint; stages that are done are read, one that was stopped goes on.
        **options: of `distil_steps`, the same for all stages. `guided_share` above 0 makes a guided teacher's guidance
            part of what the next stage learns.

    Returns:
        All stages in order; the network of the last one is the result.

    Raises:
        ModelError: see `distil_steps`.
        NasError: see `distil_steps`; or a route that does not descend, or other numbers of steps than stages.
        SearchError: a checkpoint is of a run with other settings.
    """
    route, lengths = _checked(route, steps)
    stages: list[Stage] = []
    full, small = teacher, student
    for student_steps, length in zip(route, lengths, strict=True):
        last = student_steps == route[-1]
        learners = _learners(full, small, last=last, fold=fold)
        for name, network in learners.items():
            label = f"{student_steps}-{name}"
            path = None if folder is None else Path(folder) / f"{label}.pt"
            settings = {"student_steps": student_steps, "steps": length, "checkpoint": path, **options}
            log = distil_steps(network, full, data, scheduler=scheduler, **settings)
            stages.append(Stage(label, student_steps, network.eval(), log))
        full, small = learners.get("full", full), learners.get("student")
    return stages


def _learners(full: nn.Module, small: nn.Module | None, *, last: bool, fold: bool) -> dict[str, nn.Module]:
    """The networks that a stage trains. The full one is needed as the next teacher, or as the result."""
    learners = {}
    if small is None or not last:
        learners["full"] = copy.deepcopy(full)
    if small is not None:
        learners["student"] = copy.deepcopy(small)
    if last and fold:
        [network] = learners.values()
        if folded_width(network) is None:
            fold_guidance(network)
    return learners


def _checked(route: Sequence[int], steps: int | Sequence[int]) -> tuple[list[int], list[int]]:
    route = [require_whole_number("a step number of the route", number) for number in route]
    if not route or sorted(set(route), reverse=True) != route:
        raise NasError(f"the route is {route}; give numbers of steps that descend, for instance (16, 8)")
    lengths = list(steps) if isinstance(steps, Sequence) else [steps] * len(route)
    if len(lengths) != len(route):
        raise NasError(
            f"steps has {len(lengths)} numbers for a route of {len(route)} stages; give one for each, or one"
        )
    return route, lengths
