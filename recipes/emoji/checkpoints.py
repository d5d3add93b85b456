"""Checkpoints and curves, shared by the training steps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch


def save_atomically(folder: Path, state: dict) -> None:
    """Write to a temporary file, then rename: a kill never leaves half a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "checkpoint.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / "checkpoint.pt")


def latest(folder: Path) -> dict | None:
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


class Curve:
    """Named scalars by step, averaged over windows for printing."""

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows or []

    def add(self, step: int, **values: float) -> None:
        self.rows.append({"step": step, **values})

    def summary(self, window: int = 100) -> str:
        tail = self.rows[-window:]
        names = [name for name in tail[-1] if name != "step"]
        return " ".join(f"{name} {np.mean([row[name] for row in tail if name in row]):.4f}" for name in names)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array([row.get(name, np.nan) for row in self.rows]) for name in self.rows[0]}
