"""Step 10: what the UNet trains on: latents of the train pictures, text states of their captions.

    python recipes/emoji/encode_train.py

Pictures are not flipped: that would turn letters, digits, clocks and arrows into something else. Writes
`unet/latents.npy` (float16, [n x 4 x 16 x 16]), `unet/states.npy` (float16, [n x 24 x 256]), `unet/empty.npy`.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from clip_model import load_clip, load_tokenizer, tokens_of
from data import load_split, to_unit
from diffusers import AutoencoderKL
from settings import AUTOENCODER, UNET


@torch.inference_mode()
def latents_of(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([vae.encode(batch).latent_dist.mode() for batch in images.split(64)])


@torch.inference_mode()
def states_of(texts: list[str]) -> torch.Tensor:
    """Last hidden states of the text tower, as StableDiffusionPipeline computes them."""
    ids = tokens_of(load_tokenizer(), texts, to_full_length=True)
    tower = load_clip().text_model.eval()
    return torch.cat([tower(input_ids=part).last_hidden_state for part in ids.split(256)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    UNET.mkdir(parents=True, exist_ok=True)
    train = load_split("train")
    latents = latents_of(AutoencoderKL.from_pretrained(AUTOENCODER / "final"), to_unit(train.images))
    print(f"latents: mean {latents.mean(dim=(0, 2, 3))}, deviation {latents.std(dim=(0, 2, 3))}")
    np.save(UNET / "latents.npy", latents.half().numpy())
    np.save(UNET / "states.npy", states_of([pair["caption"] for pair in train.pairs]).half().numpy())
    np.save(UNET / "empty.npy", states_of([""]).half().numpy())


if __name__ == "__main__":
    main()
