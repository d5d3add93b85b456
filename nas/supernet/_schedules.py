"""How likely each block is skipped at each training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

from nas.errors import SearchSpaceError

if TYPE_CHECKING:
    from nas.search_space import SearchSpace

Probabilities = float | Mapping[str, float]
Schedule = Callable[[int], Probabilities]


def constant(probability: float) -> Schedule:
    """The same probability for every block at every step."""
    return lambda step: probability


def ramp(probability: float, steps: int, *, start: float = 0.0) -> Schedule:
    """From `start` at step 0 linearly to `probability` at step `steps`, and constant from there on."""

    def at(step: int) -> float:
        done = min(step / steps, 1.0) if steps > 0 else 1.0
        return start + (probability - start) * done

    return at


def by_depth(space: SearchSpace, first: float, last: float) -> Schedule:
    """From `first` for the first block linearly to `last` for the last, in network order, at every step.

    The linear decay rule of stochastic depth (https://arxiv.org/abs/1603.09382) is `by_depth(space, 0.0, p)`.
    """
    spans = max(len(space.blocks) - 1, 1)
    table = {block.place: first + (last - first) * index / spans for index, block in enumerate(space.blocks)}
    return lambda step: table


def as_schedule(skip_probability: Probabilities | Schedule) -> Schedule:
    """A number or a table is a schedule that never changes."""
    return skip_probability if callable(skip_probability) else constant(skip_probability)


def probabilities_at(schedule: Schedule, step: int, space: SearchSpace) -> dict[str, float]:
    """Place -> skip probability; places that a table does not name are never skipped, nor are fixed ones.

    Raises:
        SearchSpaceError: something that is no probability, or a place that the space does not have.
    """
    value = schedule(step)
    places = [block.place for block in space.blocks]
    table = dict(value) if isinstance(value, Mapping) else dict.fromkeys(places, value)
    if unknown := set(table) - set(places):
        raise SearchSpaceError(f"the search space {space.name!r} has no place {min(unknown)!r} to skip")
    for place, probability in table.items():
        if not _is_probability(probability):
            raise SearchSpaceError(f"the skip probability of {place} is {probability!r}; it must lie between 0 and 1")
    return {place: 0.0 if place in space.fixed else float(table.get(place, 0.0)) for place in places}


def _is_probability(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and 0 <= value <= 1
