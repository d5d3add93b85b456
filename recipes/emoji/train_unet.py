"""Step 9: the UNet. Resumes from its last checkpoint.

    python recipes/emoji/train_unet.py --steps 6000

The learning rate falls over the last part of `--steps`; a resumed run may name another number of steps. Every save
also writes the averaged weights, which are the ones to use, as a diffusers folder `unet/final`.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from checkpoints import Curve, latest, save_atomically
from settings import UNET
from unet_model import TrainSet, build_unet, predict

PEAK_RATE = 1e-3
FALL_FROM = 0.6  # the part of the steps after which the rate falls


def rate_at(step: int, steps: int) -> float:
    left = (steps - step) / (steps * (1 - FALL_FROM))
    return PEAK_RATE * min(1, (step + 1) / 200, max(0.01, left))


@torch.no_grad()
def follow(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Move the averaged weights; the first steps forget fast, so that early averages are of use."""
    decay = min(0.998, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save(model, average, optimizer, generator, curve: Curve, step: int, spent: float) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "curve": curve.rows,
        "step": step,
        "spent": spent,
    }
    save_atomically(UNET, state)
    average.save_pretrained(UNET / "final")
    np.savez(UNET / "curve.npz", **curve.arrays())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-seconds", type=float, default=240)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build_unet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
    average, curve, step, before = copy.deepcopy(model), Curve(), 0, 0.0
    if state := latest(UNET):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        curve, step, before = Curve(state["curve"]), state["step"], state["spent"]
    print(f"{sum(value.numel() for value in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    train, saved, begin = TrainSet(), time.monotonic(), time.process_time()
    while step < arguments.steps:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, arguments.steps)
        batch = train.draw(arguments.batch_size, generator)
        loss = F.mse_loss(predict(model, batch), batch.velocity)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(average, model, step)
        curve.add(step, loss=loss.item())
        spent = before + time.process_time() - begin
        if step % 50 == 0:
            print(f"step {step} {spent / 60:.1f} CPU min {curve.summary(50)}", flush=True)
        if time.monotonic() - saved > arguments.save_seconds or step == arguments.steps:
            save(model, average, optimizer, generator, curve, step, spent)
            saved = time.monotonic()


if __name__ == "__main__":
    main()
