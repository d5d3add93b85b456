"""Settings that do everything once and as little as possible, and made-up times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import DiffusionPipeline

from nas import ImageLatency
from nas.compression import DecoderSettings, EvolutionSettings, RobustSettings, StepSettings

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
