"""What values of a recipe may be; YAML may give anything."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from nas.errors import NasError
from nas.sampling import require_whole_number


def is_number(value: Any) -> bool:
    """A finite one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any) -> bool:
    """A list of them, at least one."""
    return isinstance(values, Sequence) and len(values) > 0 and all(map(is_number, values))


def is_route(steps: Any) -> bool:
    """Numbers of steps that descend."""
    whole = are_numbers(steps) and all(isinstance(number, int) for number in steps)
    return whole and min(steps) >= 1 and sorted(set(steps), reverse=True) == list(steps)


def require_whole_numbers(settings: Any, *names: str, least: int = 1) -> None:
    """Check the attributes of these names.

    Raises:
        NasError: one is not a whole number, or less than `least`.
    """
    for name in names:
        require_whole_number(name, getattr(settings, name), least=least)


def require_switches(settings: Any, *names: str) -> None:
    """Check the attributes of these names.

    Raises:
        NasError: one is neither true nor false.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), bool):
            raise NasError(f"{name} is {value!r}; it must be true or false")


def require_paths(settings: Any, *names: str) -> None:
    """Check the attributes of these names.

    Raises:
        NasError: one is neither a path nor None.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not isinstance(value, str | os.PathLike):
            raise NasError(f"{name} is {value!r}; it must be the path of a file or folder")


def require_positive(settings: Any, *names: str) -> None:
    """Check the attributes of these names.

    Raises:
        NasError: one is neither a number above 0 nor None.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (is_number(value) and value > 0):
            raise NasError(f"{name} is {value!r}; it must be a number above 0")
