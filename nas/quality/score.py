"""A network's quality as a number with an interval, and the difference of two networks judged on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import stdtrit
from torch import nn

from nas.errors import NasError


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % confidence interval by Student's t (the normal approximation, honest for few values).

    One value has an interval without bounds.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -float("inf"), float("inf")
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
    return mean, mean - reach, mean + reach


@dataclass(frozen=True)
class Difference:
    """How much one network's score, or distance from real pictures, differs from another's, from paired samples.

    Attributes:
        mean: mean of the differences per sample; positive: the first is better; of distances, negative.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
    """

    mean: float
    low: float
    high: float

    @property
    def settled(self) -> bool:
        """Whether the sign is certain: the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Score:
    """A network's quality; higher is better, whatever the scorer.

    Attributes:
        mean: mean over the samples.
        low: lower end of the mean's 95 % interval.
        high: upper end of the mean's 95 % interval.
        values: one number per prompt or sample `[n]`, in the scorer's order, so that networks can be compared pairwise.
        seconds: how long the judgement took.
    """

    mean: float
    low: float
    high: float
    values: np.ndarray
    seconds: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray, *, seconds: float = 0.0) -> Score:
        """Mean and interval of `values` `[n]`.

        Raises:
            NasError: there are no values, or one of them is not finite.
        """
        values = np.array(values, dtype=np.float64)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise NasError(f"a score needs a row of finite values; got shape {values.shape}")
        values.setflags(write=False)
        return cls(*mean_interval(values), values, seconds)

    def minus(self, other: Score) -> Difference:
        """The paired difference: the noise that both networks share cancels.

        Raises:
            NasError: the scores are of different numbers of samples.
        """
        if len(self.values) != len(other.values):
            raise NasError(f"scores of {len(self.values)} and {len(other.values)} samples cannot be paired")
        return Difference(*mean_interval(self.values - other.values))

    def joined(self, other: Score) -> Score:
        """The score of both parts together: of the first prompts, and later of further ones."""
        return Score.of(np.concatenate([self.values, other.values]), seconds=self.seconds + other.seconds)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the values and the seconds; the rest follows from them."""
        return {"values": self.values.tolist(), "seconds": self.seconds}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Score:
        """What `to_dict` gave."""
        return cls.of(data["values"], seconds=data["seconds"])


@runtime_checkable
class Scorer(Protocol):
    """Anything that judges a network: a new one is one file in this folder."""

    def __call__(self, unet: nn.Module) -> Score:
        """Judge a network: same samples, same noise, same order for every network; the network is not changed."""

    def describe(self) -> dict[str, Any]:
        """What decides the numbers, for JSON: two scorers with equal descriptions give equal scores."""


def finite_or(values: np.ndarray, worst: float) -> np.ndarray:
    """`values`, with `worst` where a network diverged."""
    return np.where(np.isfinite(values), values, worst)
