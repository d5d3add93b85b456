"""Recipes as YAML, checked field by field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from nas._yaml import read_yaml
from nas.compression._settings import (
    DataSettings,
    DecoderSettings,
    EvaluationSettings,
    EvolutionSettings,
    JudgeSettings,
    Recipe,
    RobustSettings,
    StepSettings,
)
from nas.errors import NasError
from nas.latency import Timing

_STAGES = {
    "robust_training": RobustSettings,
    "evolution": EvolutionSettings,
    "decoder": DecoderSettings,
    "step_distillation": StepSettings,
    "evaluation": EvaluationSettings,
}
_PARTS = {"data": DataSettings, "judge": JudgeSettings, "timing": Timing, **_STAGES}


def load_recipe(path: str | os.PathLike[str], **changes: Any) -> Recipe:
    """Read a recipe; its fields are those of `nas.compress`, those of a stage the fields of its settings.

    A stage that is not named, or `true`, has its defaults; `false` leaves it out. Paths are as the command line takes
    them, relative to the working directory.

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
    if name in _STAGES and (value is None or isinstance(value, bool)):
        return _PARTS[name]() if value in (None, True) else None
    if not isinstance(value, Mapping):
        either = "true, false or fields" if name in _STAGES else "fields"
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
