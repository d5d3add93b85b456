"""A UNet of eleven blocks, quicker to train than the tiny one, and ten random latents with contexts that fit both."""

from __future__ import annotations

import pytest
from diffusers import UNet2DConditionModel
from small_training import make_data, make_space, make_teacher, make_unet

from nas import SearchSpace, Supernet
from nas.training import TrainingData


@pytest.fixture(scope="session")
def small_space() -> SearchSpace:
    return make_space()


@pytest.fixture
def small_unet() -> UNet2DConditionModel:
    return make_unet()


@pytest.fixture
def teacher() -> UNet2DConditionModel:
    """Another network than `small_unet`, of the same shape."""
    return make_teacher()


@pytest.fixture
def supernet(small_unet: UNet2DConditionModel, small_space: SearchSpace) -> Supernet:
    return Supernet(small_unet, small_space, skip_probability=0.3, seed=5)


@pytest.fixture
def training_data() -> TrainingData:
    return make_data()
