"""Recipes, and as YAML, checked field by field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from nas._yaml import read_yaml
from nas.compression._numbers import is_number, require_paths, require_positive, require_whole_numbers
from nas.compression._settings import (
    DataSettings,
    DecoderSettings,
    EvaluationSettings,
    EvolutionSettings,
    JudgeSettings,
    RobustSettings,
    StepSettings,
)
from nas.errors import BudgetError, NasError
from nas.latency import LatencyTable, Timing

_MIXED = ("bf16", "fp16")
STAGE_SETTINGS = {
    "robust_training": RobustSettings,
    "evolution": EvolutionSettings,
    "decoder": DecoderSettings,
    "step_distillation": StepSettings,
    "evaluation": EvaluationSettings,
}
_PARTS = {"data": DataSettings, "judge": JudgeSettings, "timing": Timing, **STAGE_SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that `nas.compress` is told; see there."""

    pipeline: Any
    lut: str | os.PathLike[str] | LatencyTable
    out: str | os.PathLike[str]
    image_budget_ms: float | None = None
    steps: int = 8
    full_steps: int = 50
    guidance_scale: float = 5.0
    unet: str | os.PathLike[str] | None = None
    image: str | os.PathLike[str] | None = None
    seed: int = 0
    compute_on: str | None = None
    mixed_precision: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    robust_training: RobustSettings | None = field(default_factory=RobustSettings)
    evolution: EvolutionSettings | None = field(default_factory=EvolutionSettings)
    decoder: DecoderSettings | None = field(default_factory=DecoderSettings)
    step_distillation: StepSettings | None = field(default_factory=StepSettings)
    evaluation: EvaluationSettings | None = field(default_factory=EvaluationSettings)
    timing: Timing | None = None

    def __post_init__(self) -> None:
        require_whole_numbers(self, "steps", "full_steps")
        require_whole_numbers(self, "seed", least=0)
        if not isinstance(self.out, str | os.PathLike):
            raise NasError(f"out is {self.out!r}; it must be the path of a folder")
        require_paths(self, "unet", "image")
        require_positive(self, "image_budget_ms")
        if not isinstance(self.lut, str | os.PathLike | LatencyTable):
            raise NasError(f"lut is {self.lut!r}; it must be the path of a latency table, or the name of a bundled one")
        if self.mixed_precision not in (None, *_MIXED):
            raise NasError(f"mixed_precision is {self.mixed_precision!r}; choose {', '.join(_MIXED)}, or leave it out")
        if not is_number(self.guidance_scale) or self.guidance_scale < 0:
            raise NasError(f"guidance_scale is {self.guidance_scale!r}; it must be a number of at least 0")
        if self.evolution is not None and self.image_budget_ms is None:
            raise BudgetError("the evolution needs a budget: give image_budget_ms, or leave the evolution out")
        if self.folded and self.guidance_scale <= 1:
            raise NasError(f"there is no guidance to fold at guidance_scale {self.guidance_scale!r}; give one above 1")
        if self.step_distillation is not None and self.route[-1] != self.steps:
            raise NasError(f"the route {list(self.route)} must end with the recipe's steps, {self.steps}")
        teacher_steps = self.step_distillation and self.step_distillation.teacher_steps
        if teacher_steps is not None and teacher_steps <= max(self.route):
            raise NasError(f"teacher_steps is {teacher_steps}; it must be more than the route's {list(self.route)}")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.out)

    @property
    def guided(self) -> bool:
        """Whether there is guidance, as diffusers decides it."""
        return self.guidance_scale > 1

    @property
    def folded(self) -> bool:
        """Whether the guidance ends up in the UNet."""
        return self.step_distillation is not None and self.step_distillation.fold

    @property
    def route(self) -> tuple[int, ...]:
        """Steps of sampling after each distillation."""
        given = self.step_distillation and self.step_distillation.route
        return (2 * self.steps, self.steps) if given is None else tuple(given)

    @property
    def guidance_range(self) -> tuple[float, float]:
        """Of the guided samples of step distillation."""
        given = self.step_distillation and self.step_distillation.guidance_range
        if given is None:
            return max(0.5 * self.guidance_scale, 1.0), max(1.5 * self.guidance_scale, 1.0)
        low, high = given
        return low, high


def chosen(stage: str, given: Any) -> Any:
    """The settings of a stage: its defaults for True, None for False."""
    if isinstance(given, bool):
        return STAGE_SETTINGS[stage]() if given else None
    return given


def load_recipe(path: str | os.PathLike[str], **changes: Any) -> Recipe:
    """Read a recipe; its fields are those of `nas.compress`, those of a stage the fields of its settings.

    A stage that is not named, is empty, or is `true`, has its defaults; `false` leaves it out. Paths are as the command
    line takes them, relative to the working directory.

    Args:
        path: a YAML file.
        **changes: fields that replace those of the file.

    Raises:
        NasError: there is no such file, it is no YAML, or a field is missing, unknown or wrong; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise NasError(f"there is no recipe at {path}")
    try:
        data = read_yaml(path)
        if not isinstance(data, Mapping):
            raise NasError(f"it holds {_kind(data)}, not fields")
        return _made(Recipe, "", {**{name: _part(name, value) for name, value in data.items()}, **changes})
    except NasError as error:
        raise type(error)(f"{path}: {error}") from error


def _part(name: Any, value: Any) -> Any:
    if name not in _PARTS:
        return value
    if name in STAGE_SETTINGS and (value is None or isinstance(value, bool)):
        return chosen(name, value is not False)
    if not isinstance(value, Mapping):
        either = "true, false or fields" if name in STAGE_SETTINGS else "fields"
        raise NasError(f"{name} is {_kind(value)} where {either} are expected")
    return _made(_PARTS[name], name, value)


def _made(kind: type, where: str, data: Mapping[str, Any]) -> Any:
    known = {field.name: field for field in fields(kind)}
    if unknown := [name for name in data if name not in known]:
        of = f" of {where}" if where else ""
        raise NasError(f"{unknown[0]!r} is no field{of}; known are {', '.join(known)}")
    if missing := [name for name, field in known.items() if _needed(field) and name not in data]:
        raise NasError(f"the field {missing[0]!r} is missing")
    try:
        return kind(**{name: _value(known[name], value) for name, value in data.items()})
    except NasError as error:
        raise type(error)(f"{where}.{error}" if where else str(error)) from error
    except (TypeError, ValueError) as error:
        raise NasError(f"{where or 'it'} holds something of the wrong kind: {error}") from error


def _needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(field: Any, value: Any) -> Any:
    # YAML 1.1 reads 1e-3, without a point, as a text.
    if isinstance(value, str) and "float" in str(field.type):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _kind(value: Any) -> str:
    names = {dict: "fields", list: "a list", str: "a text", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
