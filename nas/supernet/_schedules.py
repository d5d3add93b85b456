"""How likely each block is skipped at each training step, and in how many paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

from nas.errors import SearchSpaceError

if TYPE_CHECKING:
    from nas.search_space import SearchSpace

Probabilities = float | Mapping[str, float]
Schedule = Callable[[int], Probabilities | Sequence[Probabilities]]


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


def sandwich(skip_probability: Probabilities | Schedule, *, smallest: Probabilities = 1.0, draws: int = 2) -> Schedule:
    """In every step the full network, the smallest, and some at random (https://arxiv.org/abs/1903.05134).

    What lies between the two is bounded by them, so training both at every step helps all of it. A step has
    `draws + 2` forward passes, of which the smallest costs little; `robust_train` runs the teacher once for all.

    Args:
        skip_probability: of the random ones: a number, a table or a schedule of either (`ramp`, `by_depth`).
        smallest: which blocks the smallest lacks: 1.0 for all that may go, or a table {place: 1.0} of those.
        draws: how many random ones.

    Raises:
        SearchSpaceError: `draws` is no number of paths.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 0:
        raise SearchSpaceError(f"draws is {draws!r}; it must be a whole number of at least 0")
    inner = as_schedule(skip_probability)
    return lambda step: [0.0, smallest, *[inner(step)] * draws]


def as_schedule(skip_probability: Probabilities | Schedule) -> Schedule:
    """A number or a table is a schedule that never changes."""
    return skip_probability if callable(skip_probability) else constant(skip_probability)


def probabilities_at(schedule: Schedule, step: int, space: SearchSpace) -> list[dict[str, float]]:
    """For each path of a step place -> skip probability; one path unless the schedule gives a sequence.

    Places that a table does not name are never skipped, nor are fixed ones.

    Raises:
        SearchSpaceError: something that is no probability, a place that the space does not have, or no path.
    """
    value = schedule(step)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise SearchSpaceError(f"the skip schedule gives no path for step {step}")
    return [_table(value, space) for value in values]


def _table(value: Probabilities, space: SearchSpace) -> dict[str, float]:
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
