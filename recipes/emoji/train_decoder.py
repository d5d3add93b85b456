"""Step 7: more training for the autoencoder's decoder alone, so that latents stay what they are. Resumes.

    python recipes/emoji/train_decoder.py --cpu-minutes 30

Can run beside the UNet's training. Latents get a little noise, since the decoder will be given a UNet's. Writes
`decoder/final`, an AutoencoderKL with the encoder of `autoencoder/final`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from checkpoints import Curve, latest, save_atomically
from data import load_split, to_unit
from diffusers import AutoencoderKL
from settings import AUTOENCODER, DECODER
from train_autoencoder import augment, psnr_db

PEAK_RATE = 1.5e-3
LATENT_NOISE = 0.05


def decoder_loss(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode()
        latents = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
    decoded = vae.decode(latents).sample
    squared = F.mse_loss(decoded, images)
    return squared + 0.05 * F.l1_loss(decoded, images), squared.item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu-minutes", type=float, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    train, held_out = to_unit(load_split("train").images), to_unit(load_split("validation").images)
    vae = AutoencoderKL.from_pretrained(AUTOENCODER / "final").to(memory_format=torch.channels_last)
    learning = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=PEAK_RATE, weight_decay=1e-3, betas=(0.9, 0.99))
    curve, step, before = Curve(), 0, 0.0
    if state := latest(DECODER):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        curve, step, before = Curve(state["curve"]), state["step"], state["spent"]
    saved, begin = time.monotonic(), time.process_time()
    while (progress := (before + time.process_time() - begin) / (60 * arguments.cpu_minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / 50) * max(0.02, 1 - progress)
        picks = torch.randint(len(train), (arguments.batch_size,), generator=generator)
        batch = augment(train[picks], generator).contiguous(memory_format=torch.channels_last)
        loss, squared = decoder_loss(vae, batch, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        step += 1
        curve.add(step, squared=squared)
        if step % 100 == 0:
            print(
                f"step {step} {progress:.1%} {curve.summary()} validation {psnr_db(vae, held_out):.2f} dB", flush=True
            )
        if time.monotonic() - saved > 180:
            save_atomically(DECODER, {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                            "generator": generator.get_state(), "curve": curve.rows,
                            "spent": before + time.process_time() - begin})  # fmt: skip
            vae.save_pretrained(DECODER / "final")
            saved = time.monotonic()
    print(f"validation {psnr_db(vae, held_out):.2f} dB", flush=True)
    vae.save_pretrained(DECODER / "final")
    np.savez(DECODER / "curve.npz", **curve.arrays())


if __name__ == "__main__":
    main()
