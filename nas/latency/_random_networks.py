"""Networks drawn at random: those that say what blocks take in context, and those that a table is held against."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nas.architecture import Architecture
from nas.errors import TableError
from nas.search_space import SearchSpace
from nas.workload import Workload

if TYPE_CHECKING:
    from nas.latency._bundles import Subject


def distinct_architectures(
    space: SearchSpace, count: int, seed: int, *, besides: Iterable[Architecture] = ()
) -> Iterator[Architecture]:
    """Random architectures without repetition (as far as a small space allows), not full, empty or one of `besides`."""
    rng = random.Random(seed)
    seen = {space.full, space.empty, *besides}
    for _ in range(count):
        candidates = (space.sample(rng) for _ in range(100))
        architecture = next((c for c in candidates if c not in seen), None) or space.sample(rng)
        seen.add(architecture)
        yield architecture


def random_network(space: SearchSpace, architecture: Architecture, workload: Workload, home: str) -> Subject:
    """A network with random weights and its inputs, made on a torch device in the workload's precision."""
    from nas.unet import example_inputs, make_network, torch_dtype

    network = make_network(space, architecture, dtype=torch_dtype(workload.precision), device=home, seed=0)
    return network, (), example_inputs(space, workload, device=home)


def require_count(name: str, value: object, *, least: int = 0) -> None:
    """Refuse a number of networks that is none.

    Raises:
        TableError: it is no whole number, or too small; `name` says which.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TableError(f"{name} is {value!r}; it must be a whole number of at least {least}")
