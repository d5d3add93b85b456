"""Each training stage for a few steps on Stable Diffusion v1.5's architecture: what it takes, and was said to.

    python benchmarks/sd15_stages.py --json sd15_stages.json

Weights and data are random, on which neither time nor memory depends. Every stage has a process of its own, so that its
peak is its own: the largest resident set minus what the process had before it made its networks. What a stage is said
to need is `nas.training.TrainingMemory`, networks included. A stage that the machine has no memory for is refused
before it starts; the report says so.

`--precision weights` holds weights, gradients and moments in bf16, which is the least memory but rounds small steps
away; `mixed` is what to train with: weights in float32, computation and teacher in bf16. `full` has everything in
float32, for CPUs without bf16, where convolutions in it take far longer.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from _report import write_report
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from nas import SearchSpace, Supernet
from nas._progress import track
from nas.decoder import distil_decoder, prune_decoder
from nas.errors import NasError
from nas.training import TrainingData, TrainingLog, distil_steps, robust_train, to_v_prediction
from nas.unet import fold_guidance

EPSILON = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
V = DDIMScheduler.from_config(
    EPSILON.config, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)
# Stable Diffusion's autoencoder; a space of another name gets a small one.
WIDTHS = (128, 256, 512, 512)
SAMPLES = 4


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.worker:
        arguments.worker.write_text(json.dumps(run(arguments.stages[0], arguments)))
        return 0
    try:
        space = SearchSpace.load(arguments.space)
    except NasError as error:
        print(error, file=sys.stderr)
        return 1
    names = ("precision", "batch_size", "steps", "gradient_checkpointing")
    figures = {"space": space.name, **{name: getattr(arguments, name) for name in names}}
    rows = [in_a_process(stage, arguments) for stage in track(arguments.stages, description="stages")]
    print(table(rows))
    if arguments.json:
        write_report({**figures, "stages": rows}, arguments.json)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--steps", type=int, default=3, help="at least 2: a step's time is that between two ends")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", choices=("weights", "mixed", "full"), default="weights")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--space", default="sd15", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.steps < 2:
        parser.error("--steps must be at least 2")
    return arguments


def in_a_process(stage: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a stage, run by another process."""
    checkpointing = "" if arguments.gradient_checkpointing else "no-"
    options = ["--stages", stage, f"--{checkpointing}gradient-checkpointing"]
    for name in ("steps", "batch_size", "precision", "space", "threads"):
        if (value := getattr(arguments, name)) is not None:
            options += ["--" + name.replace("_", "-"), str(value)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        done = subprocess.run([sys.executable, __file__, *options, "--worker", str(path)], check=False)
        if done.returncode or not path.is_file():
            # The system ends a process that takes more than there is.
            return {"stage": stage, "outcome": f"ended with {done.returncode}"}
        return json.loads(path.read_text())


def run(stage: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a stage, run here."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *given: ends.append(time.perf_counter()))
    options = {
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "gradient_checkpointing": arguments.gradient_checkpointing,
    }
    if arguments.precision == "mixed":
        options["accelerator"] = Accelerator(cpu=True, mixed_precision="bf16")
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)
    try:
        log = STAGES[stage](SearchSpace.load(arguments.space), arguments.precision, options)
    except NasError as error:
        return {"stage": stage, "outcome": f"refused: {error}"}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    between = [later - earlier for earlier, later in pairwise(ends)]
    return {
        "stage": stage,
        "outcome": "done",
        "steps": len(log.losses),
        "seconds_per_step": statistics.median(between),
        "estimated_gib": None if log.memory is None else log.memory.total / 2**30,
        "measured_gib": (most - before) / 2**30,
        "estimate": None if log.memory is None else str(log.memory),
        "losses": log.losses,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    lines = [f"{'stage':>14}  {'steps':>5}  {'s/step':>8}  {'estimated':>9}  {'measured':>9}"]
    for row in rows:
        if row["outcome"] != "done":
            lines.append(f"{row['stage']:>14}  {row['outcome']}")
            continue
        estimated = "unasked" if row["estimated_gib"] is None else f"{row['estimated_gib']:.2f} GiB"
        lines.append(
            f"{row['stage']:>14}  {row['steps']:>5}  {row['seconds_per_step']:>8.3g}  {estimated:>9}  "
            f"{row['measured_gib']:>5.2f} GiB"
        )
    return "\n".join(lines)


def student_and_teacher(space: SearchSpace, precision: str) -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """Two UNets of random weights, the same ones; the teacher in bf16 if anything is."""
    student = in_dtype(precision, lambda: UNet2DConditionModel(**space.config))
    teacher = copy.deepcopy(student).requires_grad_(False)
    return student, teacher if precision == "full" else teacher.bfloat16()


def in_dtype(precision: str, make: Callable[[], nn.Module]) -> Any:
    """What `make` makes, from the start in the dtype that weights are to have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if precision == "weights" else torch.float32)
    try:
        return make().eval()
    finally:
        torch.set_default_dtype(before)


def random_data(space: SearchSpace) -> TrainingData:
    config = space.config
    size, channels, width = config["sample_size"], config["in_channels"], config["cross_attention_dim"]
    contexts = torch.randn(SAMPLES, space.context_length, width)
    return TrainingData(torch.randn(SAMPLES, channels, size, size), contexts, contexts[:1])


def robust(space: SearchSpace, precision: str, options: dict[str, Any]) -> TrainingLog:
    student, teacher = student_and_teacher(space, precision)
    supernet = Supernet(student, space, skip_probability=0.15)
    return robust_train(supernet, teacher, random_data(space), scheduler=EPSILON, feature_weight=0.5, **options)


def v_prediction(space: SearchSpace, precision: str, options: dict[str, Any]) -> TrainingLog:
    student = in_dtype(precision, lambda: UNet2DConditionModel(**space.config))
    return to_v_prediction(student, random_data(space), scheduler=EPSILON, **options).log


def steps(space: SearchSpace, precision: str, options: dict[str, Any]) -> TrainingLog:
    student, teacher = student_and_teacher(space, precision)
    options = {"student_steps": 8, "guided_share": 1.0, **options}
    return distil_steps(student, teacher, random_data(space), scheduler=V, **options)


def folded_steps(space: SearchSpace, precision: str, options: dict[str, Any]) -> TrainingLog:
    student, teacher = student_and_teacher(space, precision)
    fold_guidance(student)
    return distil_steps(student, teacher, random_data(space), scheduler=V, student_steps=8, **options)


def decoder(space: SearchSpace, precision: str, options: dict[str, Any]) -> TrainingLog:
    widths = WIDTHS if space.name == "sd15" else (32, 64)
    levels = len(widths)
    config = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 2,
        "latent_channels": space.config["in_channels"],
        "sample_size": space.config["sample_size"] * 2 ** (levels - 1),
        "scaling_factor": 0.18215,
    }
    teacher = in_dtype(precision, lambda: AutoencoderKL(**config)).requires_grad_(False)
    slim = prune_decoder(teacher).requires_grad_(True)
    if precision == "mixed":
        teacher.bfloat16()
    return distil_decoder(slim, teacher, random_data(space).latents, **options)


STAGES: dict[str, Callable[[SearchSpace, str, dict[str, Any]], TrainingLog]] = {
    "v_prediction": v_prediction,
    "robust": robust,
    "steps": steps,
    "folded_steps": folded_steps,
    "decoder": decoder,
}

if __name__ == "__main__":
    sys.exit(main())
