"""Step 11: the UNet. Resumes from its last checkpoint.

    python recipes/emoji/train_unet.py --steps 6000

The learning rate falls over the last part of `--steps`; a resumed run may name another number of steps. Every save
also writes the averaged weights, which are the ones to use, as a diffusers folder `unet/final`.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from checkpoints import UNetRun
from settings import UNET
from unet_model import TrainSet, build_unet, predict

PEAK_RATE = 1e-3
FALL_FROM = 0.6  # the part of the steps after which the rate falls


def rate_at(step: int, steps: int) -> float:
    left = (steps - step) / (steps * (1 - FALL_FROM))
    return PEAK_RATE * min(1, (step + 1) / 200, max(0.01, left))


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
    run = UNetRun(UNET, model, rate=PEAK_RATE, generator=generator, save_seconds=arguments.save_seconds)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    train = TrainSet()
    while run.step < arguments.steps:
        batch = train.draw(arguments.batch_size, generator)
        loss = F.mse_loss(predict(model, batch), batch.velocity)
        run.learn(loss, rate_at(run.step, arguments.steps))
        run.note(every=50, last=run.step == arguments.steps, loss=loss.item())


if __name__ == "__main__":
    main()
