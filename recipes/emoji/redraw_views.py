"""Step 8: the views of the train pictures as the autoencoder gives them back, with noise in their latents.

    python recipes/emoji/redraw_views.py --rounds 2

The vision tower will judge pictures that came through this decoder from latents that a UNet guessed: it should have
seen its blemishes. Writes `clip/redrawn-K.npy` (uint8, as `clip/views-K.npy`). Rounds already there stay.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from checkpoints import load_autoencoder
from diffusers import AutoencoderKL
from embed_pictures import to_batch, to_bytes
from settings import CLIP

LARGEST_NOISE = 0.5  # latents have unit variance


@torch.inference_mode()
def redraw(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures [n x 3 x 64 x 64] in [0, 1], there and back; how noisy the latents are differs from one to the next."""
    latents = vae.encode(2 * images - 1).latent_dist.mode()
    amount = LARGEST_NOISE * torch.rand(len(images), 1, 1, 1, generator=generator).square()
    noisy = latents + amount * torch.randn(latents.shape, generator=generator)
    return (vae.decode(noisy).sample / 2 + 0.5).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vae = load_autoencoder().eval()
    for number in range(arguments.rounds):
        path = CLIP / f"redrawn-{number}.npy"
        if not path.exists():
            generator, images = torch.Generator().manual_seed(number), np.load(CLIP / f"views-{number}.npy")
            parts = (images[start : start + 64] for start in range(0, len(images), 64))
            np.save(path, np.concatenate([to_bytes(redraw(vae, to_batch(part), generator)) for part in parts]))
            print(f"round {number}: done", flush=True)


if __name__ == "__main__":
    main()
