"""What CLIP's image processor does to a picture, without leaving tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from nas.errors import ModelError

# The defaults of transformers' CLIP image processor.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3


@dataclass(frozen=True)
class ImagePreparation:
    """What a `CLIPImageProcessor` does, on tensors: resize (bicubic, antialiased), crop the middle, normalise.

    Attributes:
        size: rows and columns to resize to; (s, None): the shorter edge becomes s; None: no resizing.
        crop: rows and columns of the middle to keep; None: no cropping.
        mean: per channel, of pictures from 0 to 1.
        std: per channel.
    """

    size: tuple[int, int | None] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def square(cls, pixels: int) -> ImagePreparation:
        """The processor of the original CLIP for pictures of `pixels` x `pixels`."""
        return cls((pixels, None), (pixels, pixels))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ImagePreparation:
        """The preparation that a `preprocessor_config.json` describes.

        Raises:
            ModelError: it asks for another filter than bicubic.
        """
        if config.get("resample", BICUBIC) != BICUBIC:
            raise ModelError(f"the CLIP image processor resizes with filter {config['resample']}, not bicubic (3)")
        size = _edges(config.get("size", 224)) if config.get("do_resize", True) else None
        crop = _rows_and_columns(config.get("crop_size", 224)) if config.get("do_center_crop", True) else None
        if not config.get("do_normalize", True):
            return cls(size, crop, (0.0,) * 3, (1.0,) * 3)
        return cls(size, crop, tuple(config.get("image_mean", CLIP_MEAN)), tuple(config.get("image_std", CLIP_STD)))

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `[b x 3 x h x w]` from 0 to 1 to what CLIP's vision tower takes, `[b x 3 x rows x columns]`."""
        images = _crop_middle(_resize(images, self.size), self.crop)
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        return (images - mean) / images.new_tensor(self.std).view(1, -1, 1, 1)


def _rows_and_columns(size: int | dict[str, int]) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, dict) else (size, size)


def _edges(size: int | dict[str, int]) -> tuple[int, int | None]:
    if isinstance(size, dict) and "height" in size:
        return size["height"], size["width"]
    return (size["shortest_edge"] if isinstance(size, dict) else size), None


def _resize(images: Tensor, size: tuple[int, int | None] | None) -> Tensor:
    if size is None:
        return images
    height, width = images.shape[-2:]
    rows, columns = size
    if columns is None:
        short, longer = rows, int(rows * max(height, width) / min(height, width))
        rows, columns = (short, longer) if height <= width else (longer, short)
    if (rows, columns) == (height, width):
        return images
    resized = functional.interpolate(images, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def _crop_middle(images: Tensor, crop: tuple[int, int] | None) -> Tensor:
    if crop is None:
        return images
    top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], crop, strict=True))
    if top < 0 or left < 0:
        rows, columns = images.shape[-2:]
        raise ModelError(f"CLIP wants {crop[0]}x{crop[1]} pixels of a {rows}x{columns} picture; make it larger")
    return images[..., top : top + crop[0], left : left + crop[1]]
