"""Reading what people type after an option; what is wrong with it becomes the command's one sentence."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

_MOST_NUMBERS = 1000


@dataclass(frozen=True)
class Budget:
    """A latency budget: milliseconds, or a share of the full network's latency.

    Attributes:
        amount: the number of milliseconds, or the share (0.6 for 60 %).
        relative: whether `amount` is a share.
    """

    amount: float
    relative: bool

    def in_ms(self, full_ms: float) -> float:
        """The budget in milliseconds for a network that takes `full_ms`."""
        return self.amount * full_ms if self.relative else self.amount

    def __str__(self) -> str:
        return f"{self.amount:.4g} ms" if not self.relative else f"{100 * self.amount:.4g}%"


def budget(text: str) -> Budget:
    """Read "60%", "12.5ms" or "12.5"."""
    word = text.strip().lower()
    try:
        if word.endswith("%"):
            return Budget(_positive(word[:-1]) / 100, relative=True)
        return Budget(_positive(word.removesuffix("ms")), relative=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a budget; give a share such as 60% or milliseconds such as 12.5ms, above 0"
        ) from None


def milliseconds(text: str) -> float:
    """Read a positive number of milliseconds."""
    try:
        return _positive(text.strip().lower().removesuffix("ms"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds above 0") from None


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def number(text: str) -> float:
    """Read a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def numbers(text: str) -> list[float]:
    """Read "1:10:0.5" (both ends belong to it), or numbers of at least 0 with commas between them."""
    try:
        if ":" in text:
            return _range(*(float(part) for part in text.split(":")))
        return [number(part) for part in text.split(",")]
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} are not numbers; give FROM:TO:STEP such as 1:10:0.5, or numbers such as 1,2.5,7"
        ) from None


def _range(start: float, end: float, step: float) -> list[float]:
    if not (0 <= start <= end < math.inf and 0 < step < math.inf and (end - start) / step < _MOST_NUMBERS):
        raise ValueError
    # The end belongs to it, though sums of a step miss it by a rounding.
    return [round(start + index * step, 9) for index in range(int((end - start) / step + 1e-9) + 1)]


def quantile(text: str) -> float:
    """Read a number above 0 and at most 1."""
    try:
        value = _positive(text)
    except ValueError:
        value = math.nan
    if not value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1, such as 0.9")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(text)
    return value
