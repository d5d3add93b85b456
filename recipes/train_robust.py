"""Robust training of any pipeline's UNet, by as many processes as there are devices.

    accelerate launch --num_processes 4 --mixed_precision bf16 recipes/train_robust.py \\
        --pipeline PIPELINE --prompts prompts.txt --steps 20000 --batch-size 64 --out unet_robust

Every process draws the same paths and the same batches, and they share each batch among them: their number changes the
time and nothing else. Interrupted and started again by the same command it goes on, to the same weights. Without
`accelerate launch` it is one process. What it writes is a UNet for `nas evolve --unet` and for the `unet` of a recipe.
"""

from __future__ import annotations

import argparse
import copy
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator, InitProcessGroupKwargs
from diffusers import DiffusionPipeline

import nas
from nas.supernet import ramp
from nas.training import robust_train, synthetic_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pipeline", required=True, help="folder of a pipeline in the manner of Stable Diffusion")
    parser.add_argument("--prompts", required=True, type=Path, help="text file, one a line")
    parser.add_argument("--out", required=True, type=Path, help="folder for the UNet, latents and checkpoint")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16, help="samples a step, of all processes together")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--skip-probability", type=float, default=0.3, help="reached after a third of the steps")
    arguments = parser.parse_args()

    # Sampling, for which the other processes wait, may take longer than the ten minutes that they wait by default.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])
    pipe = DiffusionPipeline.from_pretrained(arguments.pipeline, local_files_only=True).to(accelerator.device)
    prompts = [line for line in arguments.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    with accelerator.main_process_first():  # the others read what it sampled
        data = synthetic_data(pipe, prompts, path=arguments.out / "latents.safetensors")
    unet = copy.deepcopy(pipe.unet)
    space = nas.SearchSpace.from_unet(unet, name="robust", context_length=pipe.tokenizer.model_max_length)
    robust_train(
        nas.Supernet(unet, space, skip_probability=ramp(arguments.skip_probability, arguments.steps // 3)),
        pipe.unet,
        data,
        scheduler=pipe.scheduler,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        accelerator=accelerator,
        checkpoint=arguments.out / "training.pt",
    )
    if accelerator.is_main_process:
        unet.save_pretrained(arguments.out)
        print(f"trained by {accelerator.num_processes} processes, written to {arguments.out}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
