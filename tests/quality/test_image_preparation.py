from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest_pipeline import PROCESSOR
from PIL import Image
from transformers import CLIPImageProcessorPil

from nas.errors import ModelError
from nas.quality import ImagePreparation


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Noise at a third of the resolution, away from black and white: PIL clips there after each direction."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(80, 176, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (96, 64), (50, 80), (9, 12)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"shortest_edge": 24}},
        {"size": {"height": 20, "width": 20}},
        {"do_center_crop": False, "size": {"height": 16, "width": 20}},
        {"do_normalize": False},
    ],
    ids=["own", "larger", "stretched", "uncropped", "plain"],
)
def test_is_what_the_image_processor_does(size, changes):
    config = {**PROCESSOR, **changes}
    picture = smooth_picture(*size)
    expected = CLIPImageProcessorPil(**config)(Image.fromarray(picture), return_tensors="pt").pixel_values
    images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    pixels = ImagePreparation.from_config(config)(images)
    assert pixels.shape == expected.shape
    # PIL rounds to bytes after each direction: not much more than one of 255, over the least std of 0.2.
    assert (pixels - expected).abs().max() <= 1.5 / 255 / 0.2


def test_no_resizing_changes_nothing():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(ImagePreparation((16, None), (16, 16), (0.0,) * 3, (1.0,) * 3)(images), images)


def test_other_filters_and_small_pictures_are_refused():
    with pytest.raises(ModelError, match="bicubic"):
        ImagePreparation.from_config({**PROCESSOR, "resample": 2})
    with pytest.raises(ModelError, match="make it larger"):
        ImagePreparation(None, (16, 16))(torch.rand(1, 3, 8, 20))
