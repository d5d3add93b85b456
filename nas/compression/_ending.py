"""After all training: what the image takes now, measured, and how good the pictures are."""

from __future__ import annotations

from dataclasses import asdict, replace
from hashlib import file_digest, sha256
from typing import Any

import numpy as np

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_texts
from nas._progress import say
from nas.compression._inputs import Inputs, Model
from nas.compression._plan import measured_image
from nas.compression._records import Outcome, Record, once
from nas.errors import DeviceError
from nas.latency import ImageLatency
from nas.quality import GUIDANCE_SCALES, Evaluation, evaluate, picture_files
from nas.quality import Model as Sampled

LATENCY, EVALUATION = "latency", "evaluation"
BEFORE, AFTER = "before.yaml", "after.yaml"
FILE = "evaluation.json"
_OTHERS = ("batch_size", "max_prompts", "prompts")


def measure_images(inputs: Inputs, model: Model) -> tuple[Record, ImageLatency | None, ImageLatency | None]:
    """The image before and after, measured one after the other; None where the table's device is elsewhere."""
    folder = inputs.recipe.folder / LATENCY
    identity = {**inputs.identity(), "model": fingerprint_of_modules(model.unet, model.vae), "steps": model.steps}
    identity["timing"] = inputs.recipe.timing and asdict(inputs.recipe.timing)
    try:
        # Measured again in minutes: no reason to refuse a run whose earlier stages were done anew.
        record = once(folder, LATENCY, identity, lambda: _measure(inputs, model), anew=True)
    except DeviceError as error:
        # Nothing is written down: called where the device is, the recipe measures then.
        say(f"the image is not measured before and after: {error}")
        return Record(LATENCY, identity, figures={"measured": False, "reason": str(error)}), None, None
    return record, ImageLatency.load(folder / BEFORE), ImageLatency.load(folder / AFTER)


def _measure(inputs: Inputs, model: Model) -> Outcome:
    folder = inputs.recipe.folder / LATENCY
    # Both anew: hours may lie between the plan and now, and machines drift.
    before = measured_image(inputs, inputs.original, folded_later=inputs.recipe.folded)
    after = measured_image(inputs, model)
    before.save(folder / BEFORE)
    after.save(folder / AFTER)
    parts = {name: image.breakdown().to_dict("records") for name, image in (("before", before), ("after", after))}
    return Outcome(figures={"measured": True, **parts, "before_ms": before.total_ms, "after_ms": after.total_ms})


def evaluate_models(inputs: Inputs, model: Model, undistilled: Model) -> tuple[Record, Evaluation]:
    """Quality against guidance: the model as it was, at all its steps and at few, and as it has become.

    Args:
        inputs: of the recipe.
        model: what the recipe ends with.
        undistilled: the same before its steps were distilled.
    """
    recipe, settings = inputs.recipe, inputs.recipe.evaluation
    folder = recipe.folder / EVALUATION
    texts = fingerprint_of_texts(inputs.evaluation_prompts)
    told = {name: value for name, value in asdict(settings).items() if name not in _OTHERS}
    identity = {**inputs.identity(), "settings": {**told, "prompts": texts}, "steps": recipe.steps}
    identity["model"] = fingerprint_of_modules(model.unet, model.vae)
    identity["files"] = _fingerprint_of_files(inputs)

    def work() -> Outcome:
        result = evaluate(
            _compared(inputs, model, undistilled),
            prompts=inputs.evaluation_prompts,
            real=inputs.real,
            guidance_scales=GUIDANCE_SCALES if settings.guidance_scales is None else settings.guidance_scales,
            clip=inputs.clip,
            inception=settings.inception,
            seed=recipe.seed,
            batch_size=settings.batch_size,
            workdir=folder,
        )
        result.save(folder / FILE)
        return Outcome(figures=result.to_dict())

    # The points in the folder know what they are of, so those that are wanted still are not drawn again.
    return once(folder, EVALUATION, identity, work, anew=True), Evaluation.load(folder / FILE)


def _fingerprint_of_files(inputs: Inputs) -> str:
    """Of the real pictures and of the network for FID, which may change while their names stay."""
    real, inception = inputs.real, inputs.recipe.evaluation.inception
    digest = sha256()
    for file in [*([] if isinstance(real, np.ndarray) else picture_files(real)), *([inception] if inception else [])]:
        with open(file, "rb") as stream:
            digest.update(file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _compared(inputs: Inputs, model: Model, undistilled: Model) -> dict[str, Sampled]:
    original, steps = inputs.original, inputs.recipe.steps
    few = replace(original, steps=steps)
    models = {f"full, {original.steps} steps": _sampled(inputs, original)}
    if steps != original.steps:
        models[f"full, {steps} steps"] = _sampled(inputs, few)
        models[f"full, {steps} steps, DPM-Solver++"] = _sampled(inputs, few, scheduler="dpm++")
    if undistilled.unet is not model.unet:
        models[f"compressed but not distilled, {steps} steps"] = _sampled(inputs, replace(undistilled, steps=steps))
    models[f"compressed, {steps} steps"] = _sampled(inputs, model)
    return models


def _sampled(inputs: Inputs, model: Model, **how: Any) -> Sampled:
    return Sampled(inputs.pipeline_of(model), steps=model.steps, **how)
