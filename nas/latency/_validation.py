"""How well a table predicts networks that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.errors import TableError
from nas.latency._ranks import spearman


@dataclass(frozen=True)
class Pair:
    """One held-out network.

    Attributes:
        architecture: as text, for `nas.Architecture.parse`.
        predicted_ms: by the table.
        measured_ms: end to end.
        drift: see `Row`.
    """

    architecture: str
    predicted_ms: float
    measured_ms: float
    drift: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("predicted_ms", 0), ("measured_ms", 0), ("drift", -1)):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > least):
                raise TableError(f"{name} is {value!r}; it must be a finite number, more than {least}")

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Validation:
    """A table's error on random networks without copies of blocks, measured end to end. All errors are fractions.

    Attributes:
        pairs: the networks, predicted and measured.
        seed: of the random architectures.
        date: when it was measured, UTC, ISO 8601.
        slowdown: how much longer the full network took in between than when the table was measured, a signed fraction;
            None where that is not known, and where the networks were measured along with the table's rows.
    """

    pairs: tuple[Pair, ...]
    seed: int = 0
    date: str = ""
    slowdown: float | None = None

    def __post_init__(self) -> None:
        if not self.pairs:
            raise TableError("a validation needs at least one network")
        if self.slowdown is not None and not (np.isfinite(self.slowdown) and self.slowdown > -1):
            raise TableError(f"slowdown is {self.slowdown!r}; it must be a finite number, more than -1")

    @property
    def errors(self) -> np.ndarray:
        """(predicted - measured) / measured of each network, [n]."""
        return np.array([pair.error for pair in self.pairs])

    @property
    def mean_error(self) -> float:
        """Mean of the absolute errors."""
        return float(np.abs(self.errors).mean())

    @property
    def worst_error(self) -> float:
        """Largest absolute error."""
        return float(np.abs(self.errors).max())

    @property
    def within_5(self) -> float:
        """Share of the networks predicted within 5 %."""
        return float((np.abs(self.errors) <= 0.05).mean())

    @property
    def within_10(self) -> float:
        """Share of the networks predicted within 10 %."""
        return float((np.abs(self.errors) <= 0.10).mean())

    @property
    def spearman(self) -> float:
        """Rank correlation of predicted and measured; 0 where all of either are equal, so that nothing is ranked."""
        return spearman([pair.predicted_ms for pair in self.pairs], [pair.measured_ms for pair in self.pairs])

    def underprediction(self, quantile: float) -> float:
        """How much slower than predicted networks are: the quantile of measured / predicted - 1, at least 0.

        A network predicted to take budget / (1 + this) is within the budget with about the quantile's probability, as
        far as the validation's networks speak for it.

        Args:
            quantile: such as 0.9; above 0 and at most 1, which is the worst of the networks.

        Raises:
            TableError: it is no such number.
        """
        number = isinstance(quantile, int | float) and not isinstance(quantile, bool)
        if not number or not 0 < quantile <= 1:
            raise TableError(f"the quantile is {quantile!r}; it must be a number above 0 and at most 1")
        slower = [pair.measured_ms / pair.predicted_ms - 1 for pair in self.pairs]
        return max(float(np.quantile(slower, quantile)), 0.0)

    def summary(self) -> dict[str, float | int]:
        """The figures by name, plain numbers."""
        names = ("mean_error", "worst_error", "within_5", "within_10", "spearman")
        return {"networks": len(self.pairs), **{name: round(getattr(self, name), 6) for name in names}}

    def repredicted(self, predict_ms: Callable[[Pair], float]) -> Validation:
        """The same networks and measurements under another prediction, to compare the two."""
        pairs = tuple(Pair(p.architecture, predict_ms(p), p.measured_ms, p.drift) for p in self.pairs)
        return Validation(pairs, self.seed, self.date, self.slowdown)

    def at_equal_speed(self) -> Validation | None:
        """The same with the table as slow as the machine was meanwhile, by the full network; None as `slowdown`.

        What is left of the errors is the table's own: how it weighs networks against each other.
        """
        if self.slowdown is None:
            return None
        speed = 1 + self.slowdown
        return replace(self.repredicted(lambda pair: pair.predicted_ms * speed), slowdown=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the figures for readers, then the pairs from which they are computed."""
        pairs = [vars(pair).copy() for pair in self.pairs]
        return {**self.summary(), "seed": self.seed, "date": self.date, "slowdown": self.slowdown, "pairs": pairs}
