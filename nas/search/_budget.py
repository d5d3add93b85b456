"""Whether a latency budget can be met, said before a long run instead of after it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from numbers import Real
from statistics import median_low

import pandas as pd

from nas.architecture import Architecture
from nas.errors import BudgetError, SearchError, TableError
from nas.search._actions import Latencies, largest, smallest
from nas.search_space import SearchSpace


@dataclass(frozen=True)
class Profile:
    """What a search space offers on a device.

    Attributes:
        smallest_ms: predicted latency with everything skipped that may be and that saves time.
        typical_ms: median over random architectures without copies.
        full_ms: the network as it is.
        largest_ms: every block with all the copies allowed.
        parameters: how many weights each of the four has, by name.
        budget_ms: the budget in question, or None.
    """

    smallest_ms: float
    typical_ms: float
    full_ms: float
    largest_ms: float
    parameters: dict[str, int]
    budget_ms: float | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a network: its latency, its share of the full network's, its number of weights."""
        rows = [
            {
                "network": name,
                "latency_ms": latency_ms,
                "share_of_full": latency_ms / self.full_ms,
                "parameters": self.parameters[name],
            }
            for name in ("smallest", "typical", "full", "largest")
            for latency_ms in [getattr(self, f"{name}_ms")]
        ]
        return pd.DataFrame(rows).set_index("network")

    def for_budget(self, budget_ms: object, *, safety_margin: float = 0.0) -> Profile:
        """The same with a budget that can be met.

        Args:
            budget_ms: the budget.
            safety_margin: how much slower than predicted networks may be, a fraction: with 0.05 the budget in the
                profile is what, made slower by 5 %, is the one given.

        Raises:
            BudgetError: it is no positive number, below the smallest network, or not below the full one although
                nothing can be added.
        """
        attainable = f"attainable is {self.smallest_ms:.2f} ms to {self.full_ms:.2f} ms (the full network)"
        number = isinstance(budget_ms, Real) and not isinstance(budget_ms, bool)
        if not number or not math.isfinite(budget_ms) or budget_ms <= 0:
            raise BudgetError(
                f"the budget is {budget_ms!r}; it must be a positive number of milliseconds; {attainable}"
            )
        aim_ms = float(budget_ms) / (1 + safety_margin)
        if fault := self._fault_of(aim_ms):
            kept = f", {budget_ms:.2f} ms less a safety margin of {safety_margin:.1%}," if safety_margin else ""
            raise BudgetError(f"the budget of {aim_ms:.2f} ms{kept} {fault}; {attainable}")
        return replace(self, budget_ms=aim_ms)

    def _fault_of(self, budget_ms: float) -> str:
        if budget_ms < self.smallest_ms:
            least = f"takes {self.smallest_ms:.2f} ms with everything skipped that may be"
            return f"is below the smallest network, which {least}"
        if budget_ms >= self.full_ms >= self.largest_ms:
            why = "the space allows no copies or the table has no rows for them"
            return f"is met by the full network and nothing can be added: {why}"
        return ""

    def __str__(self) -> str:
        lines = [
            f"{self._line(row.Index, row.latency_ms)} {row.parameters / 1e6:>9.2f} M weights"
            for row in self.to_frame().itertuples()
        ]
        if self.budget_ms is not None:
            lines.append(f"{self._line('budget', self.budget_ms)}  can be met")
        return "\n".join(lines)

    def _line(self, name: str, latency_ms: float) -> str:
        return f"{name:<9}{latency_ms:>10.2f} ms {latency_ms / self.full_ms:>6.0%} of full"


def profile(space: SearchSpace, lut: Latencies) -> Profile:
    """The range of latencies that a space offers on the device that `lut` was measured on.

    Args:
        space: the search space.
        lut: its latency table.
    """
    networks = {
        "smallest": smallest(space, lut),
        "typical": _typical(space, lut),
        "full": space.full,
        "largest": largest(space, lut),
    }
    latencies = {f"{name}_ms": lut.latency_ms(network) for name, network in networks.items()}
    return Profile(**latencies, parameters={name: space.parameters_of(network) for name, network in networks.items()})


def safety_margin(lut: Latencies, quantile: float) -> float:
    """By how much a budget is to be undercut, from the errors that a table made on whole networks; a fraction.

    Args:
        lut: a latency table with its validation.
        quantile: the share of networks that are to be within the budget, see `Validation.underprediction`.

    Raises:
        SearchError: the quantile is not above 0 and at most 1.
        TableError: the table has no validation.
    """
    number = isinstance(quantile, Real) and not isinstance(quantile, bool)
    if not number or not 0 < quantile <= 1:
        raise SearchError(f"margin is {quantile!r}; it must be a quantile above 0 and at most 1, such as 0.9")
    validation = getattr(lut, "validation", None)
    if validation is None:
        raise TableError(
            "a margin needs the table's error on whole networks, and this table has no validation; measure it with "
            "lut.validate() or `nas lut validate FILE`"
        )
    return validation.underprediction(float(quantile))


def doubt_about(lut: Latencies) -> str | None:
    """Why a table is not to be relied on, where it says so itself: a fit that was kept although it is not usable."""
    provenance = getattr(lut, "provenance", {})
    if provenance.get("fit_usable", 1):
        return None
    return f"the latency table was fitted to whole networks and is marked as {provenance.get('fit', 'not usable')}"


def _typical(space: SearchSpace, lut: Latencies, *, draws: int = 101) -> Architecture:
    rng = random.Random(0)
    by_latency = {lut.latency_ms(network): network for network in (space.sample(rng) for _ in range(draws))}
    return by_latency[median_low(by_latency)]
