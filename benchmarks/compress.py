"""Is the compressed model, in few steps, as good as the full one in many, and how much sooner is its picture there?

A recipe of `nas.compress` is followed. Beside its model, the full UNet is distilled to as few steps in other
ways: by the vanilla loss and by the CFG-aware one, directly, progressively, with the guidance folded into the UNet and
by consistency, each in as many training steps in all as one distillation of the recipe. All of them, and the full model
at all its steps and at few, with DDIM and with DPM-Solver++, draw the test captions from the same noise at every
guidance.
Then the full and the compressed pipeline make one picture from one text, in turns, in this process:

    python benchmarks/compress.py --recipe recipes/emoji/compress.yaml --workdir run --json compress.json

Interrupted and started again with the same `--workdir`, it goes on from where it was.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _report import write_report
from diffusers import DiffusionPipeline

from nas._progress import say
from nas.compression import Compression, Recipe, StepSettings, follow, load_recipe
from nas.compression._ending import EVALUATION
from nas.compression._inputs import Inputs
from nas.errors import NasError
from nas.pipelines import load_pipeline, quiet_libraries
from nas.quality import GUIDANCE_SCALES, Evaluation, Model, evaluate
from nas.training import distil_route, to_v_prediction
from nas.training.losses import prediction_type

# Ways to distil the full UNet, each with how many times the final steps its first distillation ends at.
WAYS = {
    "vanilla, direct": (1, {"guided_share": 0.0}),
    "CFG-aware, direct": (1, {}),
    "CFG-aware, progressive": (4, {}),
    "CFG-aware, direct, folded": (1, {"fold": True}),
    "CFG-aware, consistency": (1, {"teacher_steps": 64}),
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        recipe = load_recipe(arguments.recipe, out=arguments.workdir / "recipe")
        with quiet_libraries():
            write_report(measure(recipe, arguments), arguments.json)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument(
        "--ways",
        nargs="*",
        choices=WAYS,
        default=list(WAYS),
        metavar="WAY",
        help="of distilling the full UNet, all unless given: " + "; ".join(WAYS),
    )
    parser.add_argument("--repeats", type=int, default=9, help="pictures of each pipeline that are timed")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def measure(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    if recipe.evaluation is None or recipe.step_distillation is None:
        raise NasError("the recipe leaves out the evaluation or the step distillation, which are to be compared")
    result = follow(recipe, say)
    inputs = Inputs(recipe)
    quality = judged(inputs, result, arguments)
    reference, ours = f"full, {recipe.full_steps} steps", f"compressed, {recipe.steps} steps"
    return {
        "recipe": str(arguments.recipe),
        "image_budget_ms": recipe.image_budget_ms,
        **picture_seconds(inputs, result, recipe, arguments.repeats),
        "image_before": [dict(row) for row in result.to_dict()["before"]["parts"]] if result.before else None,
        "image_after": [dict(row) for row in result.to_dict()["after"]["parts"]] if result.after else None,
        "stages": result.to_frame().to_dict("records"),
        "best": [row for name in quality.models for row in best_of(quality, name)],
        "differences": quality.differences(ours, reference).to_dict("records"),
        "curves": quality.to_frame().to_dict("records"),
        "judged_by": dict(quality.judged_by),
    }


def judged(inputs: Inputs, result: Compression, arguments: argparse.Namespace) -> Evaluation:
    """All models at every guidance; those that the recipe has judged already are read, also what it distilled from."""
    recipe, settings = inputs.recipe, inputs.recipe.evaluation
    full, few = {"steps": recipe.full_steps}, {"steps": recipe.steps}
    models = {
        f"full, {recipe.full_steps} steps": Model(inputs.pipe, **full),
        f"full, {recipe.steps} steps": Model(inputs.pipe, **few),
        f"full, {recipe.steps} steps, DPM-Solver++": Model(inputs.pipe, **few, scheduler="dpm++"),
        **{f"{way}, {recipe.steps} steps": distilled(inputs, way, arguments.workdir) for way in arguments.ways},
        f"compressed, {recipe.steps} steps": Model(load_pipeline(result.pipeline).to(inputs.pipe.device), **few),
    }
    quality = evaluate(
        models,
        prompts=inputs.evaluation_prompts,
        real=inputs.real,
        guidance_scales=settings.guidance_scales or GUIDANCE_SCALES,
        clip=inputs.clip,
        inception=settings.inception,
        seed=recipe.seed,
        batch_size=settings.batch_size,
        workdir=inputs.recipe.folder / EVALUATION,
    )
    others = (point for point in result.evaluation.points if point.model not in models)
    return Evaluation((*quality.points, *others), quality.judged_by)


def distilled(inputs: Inputs, way: str, workdir: Path) -> Model:
    """The full UNet at the recipe's steps, distilled in one of the ways; all have as many training steps."""
    recipe, settings = inputs.recipe, inputs.recipe.step_distillation
    times, changes = WAYS[way]
    folder, teacher, scheduler = workdir / way.replace(", ", "-"), inputs.pipe.unet, inputs.original.scheduler
    if prediction_type(scheduler) == "epsilon":
        teacher, scheduler = predicting_v(inputs, settings, workdir)
    route = [recipe.steps * factor for factor in (4, 2, 1) if factor <= times]
    lengths = [(settings.training_steps + done) // len(route) for done in range(len(route))]
    options = {"guided_share": settings.guided_share, "original_share": settings.original_share, **changes}
    stages = distil_route(
        teacher,
        inputs.data,
        scheduler=scheduler,
        steps=lengths,
        route=route,
        folder=folder,
        guidance_range=recipe.guidance_range,
        balanced=settings.balanced,
        seed=recipe.seed,
        **options,
        **settings.options(),
        **inputs.accelerator(),
    )
    pipe = inputs.pipeline_of(replace(inputs.original, unet=stages[-1].network, scheduler=scheduler))
    return Model(pipe, steps=recipe.steps)


def predicting_v(inputs: Inputs, settings: StepSettings, workdir: Path) -> tuple[torch.nn.Module, Any]:
    """The full UNet after its training to v-prediction, and its scheduler."""
    unet = copy.deepcopy(inputs.pipe.unet)
    options = {**settings.options(), **inputs.accelerator(), "seed": inputs.recipe.seed, "checkpoint": workdir / "v.pt"}
    scheduler = inputs.original.scheduler
    steps, zero_snr = settings.v_training_steps, settings.zero_snr
    done = to_v_prediction(unet, inputs.data, scheduler=scheduler, steps=steps, zero_snr=zero_snr, **options)
    return unet.eval(), done.scheduler


def best_of(quality: Evaluation, model: str) -> list[dict[str, Any]]:
    """The guidance with the least KID, and the one with the highest CLIP score."""
    curve = quality.curve(model)
    nearest = min(curve, key=lambda point: point.kid.value)
    highest = max(curve, key=lambda point: point.clip_score.mean)
    return [{"best": "KID", **nearest.row()}, {"best": "CLIP score", **highest.row()}]


def picture_seconds(inputs: Inputs, result: Compression, recipe: Recipe, repeats: int) -> dict[str, float | int]:
    """Text to picture with stock pipelines: medians, the two in turns so that both see the same machine."""
    prompt = inputs.evaluation_prompts[0]
    before = inputs.pipeline_of(inputs.original)
    after = DiffusionPipeline.from_pretrained(result.pipeline, local_files_only=True).to(inputs.pipe.device)
    after.set_progress_bar_config(disable=True)

    def draw(pipe: Any, steps: int) -> Callable[[], Any]:
        options = {"num_inference_steps": steps, "guidance_scale": recipe.guidance_scale}
        return lambda: pipe(prompt, generator=torch.Generator().manual_seed(0), **options)

    ways = {"full_seconds": draw(before, recipe.full_steps), "compressed_seconds": draw(after, recipe.steps)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, picture in ways.items():
            started = time.perf_counter()
            picture()
            if repeat:  # the first of each is warming up
                found[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        **medians,
        "pictures_timed": repeats,
        "times_faster": medians["full_seconds"] / medians["compressed_seconds"],
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
