"""Random changes of pictures on white: geometry and colour first, then the blemishes of a generated picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def move(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, turn, scale and shift, white coming in at the edges. [b x 3 x h x w] in [0, 1]."""
    count = len(images)
    angle = uniform(count, -10, 10, generator) * math.pi / 180
    scale = uniform(count, 0.85, 1.25, generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = flip * scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = flip * scale * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = uniform(2 * count, -0.12, 0.12, generator).reshape(count, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return 1 + F.grid_sample(images - 1, grid, align_corners=False)


def recolour(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change saturation and brightness a little. [b x 3 x h x w] in [0, 1]."""
    count = len(images)
    grey = images.mean(dim=1, keepdim=True)
    saturation = uniform(count, 0.6, 1.3, generator).reshape(count, 1, 1, 1)
    gamma = uniform(count, 0.8, 1.25, generator).reshape(count, 1, 1, 1)
    return (grey + saturation * (images - grey)).clamp(0, 1).pow(gamma)


def degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur a third of the pictures, roughen a third, leave a third. [b x 3 x h x w] in [0, 1]."""
    size = images.shape[-1]
    factor = 1.5 + 1.5 * torch.rand((), generator=generator).item()
    small = F.interpolate(images, size=int(size / factor), mode="bilinear", antialias=True, align_corners=False)
    blurred = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    coarse = torch.randn(len(images), 3, size // 4, size // 4, generator=generator)
    noise = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    amount = uniform(len(images), 0.02, 0.12, generator).reshape(-1, 1, 1, 1)
    kind = torch.randint(3, (len(images), 1, 1, 1), generator=generator)
    return torch.where(kind == 0, images, torch.where(kind == 1, blurred, images + amount * noise)).clamp(0, 1)
