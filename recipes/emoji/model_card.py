"""Step 15: the bundle's MODEL_CARD.md with its training curves, from measured numbers only.

    python recipes/emoji/model_card.py --bundle models/emoji --measured recipes/emoji/work/measured.json \\
        --robust recipes/emoji/work/measured-robust.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template

import matplotlib
import numpy as np
import torch
from data import drawn, load_split
from settings import AUTOENCODER, CLIP, DECODER, HERE, ROBUST, UNET

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CURVES = (
    ("Text tower", CLIP / "text", ("meaning", "matching")),
    ("Vision tower", CLIP / "vision", ("loss",)),
    ("Autoencoder (MSE)", AUTOENCODER, ("squared",)),
    ("Decoder alone (MSE)", DECODER, ("squared",)),
    ("UNet (velocity MSE)", UNET, ("loss",)),
    ("Robust UNet (MSE to teacher)", ROBUST, ("distance",)),
)
WINDOW = 50


def smooth(values: np.ndarray) -> np.ndarray:
    window = max(1, min(WINDOW, len(values) // 5))
    return np.convolve(values, np.ones(window) / window, mode="valid")


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def draw_curves(path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), layout="constrained")
    for axis, (title, folder, names) in zip(axes.flat, CURVES, strict=True):
        if not (folder / "checkpoint.pt").exists():
            axis.set_visible(False)
            continue
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        rows = checkpoint(folder)["curve"]
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps, values = np.array(points).T
            smoothed = smooth(values)
            axis.plot(steps[len(steps) - len(smoothed) :], smoothed, label=name)
        axis.set_yscale("log")
        if len(names) > 1:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def flat(prefix: str, values: dict) -> dict[str, str]:
    """Nested numbers as `group_name`: three decimals below ten, else one; whole numbers as such."""
    result = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= flat(f"{prefix}{name}_", value)
        elif isinstance(value, float):
            digits = 0 if value == int(value) else 3 if abs(value) < 10 else 1
            result[prefix + name] = f"{value:.{digits}f}"
        else:
            result[prefix + name] = str(value)
    return result


def training_facts() -> dict[str, str]:
    """Steps of each part, and minutes of processor time where they were counted."""
    facts = {}
    for name, folder in (("text", CLIP / "text"), ("vision", CLIP / "vision"), ("autoencoder", AUTOENCODER),
                         ("decoder", DECODER), ("unet", UNET), ("robust", ROBUST)):  # fmt: skip
        state = checkpoint(folder) if (folder / "checkpoint.pt").exists() else {"curve": [], "spent": 0.0}
        whole = folder / "curve.npz"
        steps = np.load(whole)["step"][-1] if whole.exists() else len(state["curve"])
        facts[f"{name}_steps"] = f"{steps:.0f}"
        facts[f"{name}_minutes"] = f"{state['spent'] / 60:.0f}"
    return facts


def data_facts() -> dict[str, str]:
    facts = {}
    for side in ("train", "validation", "test"):
        pairs = load_split(side).pairs
        facts[f"{side}_pictures"] = str(len(pairs))
        facts[f"{side}_concepts"] = str(len({pair["concept"] for pair in pairs}))
        if side == "train":
            picks = drawn(pairs)
            facts["drawn_pictures"] = str(len(picks))
            facts["drawn_concepts"] = str(len({pairs[pick]["concept"] for pick in picks}))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, default=HERE.parent.parent / "models" / "emoji")
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--robust", type=Path, required=True)
    arguments = parser.parse_args()
    draw_curves(arguments.bundle / "training_curves.png")
    size = sum(path.stat().st_size for path in arguments.bundle.rglob("*") if path.is_file())
    facts = {**flat("", json.loads(arguments.measured.read_text())), **training_facts(), **data_facts()}
    facts |= flat("robust_", json.loads(arguments.robust.read_text())) | {"megabytes": f"{size / 1e6:.0f}"}
    template = Template((HERE / "MODEL_CARD.template.md").read_text(encoding="utf-8"))
    (arguments.bundle / "MODEL_CARD.md").write_text(template.substitute(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
