"""The options of a search that are plain numbers, checked once, and what identifies a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nas.errors import SearchError
from nas.search._actions import Latencies, can_copy
from nas.search_space import SearchSpace

# Options of training that say how much memory it takes, not what comes of it.
_OF_MEMORY = ("accumulate", "gradient_checkpointing", "check_memory")


@dataclass(frozen=True)
class Settings:
    """How much of what a search does; see `nas.evolve`."""

    seed: int = 0
    probe_steps: int = 0
    train_steps: int = 0
    final_steps: int = 0
    max_rounds: int = 100
    first_look: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seed", "probe_steps", "train_steps", "final_steps"):
            _require_whole(name, getattr(self, name), least=0)
        _require_whole("max_rounds", self.max_rounds, least=1)
        if self.first_look is not None:
            _require_whole("first_look", self.first_look, least=2)  # one sample has no interval

    @property
    def trains(self) -> bool:
        """Whether anything is trained, for which data and a teacher are needed."""
        return self.probe_steps + self.train_steps + self.final_steps > 0

    def seed_for(self, *names: object) -> int:
        """A seed of its own for each part of the search, the same in every process."""
        text = "/".join(str(name) for name in (self.seed, *names))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def identity(self) -> dict[str, Any]:
        """For the journal."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "training"}
        training = {name: _named(value) for name, value in self.training.items() if name not in _OF_MEMORY}
        return {**plain, "training": training}


def fingerprint_of_space(space: SearchSpace) -> str:
    """Changes with the blocks and what may be done to them."""
    return _digest([[str(block), block.parameters] for block in space.blocks] + [space.max_copies, sorted(space.fixed)])


def fingerprint_of_latencies(space: SearchSpace, lut: Latencies) -> str:
    """Changes with any latency that the table predicts."""
    full = space.full
    networks = [full.remove(block) for block in space.removable(full)]
    networks += [full.duplicate(block) for block in space.blocks] if can_copy(space, lut) else []
    return _digest([lut.base_ms, *(lut.latency_ms(network) for network in [full, *networks])])


def _named(value: Any) -> Any:
    # Of an object, such as an Accelerator, the class; its text may hold an address, another one each time.
    return value if isinstance(value, int | float | str | None) else type(value).__name__


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _require_whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SearchError(f"{name} is {value!r}; it must be a whole number of at least {least}")
