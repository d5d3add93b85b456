"""Where the recipe's steps keep what they make. `work/` is not under version control."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("EMOJI_WORK", HERE / "work"))
PACKAGES = WORK / "packages"
UNPACKED = WORK / "unpacked"
DATASET = WORK / "dataset"
CLIP = WORK / "clip"
AUTOENCODER = WORK / "autoencoder"
DECODER = WORK / "decoder"
UNET = WORK / "unet"
ROBUST = WORK / "unet_robust"

IMAGE_SIZE = 64
LATENT_SIZE = 16
CONTEXT_LENGTH = 24
# What the UNet has learned to draw so far: 319 of 1333 concepts. With more compute, widen this and go on with step 11.
DRAWN_CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink")
STYLES = {"fluent": "3d", "noto": "glossy", "twemoji": "flat"}
