"""Train something of a few hundred MB, and print what was said of the memory besides its networks, and what it took.

python tests/memory_of_training.py robust|steps|decoder [--checkpointing] [--bf16] [--accumulate N]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from small_training import CONFIG, SCHEDULER

import nas.training._memory as estimate
from nas.decoder import distil_decoder
from nas.training import TrainingData, TrainingLog, distil_steps, robust_train

UNET = {**CONFIG, "sample_size": 32, "block_out_channels": (128, 256), "attention_head_dim": 8, "norm_num_groups": 32}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (128, 256),
    "layers_per_block": 2,
    "latent_channels": 4,
}
STAGES = ("robust", "steps", "decoder")


def train(stage: str, networks: tuple[Any, Any], size: int, **options: Any) -> TrainingLog:
    options = {"steps": 3, "batch_size": 4, "ema_decay": 0.9, **options}
    if stage == "decoder":
        return distil_decoder(*networks, torch.randn(4, 4, size, size), keep_mb=0.0, **options)
    data = TrainingData(torch.randn(8, 4, size, size), torch.randn(8, 5, 12), torch.randn(1, 5, 12))
    if stage == "robust":
        return robust_train(*networks, data, scheduler=SCHEDULER, feature_weight=0.5, **options)
    return distil_steps(*networks, data, scheduler=SCHEDULER, student_steps=4, guided_share=1.0, **options)


def make(stage: str, widths: tuple[int, ...]) -> Any:
    config = {**(VAE if stage == "decoder" else UNET), "block_out_channels": widths}
    return (AutoencoderKL if stage == "decoder" else UNet2DConditionModel)(**config)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="weights in bf16")
    parser.add_argument("--accumulate", type=int, default=1)
    arguments = parser.parse_args()
    options = {"gradient_checkpointing": arguments.checkpointing, "accumulate": arguments.accumulate}
    estimate._WORTH_ASKING = 0
    # What a first training imports and keeps is not what this one takes.
    small = make(arguments.stage, (32, 32))
    train(arguments.stage, (small, copy.deepcopy(small)), 8, **options)
    network = make(arguments.stage, UNET["block_out_channels"])
    if arguments.bf16:
        network.bfloat16()
    networks = (network, copy.deepcopy(network))
    gc.collect()
    before = psutil.Process().memory_info().rss
    log = train(arguments.stage, networks, 64 if arguments.stage != "decoder" else 48, **options)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"to_come": log.memory.to_come, "measured": most - before, "memory": str(log.memory)}))


if __name__ == "__main__":
    main()
