"""Whether a machine is still the one that a table was measured on, as far as the table is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import TableError
from nas.latency._fitting import NEAR, NEAR_SHARE
from nas.latency._network import canary_ms_of
from nas.latency._validation import Validation

if TYPE_CHECKING:
    from nas.latency._table import LatencyTable


@dataclass(frozen=True)
class Agreement:
    """What measuring whole networks again says about a table on this machine.

    It agrees if at least 90 % of the networks are predicted within ±10 %, and the full network took within ±10 % of
    what it took when the table was measured; where that is not known, the canary, the small fixed workload that is
    timed around everything.

    Attributes:
        validation: the networks, predicted and measured.
        drift: how much slower the machine was than for the table, a signed fraction: by the full network, or else by
            the median of the canary's times around the networks; None where the table knows neither.
    """

    validation: Validation
    drift: float | None

    @property
    def predicts(self) -> bool:
        """Whether enough networks are predicted within the tolerance."""
        return self.validation.within_10 >= NEAR_SHARE

    @property
    def steady(self) -> bool:
        """Whether the machine is as fast as it was, within the tolerance; true where that is not known."""
        return self.drift is None or abs(self.drift) <= NEAR

    @property
    def agrees(self) -> bool:
        """Whether the table can go on being used on this machine."""
        return self.predicts and self.steady

    @property
    def mean_error_at_equal_speed(self) -> float | None:
        """Mean absolute error with measurements taken back to the table's speed; None as `drift`."""
        if (at_equal_speed := self.validation.at_equal_speed()) is not None:
            return at_equal_speed.mean_error
        if self.drift is None:
            return None
        errors = [pair.predicted_ms * (1 + pair.drift) / pair.measured_ms - 1 for pair in self.validation.pairs]
        return float(np.abs(errors).mean())

    def __str__(self) -> str:
        verdict = "still agrees" if self.agrees else "does not agree"
        errors = f"mean error {self.validation.mean_error:.1%}, {self.validation.within_10:.0%} within ±10 %"
        return f"This machine {verdict} with the table: {errors}, {self._machine()}{self._advice()}."

    def _machine(self) -> str:
        if self.drift is None:
            return "and whether the machine is as fast as it was is not known"
        slower = "slower" if self.drift >= 0 else "faster"
        return f"and the machine is {abs(self.drift):.1%} {slower} than when the table was measured"

    def _advice(self) -> str:
        if self.agrees:
            return ""
        if self.steady:
            return "; measure a new table"
        at_equal_speed = f" (at equal speed the mean error would be {self.mean_error_at_equal_speed:.1%})"
        return f"{at_equal_speed}; try again when nothing else runs, or measure a new table"


def agreement(table: LatencyTable) -> Agreement:
    """Judge by a table's validation whether the machine that it ran on still agrees with the table.

    Args:
        table: a table after `validate` on its own device.

    Raises:
        TableError: the table has no validation.
    """
    if table.validation is None:
        raise TableError(f"the table {table.name!r} was not validated; call its validate() first")
    drift = table.validation.slowdown
    if drift is None and canary_ms_of(table) is not None:
        drift = float(median(pair.drift for pair in table.validation.pairs))
    return Agreement(table.validation, drift)
