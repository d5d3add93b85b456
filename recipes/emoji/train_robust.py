"""Step 11: the same UNet made robust to missing blocks. Resumes from its last checkpoint.

    python recipes/emoji/train_robust.py --steps 800

SnapFusion's robust training (https://arxiv.org/abs/2306.00980, section 2): at every step each block is skipped at
random (`nas.Supernet`); the loss is the distance to the full UNet's prediction, plus a little of the data's. Starts
from `unet/final`, which is also the teacher, and writes `unet_robust/final`. Needs the library itself installed.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from checkpoints import Curve, latest, save_atomically
from diffusers import UNet2DConditionModel
from settings import ROBUST, UNET
from train_unet import follow
from unet_model import TrainSet, predict

import nas
from nas.supernet import ramp

PEAK_RATE = 5e-4
SKIP_PROBABILITY = 0.15
DATA_SHARE = 0.25


def rate_at(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / 50, max(0.02, 2 * (steps - step) / steps))


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
    save_atomically(ROBUST, state)
    average.save_pretrained(ROBUST / "final")
    np.savez(ROBUST / "curve.npz", **curve.arrays())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-seconds", type=float, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    teacher = UNet2DConditionModel.from_pretrained(UNET / "final").eval().to(memory_format=torch.channels_last)
    model = copy.deepcopy(teacher).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
    average, curve, step, before = copy.deepcopy(model), Curve(), 0, 0.0
    if state := latest(ROBUST):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        curve, step, before = Curve(state["curve"]), state["step"], state["spent"]
    supernet = nas.Supernet(model, skip_probability=ramp(SKIP_PROBABILITY, arguments.steps // 3, start=0.05)).train()
    supernet.step = step
    train, saved, begin = TrainSet(), time.monotonic(), time.process_time()
    while step < arguments.steps:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, arguments.steps)
        batch = train.draw(arguments.batch_size, generator)
        with torch.no_grad():
            wanted = predict(teacher, batch)
        guessed = predict(supernet, batch)
        distance = F.mse_loss(guessed, wanted)
        loss = (1 - DATA_SHARE) * distance + DATA_SHARE * F.mse_loss(guessed, batch.velocity)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(average, model, step)
        curve.add(step, distance=distance.item())
        spent = before + time.process_time() - begin
        if step % 25 == 0:
            print(f"step {step} {spent / 60:.1f} CPU min {curve.summary(25)}", flush=True)
        if time.monotonic() - saved > arguments.save_seconds or step == arguments.steps:
            save(model, average, optimizer, generator, curve, step, spent)
            saved = time.monotonic()


if __name__ == "__main__":
    main()
