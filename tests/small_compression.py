"""Settings that do everything once and as little as possible, made-up times, and a look at what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import nas
from nas import ImageLatency
from nas.compression import (
    Compression,
    DataSettings,
    DecoderSettings,
    EvaluationSettings,
    EvolutionSettings,
    JudgeSettings,
    RobustSettings,
    StepSettings,
)
from nas.latency import Row

Compress = Callable[..., Compression]
TEXT_MS, STEP_MS, DECODER_MS, SLIM_MS, UNET_MS = 3.0, 0.5, 40.0, 10.0, 20.0
STEPS, FULL_STEPS = 2, 4
# Leaves 25 ms for one run of the UNet: two texts, two steps, the slim decoder.
BUDGET_MS = 2 * TEXT_MS + STEPS * STEP_MS + SLIM_MS + STEPS * 25.0
TRAINING = {"batch_size": 2, "learning_rate": 1e-3}
ROBUST = RobustSettings(training_steps=2, **TRAINING)
EVOLUTION = EvolutionSettings(training_steps=1, group_size=1.0, **TRAINING)
DECODER = DecoderSettings(training_steps=2, pool_size=2, pool_steps=1, refit_latents=2, **TRAINING)
DISTILLATION = StepSettings(training_steps=2, v_training_steps=1, **TRAINING)
NOTHING = dict.fromkeys(("robust_training", "evolution", "decoder", "step_distillation", "evaluation"), False)


def measured(pipeline: DiffusionPipeline, **options: Any) -> ImageLatency:
    """The UNet takes 20 ms; the decoder 40 ms, or 10 ms where it is slim."""
    slim = type(pipeline.vae).__name__ == "SlimAutoencoderKL"
    counted = {name: options[name] for name in ("steps", "guided", "unet_batch_size")}
    image = ImageLatency.from_components(
        text_encoder_ms=TEXT_MS,
        unet_ms=UNET_MS,
        decoder_ms=SLIM_MS if slim else DECODER_MS,
        step_overhead_ms=STEP_MS,
        provenance={"device": options["device"], "resolution": f"{options['height']}x{options['width']}"},
        **counted,
    )
    return replace(image, origin="measured")


def make_up_times(patch: pytest.MonkeyPatch) -> None:
    """Let nothing be timed."""
    patch.setattr(ImageLatency, "measure", measured)
    patch.setattr(
        "nas.compression._plan.measure_decoders_ms",
        lambda vaes, **options: {"original": Row(DECODER_MS, 0.0, 3), "slim": Row(SLIM_MS, 0.0, 3)},
    )
    patch.setattr("nas.latency.measure_networks_ms", lambda unets, table, **_: dict.fromkeys(unets, Row(5.0, 0.1, 3)))


def compress_a_little(out: Path, photos: Path, **changes: Any) -> Compression:
    """`nas.compress` with everything filled in that is not said, but for the pipeline and the table."""
    options = {
        "image_budget_ms": BUDGET_MS,
        "steps": STEPS,
        "full_steps": FULL_STEPS,
        "data": DataSettings(max_prompts=4, steps=1),
        "judge": JudgeSettings(max_prompts=2, steps=1),
        "robust_training": ROBUST,
        "evolution": EVOLUTION,
        "decoder": DECODER,
        "step_distillation": DISTILLATION,
        "evaluation": EvaluationSettings(max_prompts=2, guidance_scales=(1.0, 5.0), real=photos),
        **changes,
    }
    return nas.compress(out=out, **options)


def weights(result: Compression) -> dict[str, bytes]:
    return {
        str(file.relative_to(result.pipeline)): file.read_bytes() for file in result.pipeline.rglob("*.safetensors")
    }


def draw(folder: Path, *, guidance_scale: float = 5.0) -> tuple[DiffusionPipeline, torch.Tensor]:
    """The stock pipeline with a picture of it."""
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": guidance_scale, "output_type": "pt"}
    return pipe, pipe("abc", generator=torch.Generator().manual_seed(0), **options).images
