"""What does training with stochastic paths cost, compared with training the UNet as it is?

Three contestants take turns, one step each, so that whatever else the machine does hits all alike: the plain UNet, the
supernet that skips nothing, and the supernet that skips blocks. Run it on an otherwise idle machine:

    python benchmarks/training_step.py --json training_step.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _report import write_report
from diffusers import UNet2DConditionModel

from nas import SearchSpace, Supernet, Workload
from nas._progress import track
from nas.errors import NasError
from nas.latency.devices import get_device
from nas.unet import example_inputs

WARM_UP = 3


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        space = SearchSpace.load(arguments.space)
    except NasError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    inputs = example_inputs(space, Workload.of(space, batch_size=arguments.batch_size))
    times = measure(contestants(space, arguments.skip, inputs), arguments.rounds)
    machine = get_device("torch-cpu").provenance()
    print(f"{machine['hardware']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}")
    write_report({"space": space.name, "batch_size": arguments.batch_size, **figures(times)}, arguments.json)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="emoji", help="bundled space or file")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--skip", type=float, default=0.15, help="skip probability of the supernet that skips blocks")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each contestant")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def contestants(space: SearchSpace, skip: float, inputs: dict[str, Any]) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**space.config).train()
    networks = {
        "plain": copy.deepcopy(unet),
        "skip_0": Supernet(copy.deepcopy(unet), space, skip_probability=0.0).train(),
        f"skip_{skip:g}": Supernet(copy.deepcopy(unet), space, skip_probability=skip).train(),
    }
    return {name: training_step(network, inputs) for name, network in networks.items()}


def training_step(network: torch.nn.Module, inputs: dict[str, Any]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    target = torch.randn_like(inputs["sample"])

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(**inputs)[0], target).backward()
        optimizer.step()

    return step


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step; a round is one step of each, in an order that rotates."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in track(range(-WARM_UP, rounds), description="training steps"):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            start = time.perf_counter()
            steps[name]()
            if turn >= 0:
                times[name].append((time.perf_counter() - start) * 1000)
    return times


def figures(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and for the supernets the median over rounds of their step's time over the plain step's."""
    found = {f"{name}_median_ms": statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        if name != "plain":
            ratios = [value / plain for value, plain in zip(values, times["plain"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            found |= {f"{name}_ratio": middle, f"{name}_ratio_lower": low, f"{name}_ratio_upper": high}
    return found | {"rounds": len(times["plain"])}


if __name__ == "__main__":
    sys.exit(main())
