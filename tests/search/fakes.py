"""A scorer and a latency table whose every figure is known, so that brute force finds the best choice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from nas import Architecture, SearchSpace, Supernet
from nas.errors import ArchitectureError
from nas.quality import Score


@dataclass(frozen=True)
class AdditiveTable:
    """Every block costs its own ms; a copy costs as much as its block."""

    space: SearchSpace
    cost_ms: dict[str, float]
    base_ms: float = 1.0

    def latency_ms(self, architecture: Architecture) -> float:
        runs = {place: int(choice) for place, choice in architecture.items()}
        if runs.keys() != self.cost_ms.keys() or max(runs.values()) > 1 + self.space.max_copies:
            raise ArchitectureError("the architecture is of another space")
        return self.base_ms + sum(runs[place] * ms for place, ms in self.cost_ms.items())


@dataclass
class AdditiveScorer:
    """Every run of a block is worth its own amount of score, with noise per prompt and network."""

    worth: dict[str, float]
    prompts: int = 8
    noise: float = 0.0
    copy_worth: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)
    first: int = 0

    def __call__(self, unet: Any) -> Score:
        architecture = unet.architecture
        self.calls.append((str(architecture), self.prompts))
        rng = np.random.default_rng([ord(letter) for letter in str(architecture)])
        mine = slice(self.first, self.first + self.prompts)
        offsets = np.linspace(-1, 1, 64)[mine]  # prompts differ, for all networks alike
        noise = self.noise * rng.standard_normal(64)[mine]
        return Score.of(self.mean(architecture) + offsets + noise, seconds=0.5)

    def mean(self, architecture: Architecture) -> float:
        """The score without offsets and noise."""
        runs = {place: architecture.runs(place) for place in self.worth}
        once = sum(worth for place, worth in self.worth.items() if runs[place])
        return once + self.copy_worth * sum(max(count - 1, 0) * self.worth[place] for place, count in runs.items())

    def describe(self) -> dict[str, Any]:
        return {"scorer": "additive", "worth": self.worth, "prompts": self.prompts, "noise": self.noise}

    def subset(self, count: int, *, first: int = 0) -> AdditiveScorer:
        return replace(self, prompts=count, first=self.first + first)


class QuickSupernet(Supernet):
    """Candidates without weights, for scorers that look at the architecture alone."""

    def candidate(self, architecture: Architecture) -> SimpleNamespace:
        return SimpleNamespace(architecture=architecture)


def best_by_brute_force(space: SearchSpace, lut: AdditiveTable, scorer: AdditiveScorer, budget_ms: float) -> float:
    """The highest score of all architectures without copies within the budget."""
    return max(scorer.mean(a) for a in every_architecture(space) if lut.latency_ms(a) <= budget_ms)


def every_architecture(space: SearchSpace) -> Iterator[Architecture]:
    free = [block.place for block in space.blocks if block.place not in space.fixed]
    for choices in itertools.product("01", repeat=len(free)):
        taken = dict(zip(free, choices, strict=True))
        yield Architecture(tuple((place, taken.get(place, "1")) for place in space.full.places))
