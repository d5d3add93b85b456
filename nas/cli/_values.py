"""Reading what people type after an option. A `ValueError`'s text becomes the command's one sentence."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass


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
