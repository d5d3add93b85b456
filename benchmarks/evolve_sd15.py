"""Evolve Stable Diffusion v1.5's UNet (random weights: latency does not depend on them) under a latency budget.

    python benchmarks/evolve_sd15.py --lut latency_tables/sd15_torch-cpu_fp32.yaml --margin 0.9 \
        --json benchmarks/results/evolve_sd15.json

Quality is the distance to the full network's output on small latents, so a candidate takes a second instead of half a
minute; latency is that of the table's own workload. With random weights the network found is of no use to anyone: what
is shown is that the search meets a budget at this size, and that the network then measures what the table predicted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _report import write_report
from diffusers import UNet2DConditionModel

import nas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lut", help="a latency table of sd15; measured first when not given")
    parser.add_argument("--budget", type=float, default=0.6, help="share of the full network's predicted latency")
    parser.add_argument("--margin", type=float, help="quantile of the table's error to allow for, such as 0.9")
    parser.add_argument(
        "--latent-size", type=int, default=16, help="rows and columns of the latents that judge quality"
    )
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--workdir", type=Path, help="where the search keeps its journal, to be able to go on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    space = nas.SearchSpace.load("sd15")
    lut = nas.LatencyTable.load(arguments.lut) if arguments.lut else nas.LatencyTable.measure(space)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**space.config).eval().requires_grad_(False)
    size = arguments.latent_size
    latents = torch.randn(arguments.samples, 4, size, size)
    contexts = torch.randn(arguments.samples, space.context_length, space.config["cross_attention_dim"])
    judge = nas.TeacherDistance(unet, latents, contexts)
    began = time.perf_counter()
    result = nas.evolve(
        nas.Supernet(unet, space),
        lut,
        budget_ms=arguments.budget * lut.latency_ms(space.full),
        scorer=judge,
        margin=arguments.margin,
        workdir=arguments.workdir or tempfile.mkdtemp(prefix="evolve-sd15-"),
        candidates=12,
        report=print,
    )
    write_report(
        {
            "workload": lut.workload.describe(),
            "full_predicted_ms": lut.latency_ms(space.full),
            "full_measured_ms": result.full_ms,
            "budget_ms": result.budget_ms,
            "safety_margin": result.safety_margin,
            "predicted_ms": result.predicted_ms,
            "measured_ms": result.measured_ms,
            "measured_share_of_full": result.measured_ms / result.full_ms,
            "prediction_error": result.prediction_error,
            "slowdown": result.slowdown,
            "prediction_error_at_equal_speed": result.prediction_error_at_equal_speed,
            "relative_distance_to_full": -result.score.mean,
            "candidates_judged": len(result.history),
            "removed": list(result.architecture.removed),
            "added": list(result.architecture.added),
            "seconds": time.perf_counter() - began,
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
