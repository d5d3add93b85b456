"""Checkpoints, curves and weights that a training run averages, shared by the training steps."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from settings import AUTOENCODER, DECODER


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


def load_autoencoder() -> AutoencoderKL:
    """With the decoder that was trained alone, where there is one."""
    alone = DECODER / "final"
    return AutoencoderKL.from_pretrained(alone if alone.exists() else AUTOENCODER / "final")


class UNetRun:
    """A UNet in training, with the average of its weights: what `train_unet.py` and `train_robust.py` keep on disk.

    The averaged weights are the ones to use; every save also writes them as a diffusers folder `final`.

    Args:
        folder: where the run is kept; gone on with if it holds a checkpoint.
        model: the UNet, trained in place.
        rate: peak learning rate of AdamW.
        generator: of batches.
        save_seconds: time between saves.
    """

    def __init__(
        self,
        folder: Path,
        model: UNet2DConditionModel,
        *,
        rate: float,
        generator: torch.Generator,
        save_seconds: float,
    ) -> None:
        self.folder, self.model, self.generator, self.save_seconds = folder, model, generator, save_seconds
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, weight_decay=1e-2, betas=(0.9, 0.99), fused=True
        )
        self.average, self.curve, self.step, self._before = copy.deepcopy(model), Curve(), 0, 0.0
        if state := latest(folder):
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            generator.set_state(state["generator"])
            self.curve, self.step, self._before = Curve(state["curve"]), state["step"], state["spent"]
        self._saved, self._begin = time.monotonic(), time.process_time()

    @property
    def spent(self) -> float:
        """Processor seconds, those before an interruption included."""
        return self._before + time.process_time() - self._begin

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        """One step down the loss, into the average too."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()

    def note(self, *, every: int, last: bool, **values: float) -> None:
        """Add to the curve; print it now and then, save when it is time or this was the last step."""
        self.curve.add(self.step, **values)
        if self.step % every == 0:
            print(f"step {self.step} {self.spent / 60:.1f} CPU min {self.curve.summary(every)}", flush=True)
        if last or time.monotonic() - self._saved > self.save_seconds:
            self._save()
            self._saved = time.monotonic()

    @torch.no_grad()
    def _follow(self) -> None:
        # The first steps forget fast, so that early averages are of use.
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "curve": self.curve.rows,
            "step": self.step,
            "spent": self.spent,
        }
        save_atomically(self.folder, state)
        self.average.save_pretrained(self.folder / "final")
        np.savez(self.folder / "curve.npz", **self.curve.arrays())
