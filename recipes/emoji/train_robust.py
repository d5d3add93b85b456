"""Step 12: the same UNet made robust to missing blocks. Resumes from its last checkpoint.

    python recipes/emoji/train_robust.py --steps 800

SnapFusion's robust training (https://arxiv.org/abs/2306.00980, section 2): at every step each block is skipped at
random (`nas.Supernet`); the loss is the distance to the full UNet's prediction, plus a little of the data's. Starts
from `unet/final`, which is also the teacher, and writes `unet_robust/final`. Needs the library itself installed.
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.nn.functional as F
from checkpoints import UNetRun
from diffusers import UNet2DConditionModel
from settings import ROBUST, UNET
from unet_model import TrainSet, predict

import nas
from nas.supernet import ramp

PEAK_RATE = 5e-4
SKIP_PROBABILITY = 0.3  # a network at 60 % of the latency lacks nearly half of the blocks
DATA_SHARE = 0.25


def rate_at(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / 50, max(0.02, 2 * (steps - step) / steps))


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
    run = UNetRun(ROBUST, model, rate=PEAK_RATE, generator=generator, save_seconds=arguments.save_seconds)
    supernet = nas.Supernet(model, skip_probability=ramp(SKIP_PROBABILITY, arguments.steps // 3, start=0.05)).train()
    supernet.step = run.step
    train = TrainSet()
    while run.step < arguments.steps:
        batch = train.draw(arguments.batch_size, generator)
        with torch.no_grad():
            wanted = predict(teacher, batch)
        guessed = predict(supernet, batch)
        distance = F.mse_loss(guessed, wanted)
        loss = (1 - DATA_SHARE) * distance + DATA_SHARE * F.mse_loss(guessed, batch.velocity)
        run.learn(loss, rate_at(run.step, arguments.steps))
        run.note(every=25, last=run.step == arguments.steps, distance=distance.item())


if __name__ == "__main__":
    main()
