"""A UNet of eleven blocks, quicker to train than the tiny one, and ten random latents with contexts that fit both."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from nas import SearchSpace, Supernet
from nas.training import TrainingData


@pytest.fixture(scope="session")
def small_space(tiny_config: dict) -> SearchSpace:
    config = {
        **tiny_config,
        "block_out_channels": (8, 8),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    }
    return SearchSpace.from_config(config, name="small", context_length=5)


@pytest.fixture
def small_unet(small_space: SearchSpace) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**small_space.config).eval()


@pytest.fixture
def supernet(small_unet: UNet2DConditionModel, small_space: SearchSpace) -> Supernet:
    return Supernet(small_unet, small_space, skip_probability=0.3, seed=5)


@pytest.fixture
def training_data() -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    shapes = ((10, 4, 8, 8), (10, 5, 12), (1, 5, 12))
    return TrainingData(*(torch.randn(shape, generator=generator) for shape in shapes))
