"""Random architectures of a given latency: what a search has to beat."""

from __future__ import annotations

import random

from nas.architecture import Architecture
from nas.errors import BudgetError
from nas.search._actions import Action, Latencies, additions, removals
from nas.search._strategy import exceeds
from nas.search_space import SearchSpace


def random_architecture_at(space: SearchSpace, lut: Latencies, budget_ms: float, rng: random.Random) -> Architecture:
    """A random architecture without copies, just under a latency: nothing removed fits back in.

    Blocks go in random order until the budget is met; then those that were removed come back, in random order, where
    they fit.

    Args:
        space: the search space.
        lut: its latency table.
        budget_ms: predicted latency to stay under.
        rng: where the randomness comes from.

    Raises:
        BudgetError: even the smallest network is above the budget.
    """
    architecture = space.full
    while exceeds(lut.latency_ms(architecture), budget_ms):
        choices = removals(space, architecture, lut)
        if not choices:
            least_ms = lut.latency_ms(architecture)
            raise BudgetError(f"no network is under {budget_ms:.2f} ms; the smallest takes {least_ms:.2f} ms")
        architecture = rng.choice(choices).apply(architecture)
    returning: list[Action] = additions(space, architecture, lut, copies=False)
    rng.shuffle(returning)
    for action in returning:
        larger = action.apply(architecture)
        architecture = architecture if exceeds(lut.latency_ms(larger), budget_ms) else larger
    return architecture
