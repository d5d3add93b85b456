"""Step 3: a small AutoencoderKL, 64x64 pictures to 16x16x4 latents. Resumes from its last checkpoint.

    python recipes/emoji/train_autoencoder.py --minutes 25

Latents are whitened over the training set by folding mean and covariance into the 1x1 `quant_conv` and
`post_quant_conv`, so that the diffusion model sees zero mean, unit variance and no correlation, with a
`scaling_factor` of 1.
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
from settings import AUTOENCODER, IMAGE_SIZE

# Small: a latent that is mostly posterior noise wastes the channels (2e-5 left three of the four nearly unused).
KL_WEIGHT = 1e-6
INITIAL_LOG_VARIANCE = -6.0
COLOUR_WEIGHT = 2.0  # without it the latents hold shapes long before they hold what is green
PEAK_RATE = 2e-3


def build() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:].zero_()
        vae.quant_conv.bias[4:].fill_(INITIAL_LOG_VARIANCE)
    return vae


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, permute colour channels and shift: shapes repeat, colours do not. [b x 3 x h x w] in [-1, 1]."""
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    if torch.rand((), generator=generator) < 0.3:
        images = images[:, torch.randperm(3, generator=generator)]
    shift = torch.randint(-6, 7, (2,), generator=generator).tolist()
    return torch.roll(images, shift, dims=(2, 3))


def loss_of(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error (plus absolute error, for edges, and that of mean colours) and KL, per picture."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.sample(generator)).sample
    squared = F.mse_loss(decoded, images)
    colour = F.mse_loss(F.avg_pool2d(decoded, 4), F.avg_pool2d(images, 4))
    loss = squared + 0.05 * F.l1_loss(decoded, images) + COLOUR_WEIGHT * colour + KL_WEIGHT * posterior.kl().mean()
    return loss, squared


def psnr_db(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, pixels in [0, 1], latents at the posterior's mode."""
    values = []
    with torch.no_grad():
        for batch in images.split(64):
            decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
            error = ((decoded - batch) / 2).square().mean(dim=(1, 2, 3))
            values.append(-10 * torch.log10(error))
    return torch.cat(values).mean().item()


def whiten(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold the latents' mean and covariance into the two 1x1 convolutions."""
    with torch.no_grad():
        modes = torch.cat([vae.encode(batch).latent_dist.mode() for batch in images.split(64)])
        flat = modes.permute(1, 0, 2, 3).flatten(1).double()
        mean, covariance = flat.mean(1), torch.cov(flat)
        values, vectors = torch.linalg.eigh(covariance)
        whitener = (vectors * values.rsqrt()) @ vectors.T
        colourer = (vectors * values.sqrt()) @ vectors.T
        quant, post = vae.quant_conv, vae.post_quant_conv
        channels = len(mean)
        weight, bias = quant.weight[:channels, :, 0, 0].double(), quant.bias[:channels].double()
        quant.weight[:channels, :, 0, 0] = (whitener @ weight).float()
        quant.bias[:channels] = (whitener @ (bias - mean)).float()
        # The log-variance half is not rotated: a mixed Gaussian has no diagonal posterior. Its mean scale is moved.
        quant.bias[channels:] -= values.log().mean().float()
        post.bias += (post.weight[:, :, 0, 0].double() @ mean).float()
        post.weight[:, :, 0, 0] = (post.weight[:, :, 0, 0].double() @ colourer).float()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    train, held_out = to_unit(load_split("train").images), to_unit(load_split("validation").images)
    vae = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, weight_decay=1e-3, betas=(0.9, 0.99))
    curve, step, spent = Curve(), 0, 0.0
    if state := latest(AUTOENCODER):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        curve, step, spent = Curve(state["curve"]), state["step"], state["spent"]
    begin, saved = time.monotonic() - spent, time.monotonic()
    while (spent := time.monotonic() - begin) < 60 * arguments.minutes:
        rate = PEAK_RATE * min(1, (step + 1) / 100) * max(0.02, 1 - spent / (60 * arguments.minutes))
        for group in optimizer.param_groups:
            group["lr"] = rate
        picks = torch.randint(len(train), (arguments.batch_size,), generator=generator)
        batch = augment(train[picks], generator).contiguous(memory_format=torch.channels_last)
        loss, squared = loss_of(vae, batch, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        curve.add(step, squared=squared.item())
        if step % 100 == 0:
            print(f"step {step} {spent / 60:.1f} min {curve.summary()}", flush=True)
        if time.monotonic() - saved > 120:
            print(f"  validation {psnr_db(vae, held_out[:128]):.2f} dB", flush=True)
            save_atomically(AUTOENCODER, {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                            "generator": generator.get_state(), "curve": curve.rows, "spent": spent})  # fmt: skip
            saved = time.monotonic()
    whiten(vae, train)
    print(f"validation {psnr_db(vae, held_out):.2f} dB, test {psnr_db(vae, to_unit(load_split('test').images)):.2f} dB")
    vae.save_pretrained(AUTOENCODER / "final")
    np.savez(AUTOENCODER / "curve.npz", **curve.arrays())


if __name__ == "__main__":
    main()
