"""How much better does a network bear the loss of its blocks after robust training, for the same cost of training?

The UNet of a pipeline is trained on in three ways from the same weights, on the same latents: on data without skipping
blocks, on data with skipping, and with skipping against the UNet as it was as the teacher. The teacher's forward pass
is about a third of a training step, so that way has three steps where the others have four. Then blocks are taken out
in random orders, the same ones for all, and each network without them is judged, untrained: CLIP score of its pictures
and distance of its outputs from the full UNet's. The weights as they were are a fourth contestant:

    python benchmarks/robust_training.py --pipeline emoji --workdir run --json robust_training.json

Interrupted and started again with the same `--workdir`, it goes on from where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from _report import write_report
from torch import nn

import nas
from nas import Architecture, SearchSpace, Supernet
from nas._files import write_text_atomically
from nas._fingerprint import fingerprint_of_modules
from nas._progress import track
from nas.errors import NasError
from nas.pipelines import load_pipeline, quiet_libraries
from nas.quality import ClipScore, TeacherDistance, load_captions
from nas.quality.score import Score
from nas.training import TrainingData, robust_train, synthetic_data

UNTRAINED = "as it was"
# Name -> whether blocks are skipped, whether the full UNet is the teacher, and the share of the training steps.
WAYS = {
    "on data": (False, False, 1.0),
    "robust, on data": (True, False, 1.0),
    "robust, with teacher": (True, True, 0.75),
}


@dataclass(frozen=True)
class Subject:
    """What is trained on and judged.

    Attributes:
        pipe: a text-to-image pipeline.
        space: of its UNet.
        arguments: of the command line.
    """

    pipe: Any
    space: SearchSpace
    arguments: argparse.Namespace

    @cached_property
    def data(self) -> TrainingData:
        """Latents that the pipeline samples for captions to train on."""
        captions = load_captions(self.arguments.pipeline, "train", count=self.arguments.samples)
        return self._sampled(captions, "latents.safetensors")

    @cached_property
    def judges(self) -> dict[str, ClipScore | TeacherDistance]:
        """Both know nothing of the training: their captions and latents are of another split."""
        captions = load_captions(self.arguments.pipeline, "test", count=self.arguments.prompts)
        unseen = self._sampled(captions, "unseen.safetensors")
        return {
            "clip_score": ClipScore(self.pipe, prompts=captions, steps=self.arguments.sampling_steps),
            "teacher_distance": TeacherDistance(
                self.pipe.unet, unseen.latents, unseen.contexts, scheduler=self.pipe.scheduler, batch_size=32
            ),
        }

    def _sampled(self, captions: list[str], file: str) -> TrainingData:
        return synthetic_data(self.pipe, captions, seed=self.arguments.seed, path=self.arguments.workdir / file)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        with quiet_libraries():
            pipe = load_pipeline(nas.bundled(arguments.pipeline))
            space = SearchSpace.from_unet(pipe.unet, name=arguments.pipeline)
            write_report(measure(Subject(pipe, space, arguments)), arguments.json)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pipeline", default="emoji", help="one that comes along")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600, help="training steps without a teacher")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--skip", type=float, default=0.2, help="skip probability")
    parser.add_argument("--samples", type=int, default=512, help="latents to train on")
    parser.add_argument("--removed", type=int, nargs="+", default=[0, 1, 2, 4, 6, 8, 12, 16], metavar="BLOCKS")
    parser.add_argument("--orders", type=int, default=3, help="random orders in which blocks go")
    parser.add_argument("--prompts", type=int, default=64, help="captions that are judged by")
    parser.add_argument("--sampling-steps", type=int, default=8, help="of the pictures that are judged")
    parser.add_argument("--rounds", type=int, default=3, help="in which the cost of a step is taken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def measure(subject: Subject) -> dict[str, Any]:
    arguments = subject.arguments
    curves = [row for name in (UNTRAINED, *WAYS) for row in curve(subject, name, trained(subject, name))]
    told = ("steps", "batch_size", "learning_rate", "skip", "samples", "prompts", "sampling_steps", "orders", "seed")
    return {
        "pipeline": arguments.pipeline,
        "blocks": len(subject.space.blocks),
        **{option: getattr(arguments, option) for option in told},
        "costs": costs(subject),
        "curves": curves,
    }


def trained(subject: Subject, name: str) -> nn.Module:
    """The network of a contestant."""
    checkpoint = subject.arguments.workdir / f"{name.replace(', ', '-').replace(' ', '-')}.pt"
    return train(subject, name, steps_of(subject, name), checkpoint=checkpoint)


def steps_of(subject: Subject, name: str) -> int:
    return 0 if name == UNTRAINED else round(WAYS[name][2] * subject.arguments.steps)


def train(subject: Subject, name: str, steps: int, **options: Any) -> nn.Module:
    unet, arguments = copy.deepcopy(subject.pipe.unet), subject.arguments
    skips, taught, _ = WAYS.get(name, (False, False, 0.0))
    robust_train(
        Supernet(unet, subject.space, skip_probability=arguments.skip if skips else 0.0, seed=arguments.seed),
        subject.pipe.unet if taught else None,
        subject.data,
        scheduler=subject.pipe.scheduler,
        steps=steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        ema_decay=0.98,
        seed=arguments.seed,
        check_memory=False,  # takes longer than the few steps whose cost is taken
        **options,
    )
    return unet.eval()


def costs(subject: Subject, *, steps: int = 6) -> dict[str, dict[str, float]]:
    """The CPU's seconds in a training step of each way, the least of some rounds, and in all its steps."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(subject.arguments.rounds):
        for name, seconds in found.items():
            started = time.process_time()
            train(subject, name, steps)
            seconds.append((time.process_time() - started) / steps)
    counts = {name: steps_of(subject, name) for name in WAYS}
    return {
        name: {"steps": counts[name], "step_cpu_seconds": min(seconds), "cpu_seconds": counts[name] * min(seconds)}
        for name, seconds in found.items()
    }


def curve(subject: Subject, name: str, unet: nn.Module) -> list[dict[str, Any]]:
    """Mean over the orders, with the 95 % interval over prompts or latents, for each number of blocks removed."""
    found: dict[int, dict[str, list[np.ndarray]]] = {}
    points = list(removals(subject))
    supernet = Supernet(unet, subject.space)
    for removed, architecture in track(points, description=name):
        values = judged(subject, supernet, architecture)
        for judge, those in values.items():
            found.setdefault(removed, {}).setdefault(judge, []).append(np.array(those))
    return [{"contestant": name, "removed": removed, **figures(values)} for removed, values in found.items()]


def figures(values: dict[str, list[np.ndarray]]) -> dict[str, float]:
    row: dict[str, float] = {}
    for judge, orders in values.items():
        score = Score.of(np.mean(orders, axis=0))
        row |= {judge: score.mean, f"{judge}_low": score.low, f"{judge}_high": score.high}
    return row


def removals(subject: Subject) -> Iterator[tuple[int, Architecture]]:
    """Numbers of blocks and what is left without them; in one order, fewer are some of more."""
    space, arguments = subject.space, subject.arguments
    for order in range(arguments.orders):
        places = [block.place for block in space.removable(space.full)]
        random.Random(f"{arguments.seed} {order}").shuffle(places)
        for removed in sorted({min(number, len(places)) for number in arguments.removed}):
            if removed or not order:  # without removals all orders are one
                left = space.full
                for place in places[:removed]:
                    left = left.remove(place)
                yield removed, left


def judged(subject: Subject, supernet: Supernet, architecture: Architecture) -> dict[str, list[float]]:
    """Values of both judges, kept in a file each."""
    network = supernet.candidate(architecture)
    described = {name: judge.describe() for name, judge in subject.judges.items()}
    file = subject.arguments.workdir / "points" / f"{fingerprint_of_modules(network)}.json"
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["judges"] == described and kept["architecture"] == str(architecture):
            return kept["values"]
    values = {name: judge(network).values.tolist() for name, judge in subject.judges.items()}
    kept = {"judges": described, "architecture": str(architecture), "values": values}
    write_text_atomically(file, json.dumps(kept))
    return values


if __name__ == "__main__":
    sys.exit(main())
