"""Reading the history of a search, one row a candidate."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from nas.architecture import Architecture


def complete(history: pd.DataFrame) -> pd.DataFrame:
    """The rows that were judged on all prompts and have a finite score."""
    if history.empty:
        return history
    return history[(history["stage"] == "complete") & np.isfinite(history["score"].astype(float))]


def parse(architecture: Architecture | str) -> Architecture:
    """An architecture, whether the frame holds it as such or as text."""
    return architecture if isinstance(architecture, Architecture) else Architecture.parse(architecture)


def describe_change(architecture: Architecture | str) -> str:
    """How an architecture differs from the full one, in a few words."""
    network = parse(architecture)
    parts = [_count(len(network.removed), "removed"), _count(len(network.added), "added")]
    return ", ".join(part for part in parts if part) or "full network"


def _count(number: int, what: str) -> str:
    return f"{number} {'block' if number == 1 else 'blocks'} {what}" if number else ""


def bounded(score: float, low: float, high: float) -> tuple[float, float]:
    """An interval that can be drawn: none where it has no bounds, as with a single prompt."""
    return (low if math.isfinite(low) else score), (high if math.isfinite(high) else score)
