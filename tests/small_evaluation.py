"""A few prompts and pictures to evaluate a tiny pipeline by."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

PROMPTS = ["a red cat", "two dogs", "sun", "a blue house"]
REAL = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
OPTIONS = {"prompts": PROMPTS, "real": REAL, "steps": 2, "guidance_scales": [1.0, 3.0]}


class Means(nn.Module):
    """Six features of a picture, in the place of Inception's."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([pictures.mean(dim=(2, 3)), pictures.amax(dim=(2, 3))], dim=1)
