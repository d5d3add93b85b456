"""Does the search beat chance? Evolve the bundled model, then compare with random architectures of the same latency.

    python benchmarks/evolution_vs_random.py --json benchmarks/results/evolution_vs_random.json

All networks start from the same weights (those trained robustly), are trained by the same number of distillation steps
on the same batches, and are judged on the same test captions from the same noise. The search itself saw validation
captions only. Latencies are those that the table predicts, as in the search.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _report import write_report

import nas
from nas._progress import track
from nas.pipelines import load_pipeline, load_unet
from nas.quality import Clip, Score, load_captions
from nas.search import random_architecture_at
from nas.training import TrainingData, robust_train, synthetic_data

MODEL = "emoji"


def main() -> None:
    options = parse()
    began = time.perf_counter()
    contest = Contest.prepare(options)
    budget_ms = options.budget * contest.lut.latency_ms(contest.lut.space.full)
    evolution = contest.evolve(budget_ms)
    # Not above what was found: a random network may be as slow as the evolved one, or a little faster.
    rng = random.Random(options.seed)
    drawn = [contest.random_network(evolution.predicted_ms, rng) for _ in range(options.networks)]
    evolved = contest.judge(contest.trained(evolution.architecture))
    rivals = [contest.judge(contest.trained(network)) for network in track(drawn, description="Random networks")]
    figures = compare(contest.judge(contest.pipe.unet), evolved, rivals)
    latencies = [contest.lut.latency_ms(network) for network in drawn]
    write_report(
        {
            "full_ms": evolution.predicted_full_ms,
            "budget_ms": budget_ms,
            "evolved_ms": evolution.predicted_ms,
            "random_ms": float(np.mean(latencies)),
            "search_prompts": options.search_prompts,
            "final_steps": options.final_steps,
            "test_prompts": options.test_prompts,
            **figures,
            "evolved_architecture": str(evolution.architecture),
            "random_architectures": [str(network) for network in drawn],
            "seconds": time.perf_counter() - began,
        },
        options.json,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lut", type=Path, help="a latency table of the bundled model; measured first when not given")
    parser.add_argument("--budget", type=float, default=0.6, help="share of the full network's predicted latency")
    parser.add_argument("--networks", type=int, default=10, help="random architectures")
    parser.add_argument("--search-prompts", type=int, default=128, help="validation captions that the search sees")
    parser.add_argument("--test-prompts", type=int, default=200, help="test captions for the comparison")
    parser.add_argument("--search-steps", type=int, default=4, help="DDIM steps of the pictures that the search sees")
    parser.add_argument("--sampling-steps", type=int, default=10, help="DDIM steps of all other pictures")
    parser.add_argument("--train-prompts", type=int, default=80, help="training captions to distil on")
    parser.add_argument("--final-steps", type=int, default=150, help="distillation steps of every network")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.98)
    parser.add_argument("--group-size", type=float, default=0.5)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--first-look", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, help="where the search keeps its journal, to be able to go on")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@dataclass
class Contest:
    """What all networks have in common."""

    options: argparse.Namespace
    workdir: Path
    pipe: Any
    lut: nas.LatencyTable
    supernet: nas.Supernet
    data: TrainingData
    searching: nas.ClipScore
    judge: nas.ClipScore

    @classmethod
    def prepare(cls, options: argparse.Namespace) -> Contest:
        pipe = load_pipeline(nas.bundled(MODEL))
        length = pipe.tokenizer.model_max_length
        space = nas.SearchSpace.from_unet(pipe.unet, name=MODEL, context_length=length)
        lut = nas.LatencyTable.load(options.lut) if options.lut else nas.LatencyTable.measure(space)
        robust = nas.Supernet(load_unet(nas.bundled(MODEL) / "unet_robust"), lut.space, seed=options.seed)
        prompts = load_captions(MODEL, "train", count=options.train_prompts, seed=options.seed, drawn_only=True)
        data = synthetic_data(pipe, prompts, steps=options.sampling_steps, seed=options.seed)
        workdir = options.workdir or Path(tempfile.mkdtemp(prefix="evolution-vs-random-"))
        searching = clip_score(pipe, "validation", options.search_prompts, options.search_steps, options.seed)
        judge = clip_score(pipe, "test", options.test_prompts, options.sampling_steps, options.seed)
        return cls(options, workdir, pipe, lut, robust, data, searching, judge)

    def evolve(self, budget_ms: float) -> nas.Evolution:
        options = self.options
        return nas.evolve(
            self.supernet,
            self.lut,
            budget_ms=budget_ms,
            scorer=self.searching,
            workdir=self.workdir,
            seed=options.seed,
            group_size=options.group_size,
            candidates=options.candidates,
            first_look=options.first_look,
            measure=False,
            report=print,
        )

    def random_network(self, budget_ms: float, rng: random.Random) -> nas.Architecture:
        return random_architecture_at(self.lut.space, self.lut, budget_ms, rng)

    def trained(self, architecture: nas.Architecture) -> nas.EvolvedUNet:
        """The network after the training that every contestant gets."""
        unet, options = self.supernet.extract(architecture), self.options
        robust_train(
            unet,
            self.pipe.unet,
            self.data,
            scheduler=self.pipe.scheduler,
            steps=options.final_steps,
            batch_size=16,
            learning_rate=options.learning_rate,
            ema_decay=options.ema_decay,
            seed=options.seed,
        )
        return unet


def clip_score(pipe: Any, split: str, count: int, steps: int, seed: int) -> nas.ClipScore:
    prompts = load_captions(MODEL, split, count=count, seed=seed)
    return nas.ClipScore(pipe, clip=Clip.load(nas.bundled(MODEL) / "clip"), prompts=prompts, steps=steps, seed=seed)


def compare(full: Score, evolved: Score, rivals: list[Score]) -> dict[str, Any]:
    """The scores, and how many standard errors the evolved network is above the mean of the random ones.

    Two sources of noise: which random networks were drawn, and which prompts were judged (paired).
    """
    means = np.array([score.mean for score in rivals])
    mean_rival = np.mean([score.values for score in rivals], axis=0)
    paired = evolved.values - mean_rival
    error_of_draw = float(np.std(means, ddof=1) / np.sqrt(len(means)))
    error_of_prompts = float(np.std(paired, ddof=1) / np.sqrt(len(paired)))
    difference = evolved.mean - float(means.mean())
    return {
        "clip_full": full.mean,
        "clip_evolved": evolved.mean,
        "clip_kept": evolved.mean / full.mean,
        "clip_random_mean": float(means.mean()),
        "clip_random_standard_error": error_of_draw,
        "clip_random_best": float(means.max()),
        "clip_random": means.tolist(),
        "difference": difference,
        "difference_standard_error": float(np.hypot(error_of_draw, error_of_prompts)),
        "difference_in_standard_errors": difference / float(np.hypot(error_of_draw, error_of_prompts)),
    }


if __name__ == "__main__":
    main()
