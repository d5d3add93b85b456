"""Fixtures shared by all rooms: a UNet small enough to run hundreds of times."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel

from nas import SearchSpace

# Tests run in two processes, and each of them, and what it starts, has a core to itself.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Pipelines and CLIP models made of tiny random parts.
pytest_plugins = ["conftest_pipeline"]


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """accelerate keeps one state a process, with a precision that would be the next test's as well."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_config() -> dict:
    """Three resolutions, cross-attention at two of them, 28 blocks."""
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }


@pytest.fixture
def tiny_unet(tiny_config: dict) -> UNet2DConditionModel:
    """A fresh UNet with seeded random weights, in eval mode."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**tiny_config).eval()


@pytest.fixture(scope="session")
def tiny_space(tiny_config: dict) -> SearchSpace:
    return SearchSpace.from_config(tiny_config, name="tiny", context_length=5)
