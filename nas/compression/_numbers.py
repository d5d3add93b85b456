"""What numbers of a recipe may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nas.sampling import require_whole_number


def is_number(value: Any) -> bool:
    """A finite one; YAML may give anything."""
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
