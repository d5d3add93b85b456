"""Real pictures to compare with: from a folder, from memory, or those that travel with a bundled pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas.errors import ModelError, NasError
from nas.resources import bundled

Pictures = str | os.PathLike[str] | np.ndarray | Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_WHITE = (255, 255, 255, 255)
_SHEET_COLUMNS = 20


def load_pictures(name: str = "emoji", split: str = "test") -> np.ndarray:
    """The real pictures of a bundled pipeline's held-out split, in the order of `load_captions(name, split)`.

    Returns:
        Bytes `[n x h x w x 3]`.

    Raises:
        ModelError: there is no such pipeline, it has no pictures of that split, or the files are corrupt.
    """
    return read_sheet(bundled(name), split)


def read_sheet(folder: Path, split: str) -> np.ndarray:
    """The same for a folder laid out like a bundled pipeline: `pictures/SPLIT.png` beside `captions/SPLIT.json`.

    Raises:
        ModelError: there is no such sheet, or it is corrupt.
    """
    sheet = folder / "pictures" / f"{split}.png"
    if not sheet.is_file():
        known = sorted(file.stem for file in sheet.parent.glob("*.png"))
        raise ModelError(f"{folder} has no pictures called {split!r}; there is {', '.join(known) or 'none'}")
    try:
        count = len(json.loads((folder / "captions" / f"{split}.json").read_text(encoding="utf-8")))
        return _cut(np.asarray(_opaque(sheet)), count)
    except (OSError, ValueError) as error:
        raise ModelError(f"{sheet} and its captions do not belong together or are corrupt ({error})") from error


def _cut(sheet: np.ndarray, count: int) -> np.ndarray:
    # Square pictures row by row, 20 to a row, white where none is left.
    side = sheet.shape[1] // _SHEET_COLUMNS
    tiles = sheet.reshape(-1, side, _SHEET_COLUMNS, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
    if not 0 <= len(tiles) - count < _SHEET_COLUMNS:
        raise ValueError(f"{len(tiles)} places for {count} captions")
    return tiles[:count]


def picture_batches(pictures: Pictures, *, batch_size: int) -> Iterator[Tensor]:
    """Pictures in order as batches `[b x 3 x h x w]` of values from 0 to 1, each of one size.

    Args:
        pictures: a folder of picture files (taken by name, on white where they are transparent), bytes
            `[m x h x w x 3]`, or values from 0 to 1 `[m x 3 x h x w]`.
        batch_size: how many at most.

    Raises:
        NasError: there are none, or one cannot be read.
    """
    if isinstance(pictures, str | os.PathLike):
        single = (_tensor(np.asarray(_read(file))) for file in picture_files(pictures))
    elif isinstance(pictures, Tensor):
        single = iter(_checked(pictures))
    else:
        single = (_tensor(picture) for picture in _checked_bytes(pictures))
    for _, alike in groupby(single, key=lambda picture: picture.shape):
        yield from _batches(alike, batch_size)


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The picture files of a folder, by name.

    Raises:
        NasError: there is no such folder, or it holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NasError(f"there is no folder of pictures at {folder}")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise NasError(f"{folder} holds no picture; {', '.join(sorted(SUFFIXES))} are read")
    return files


def _batches(pictures: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    pictures = iter(pictures)
    while batch := list(islice(pictures, size)):
        yield torch.stack(batch)


def _read(file: Path) -> Image.Image:
    try:
        return _opaque(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise NasError(f"{file} is not a picture that can be read ({error}); repair or remove it") from error


def _opaque(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        if not opened.has_transparency_data:
            return opened.convert("RGB")
        picture = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture).convert("RGB")


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def _checked(pictures: Tensor) -> Tensor:
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not len(pictures) or not pictures.is_floating_point():
        raise _wrong(pictures, "values from 0 to 1 [m x 3 x h x w]")
    if not (pictures.min() >= 0 and pictures.max() <= 1):
        raise NasError("real pictures have values outside 0 to 1")
    return pictures.float()


def _checked_bytes(pictures: Any) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures) or pictures.dtype != np.uint8:
        raise _wrong(pictures, "bytes [m x h x w x 3]")
    return pictures


def _wrong(pictures: np.ndarray | Tensor, wanted: str) -> NasError:
    have = f"shape {list(pictures.shape)} and type {pictures.dtype}"
    return NasError(f"real pictures have {have}; they must be {wanted}, at least one")
