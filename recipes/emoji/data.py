"""The data set as arrays."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import torch
from settings import DATASET, DRAWN_CATEGORIES


class Split(NamedTuple):
    images: np.ndarray  # uint8, [n x 64 x 64 x 3]
    pairs: list[dict]


def load_split(side: str) -> Split:
    """The pictures and captions of 'train', 'validation' or 'test'."""
    images = np.load(DATASET / "images.npy", mmap_mode="r")
    pairs = json.loads((DATASET / "pairs.json").read_text())
    chosen = [index for index, pair in enumerate(pairs) if pair["split"] == side]
    return Split(images[chosen], [pairs[index] for index in chosen])


def drawn(pairs: list[dict]) -> list[int]:
    """Indices of the pairs that the UNet trains on."""
    return [index for index, pair in enumerate(pairs) if pair["category"] in DRAWN_CATEGORIES]


def to_unit(images: np.ndarray) -> torch.Tensor:
    """uint8 [n x h x w x 3] to float [n x 3 x h x w] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
