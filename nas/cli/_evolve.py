"""`nas evolve`: evolve the UNet of any pipeline to a budget."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nas._prompts import read_prompts
from nas.cli._image_budget import ImageBudget, add_budget, image_budget
from nas.cli._options import add_command, add_compute_on, add_seed, add_workload
from nas.cli._report import Report, columns
from nas.cli._values import count, natural, number, quantile
from nas.workload import Workload

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

    from nas.latency import LatencyTable
    from nas.quality import Scorer
    from nas.search import Evolution
    from nas.training import TrainingData

RESULT, LATENTS = "result", "latents.safetensors"
Size: TypeAlias = dict[str, int]


def add_to(commands: Any) -> None:
    """Add `nas evolve`."""
    parser = add_command(commands, "evolve", _evolve, "Evolve a pipeline's UNet to a latency budget.", resumes=True)
    parser.add_argument("--pipeline", required=True, type=Path, metavar="DIR", help="a diffusers pipeline")
    parser.add_argument("--unet", type=Path, metavar="DIR", help="start from this UNet instead of the pipeline's own")
    parser.add_argument("--lut", required=True, metavar="FILE", help="the latency table, from `nas lut build`")
    add_budget(parser)
    parser.add_argument(
        "--margin",
        type=quantile,
        metavar="Q",
        help="stay under the budget by this quantile of the table's error on whole networks, such as 0.9",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder; an interrupted run goes on")
    add_workload(parser, precision="the table's")
    _add_judge(parser)
    _add_training(parser)
    parser.add_argument("--storage", metavar="URL", help="Optuna storage (default: a journal file in DIR)")
    add_compute_on(parser)
    add_seed(parser)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scorer", default="clip", choices=("clip", "teacher"), help="CLIP score, or distance to the full UNet"
    )
    parser.add_argument("--clip", type=Path, metavar="DIR", help="the CLIP model (default: clip/ in the pipeline)")
    _add_prompts(parser, "--prompts", "to judge with", "captions/validation.json in the pipeline")
    parser.add_argument("--max-prompts", type=count, default=32, metavar="N", help="how many of them (default: 32)")
    parser.add_argument("--steps", type=count, default=10, metavar="N", help="denoising steps (default: 10)")
    parser.add_argument("--guidance-scale", type=number, default=5.0, metavar="W", help="default: 5")


def _add_training(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("--probe-steps", "distillation of each candidate before it is judged"),
        ("--train-steps", "robust training before each round"),
        ("--final-steps", "distillation of the network found"),
    ):
        parser.add_argument(name, type=natural, default=0, metavar="N", help=f"steps of {what} (default: 0)")
    _add_prompts(parser, "--training-prompts", "to train with", "captions/train.json in the pipeline")
    parser.add_argument("--max-training-prompts", type=count, default=256, metavar="N", help="how many (default: 256)")


def _add_prompts(parser: argparse.ArgumentParser, name: str, purpose: str, default: str) -> None:
    text = f"prompts {purpose}: text, one a line, or JSON (default: {default})"
    parser.add_argument(name, type=Path, metavar="FILE", help=text)


def _evolve(options: argparse.Namespace) -> Report:
    from nas.pipelines import quiet_libraries

    with quiet_libraries():
        result, image = _search(options)
        result.save(options.out / RESULT)
    return Report(_document(result, image, options), _text(result, image, options))


def _search(options: argparse.Namespace) -> tuple[Evolution, ImageBudget | None]:
    from nas.latency import LatencyTable
    from nas.pipelines import load_pipeline, load_unet
    from nas.sampling import placed_like
    from nas.search import evolve
    from nas.supernet import Supernet

    lut = LatencyTable.load(options.lut)
    pipe = load_pipeline(options.pipeline, compute_on=options.compute_on)
    start = placed_like(load_unet(options.unet), pipe.unet) if options.unet else pipe.unet
    workload = _workload(pipe, lut, options)
    image = image_budget(options, pipe, lut, workload)
    trains = options.probe_steps or options.train_steps or options.final_steps
    # What it is budgeted for is what it is judged and trained at.
    size = {name: getattr(workload, name) * pipe.vae_scale_factor for name in ("height", "width")}
    judged = _clip_score(pipe, options, size) if options.scorer == "clip" else _distance(pipe, start, options, size)
    result = evolve(
        Supernet(start, lut.space, seed=options.seed),
        lut,
        budget_ms=options.budget_ms if image is None else image.unet_budget_ms,
        scorer=judged,
        workdir=options.out,
        margin=options.margin,
        seed=options.seed,
        data=_training_data(pipe, options, size) if trains else None,
        # Where the search starts from the pipeline's own weights it trains them, and keeps a copy as the teacher.
        teacher=pipe.unet if options.unet else None,
        scheduler=pipe.scheduler,
        probe_steps=options.probe_steps,
        train_steps=options.train_steps,
        final_steps=options.final_steps,
        storage=options.storage,
        workload=workload,
    )
    return result, image


def _workload(pipe: DiffusionPipeline, lut: LatencyTable, options: argparse.Namespace) -> Workload:
    """What the network is for: the options, and the text length of the pipeline."""
    return Workload.of(
        lut.space,
        batch_size=options.batch_size,
        height=options.height,
        width=options.width,
        context_length=pipe.tokenizer.model_max_length,
        precision=options.precision or lut.workload.precision,
    )


def _clip_score(pipe: DiffusionPipeline, options: argparse.Namespace, size: Size) -> Scorer:
    from nas.quality import ClipScore

    return ClipScore(
        pipe,
        clip=options.clip,
        prompts=_judging_prompts(options),
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
        **size,
    )


def _distance(pipe: DiffusionPipeline, start: nn.Module, options: argparse.Namespace, size: Size) -> Scorer:
    from nas.quality import TeacherDistance
    from nas.unet import folded_width

    data = _sampled(pipe, _judging_prompts(options), options, size, "judging-" + LATENTS)
    told = any(folded_width(unet) is not None for unet in (pipe.unet, start))
    return TeacherDistance(
        pipe.unet,
        data.latents,
        data.contexts,
        seed=options.seed,
        scheduler=pipe.scheduler,
        guidance=options.guidance_scale if told else None,
        empty_context=data.empty_context,
    )


def _training_data(pipe: DiffusionPipeline, options: argparse.Namespace, size: Size) -> TrainingData:
    file = options.training_prompts or options.pipeline / "captions" / "train.json"
    prompts = read_prompts(file, option="--training-prompts", count=options.max_training_prompts, seed=options.seed)
    return _sampled(pipe, prompts, options, size, "training-" + LATENTS)


def _judging_prompts(options: argparse.Namespace) -> list[str]:
    file = options.prompts or options.pipeline / "captions" / "validation.json"
    return read_prompts(file, option="--prompts", count=options.max_prompts, seed=options.seed)


def _sampled(
    pipe: DiffusionPipeline, prompts: list[str], options: argparse.Namespace, size: Size, file: str
) -> TrainingData:
    from nas.training import synthetic_data

    return synthetic_data(
        pipe,
        prompts,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
        path=options.out / file,
        **size,
    )


def _document(result: Evolution, image: ImageBudget | None, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "full_ms": result.predicted_full_ms,
        "full_measured_ms": None if result.measured_ms is None else result.full_ms,
        "budget_ms": result.budget_ms,
        "safety_margin": result.safety_margin,
        "predicted_ms": result.predicted_ms,
        "measured_ms": result.measured_ms,
        "slowdown": result.slowdown,
        "image": image and image.document(result),
        "score_full": result.full_score.mean,
        "score_evolved": result.score.mean,
        "removed": result.removed,
        "added": result.added,
        "architecture": str(result.architecture),
        "candidates": len(result.history),
        "unet": options.out / RESULT / "unet",
    }


def _text(result: Evolution, image: ImageBudget | None, options: argparse.Namespace) -> str:
    rows = [
        ("latency by the table (ms)", f"{result.predicted_full_ms:.2f}", f"{result.predicted_ms:.2f}"),
        ("latency measured (ms)", *(_measured(result, ms) for ms in (result.full_ms, result.measured_ms))),
        *(image.rows(result) if image else ()),
        ("score", f"{result.full_score.mean:.4f}", f"{result.score.mean:.4f}"),
    ]
    aim_ms, margin = result.budget_ms / (1 + result.safety_margin), result.safety_margin
    kept = f"; with a safety margin of {margin:.1%} the table had to say {aim_ms:.2f} ms" if margin else ""
    changes = [
        *([str(image)] if image else ()),
        f"budget: {result.budget_ms:.2f} ms{kept}",
        f"removed: {', '.join(result.removed) or 'nothing'}",
        f"added: {', '.join(result.added) or 'nothing'}",
        f"the network: {options.out / RESULT / 'unet'}",
    ]
    return "\n".join([columns(rows, header=("", "full", "evolved")), *changes])


def _measured(result: Evolution, latency_ms: float | None) -> str:
    # Nothing is measured where the table is of a device that this machine does not have.
    return "-" if result.measured_ms is None else f"{latency_ms:.2f}"
