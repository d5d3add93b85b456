"""`nas.compress`: from a pipeline of many steps to one of few, within a budget for the whole image."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from nas._files import remove_leftovers, replacing, require_writable
from nas._progress import say_to_terminal
from nas.compression._ending import evaluate_models, measure_images
from nas.compression._inputs import Inputs, Model
from nas.compression._plan import Plan
from nas.compression._recipe import Recipe, chosen
from nas.compression._records import Record
from nas.compression._result import PIPELINE, REPORT, Compression
from nas.compression._settings import (
    DataSettings,
    DecoderSettings,
    EvaluationSettings,
    EvolutionSettings,
    JudgeSettings,
    RobustSettings,
    StepSettings,
)
from nas.compression._stages import STAGES, StepDistillation

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from nas.latency import LatencyTable, Timing

Report = Callable[[str], object]


def compress(
    pipeline: DiffusionPipeline | str | os.PathLike[str],
    lut: LatencyTable | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    image_budget_ms: float | None = None,
    steps: int = 8,
    full_steps: int = 50,
    guidance_scale: float = 5.0,
    unet: str | os.PathLike[str] | None = None,
    image: str | os.PathLike[str] | None = None,
    seed: int = 0,
    compute_on: str | None = None,
    mixed_precision: str | None = None,
    data: DataSettings | None = None,
    judge: JudgeSettings | None = None,
    robust_training: RobustSettings | bool | None = True,
    evolution: EvolutionSettings | bool | None = True,
    decoder: DecoderSettings | bool | None = True,
    step_distillation: StepSettings | bool | None = True,
    evaluation: EvaluationSettings | bool | None = True,
    timing: Timing | None = None,
    report: Report | None = None,
) -> Compression:
    """Compress a text-to-image pipeline: the whole of SnapFusion (https://arxiv.org/abs/2306.00980), stage by stage.

    1. The plan: the decoder is pruned, the parts of an image are measured, and with the slim decoder's time, the new
       number of steps and the evaluations a step, `image_budget_ms` becomes the budget of one run of the UNet. It comes
       first, so that a budget that cannot be met is refused before anything is trained.
    2. Robust training, 3. evolution to that budget, 4. distillation of the decoder, 5. distillation to few steps.
    6. The image is measured before and after, and the pictures are evaluated against guidance.

    Each stage has a folder in `out` with its result and a `record.json` of what it cost and gained. Called again with
    the same arguments, what is finished is read, and what was stopped goes on to the same weights. A stage that was run
    with other settings, or on another model, is refused.

    Args:
        pipeline: in the manner of Stable Diffusion v1 or v2; its folder, or the name of one that comes along. It is not
            changed.
        lut: latency table of its UNet, or its file. With batch size 1 where the guidance is folded into the UNet
            (`StepSettings.fold`), else with 2 (or 1, where a guided step is two runs).
        out: folder.
        image_budget_ms: what a whole image may take on the table's device. None only without an evolution.
        steps: of sampling in the end.
        full_steps: with which the pipeline is sampled as it is.
        guidance_scale: guidance that everything is judged at; up to 1 means none.
        unet: folder of a UNet to start from instead of the pipeline's own, such as one that was trained robustly. The
            pipeline's own stays the teacher.
        image: a file of `ImageLatency.save` with the parts of the pipeline's image, where the table's device is
            elsewhere; measured when None.
        seed: where all randomness comes from.
        compute_on: "cuda" or "mps" for everything but the measuring, which is done on the table's device; where the
            pipeline lies when None. A pipeline that is given as an object lies where it lies.
        mixed_precision: "bf16" or "fp16" for all training, in one process; None for none.
        data: the latents that are trained on.
        judge: the CLIP score of the evolution and the records.
        robust_training: settings; False or None leaves the stage out, True takes the defaults. Likewise the others:
        evolution: settings.
        decoder: settings.
        step_distillation: settings. Left out, the result is sampled in `steps` steps nevertheless.
        evaluation: settings.
        timing: how long to measure.
        report: called with each line for people; when None they go to stderr, if that is a terminal.

    Raises:
        BudgetError: the budget is missing or cannot be met; the message says what can.
        DeviceError: the parts of the image are neither given nor can they be measured here.
        ModelError: the pipeline or a part of it is missing, damaged or unsuitable.
        NasError: a setting makes no sense, or there are no prompts or pictures where it says.
        SearchError: `out` holds a stage that was run with something else; the message says with what.
        SearchSpaceError: the table is for another UNet.
        StorageError: `out` cannot be written.
        TableError: the table is for another kind of step.
    """
    stages = {
        "robust_training": robust_training,
        "evolution": evolution,
        "decoder": decoder,
        "step_distillation": step_distillation,
        "evaluation": evaluation,
    }
    recipe = Recipe(
        pipeline=pipeline,
        lut=lut,
        out=out,
        image_budget_ms=image_budget_ms,
        steps=steps,
        full_steps=full_steps,
        guidance_scale=guidance_scale,
        unet=unet,
        image=image,
        seed=seed,
        compute_on=compute_on,
        mixed_precision=mixed_precision,
        data=data or DataSettings(),
        judge=judge or JudgeSettings(),
        timing=timing,
        **{name: chosen(name, given) for name, given in stages.items()},
    )
    return follow(recipe, report)


def follow(recipe: Recipe, report: Report | None = None) -> Compression:
    """Do what a recipe says; see `compress`."""
    tell = report or say_to_terminal
    require_writable(recipe.folder / REPORT)
    inputs = Inputs(recipe)
    tell("plan: sampling latents, pruning the decoder, measuring the parts of an image")
    plan = Plan(inputs)
    if plan.unet_budget_ms is not None:
        tell(f"an image in {recipe.image_budget_ms:.2f} ms leaves {plan.unet_budget_ms:.2f} ms for one run of the UNet")
    model = undistilled = replace(inputs.original, unet=inputs.start)
    records = [plan.record]
    for kind in STAGES:
        if getattr(recipe, kind.name) is None:
            continue
        undistilled = model if kind is StepDistillation else undistilled
        tell(f"{kind.name}: from {_standing(records)}")
        model, record = kind(plan).run(model)
        records.append(record)
    model = replace(model, steps=recipe.steps)
    undistilled = undistilled if recipe.step_distillation is not None else model
    return _end(inputs, plan, model, undistilled, records, tell)


def _end(
    inputs: Inputs, plan: Plan, model: Model, undistilled: Model, records: list[Record], tell: Report
) -> Compression:
    recipe = inputs.recipe
    remove_leftovers(recipe.folder / PIPELINE)
    with replacing(recipe.folder / PIPELINE) as temporary:
        inputs.pipeline_of(model).save_pretrained(temporary)
    tell("latency: measuring the image before and after")
    record, before, after = measure_images(inputs, model)
    records.append(record)
    evaluation = None
    if recipe.evaluation is not None:
        tell("evaluation: drawing pictures with every model at every guidance")
        record, evaluation = evaluate_models(inputs, model, undistilled)
        records.append(record)
    result = Compression(
        folder=recipe.folder,
        records=tuple(records),
        image_budget_ms=recipe.image_budget_ms,
        unet_budget_ms=plan.unet_budget_ms,
        before=before,
        after=after,
        evaluation=evaluation,
    )
    result.save()
    return result


def _standing(records: list[Record]) -> str:
    standing = records[-1].figures["model"]
    return f"{standing['image_ms']:.2f} ms an image by the table, CLIP score {standing['clip_score']:.4f}"
