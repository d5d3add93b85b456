"""Training data without pictures: the teacher's own latents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_texts
from nas._progress import track
from nas.sampling import (
    check_prompts,
    encode_empty,
    encode_prompts,
    fingerprint_of_schedule,
    latent_shape,
    prompt_noise,
    require_text_to_image,
    require_whole_number,
    sample_latents,
)
from nas.training._data import TrainingData, saved_identity


def synthetic_data(
    pipe: Any,
    prompts: Sequence[str],
    *,
    unet: nn.Module | None = None,
    steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
    batch_size: int = 32,
    path: str | os.PathLike[str] | None = None,
) -> TrainingData:
    """Sample the teacher with DDIM, one latent a prompt (paper §3: as many as wanted, a prompt times any noise).

    Args:
        pipe: the pipeline whose text encoder and scheduler are used.
        prompts: the texts; repeat one for several latents of it.
        unet: the teacher; the pipeline's own UNet when None.
        steps: DDIM steps.
        guidance_scale: guidance of the samples.
        seed: of the noise.
        batch_size: prompts at a time.
        path: a file to keep the data in: read when it holds this very data, else written.

    Returns:
        The data, on the CPU in float32.

    Raises:
        ModelError: the pipeline is unsuitable, or `path` holds something else.
        NasError: there are no prompts.
    """
    require_text_to_image(pipe)
    prompts = check_prompts(prompts)
    require_whole_number("steps", steps)
    teacher = pipe.unet if unet is None else unet
    made_of = (fingerprint_of_modules(teacher, pipe.text_encoder), fingerprint_of_texts(prompts))
    sampling = fingerprint_of_schedule(pipe.scheduler), steps, float(guidance_scale), seed
    identity = " ".join(map(str, (*made_of, *sampling)))
    if path is not None and Path(path).exists() and saved_identity(path) == identity:
        return TrainingData.load(path)
    data = _sample(pipe, teacher, prompts, batch_size, seed, steps=steps, guidance_scale=guidance_scale)
    if path is not None:
        data.save(path, identity=identity)
    return data


def _sample(
    pipe: Any, teacher: nn.Module, prompts: list[str], batch_size: int, seed: int, **sampling: Any
) -> TrainingData:
    contexts, empty, shape = encode_prompts(pipe, prompts), encode_empty(pipe), latent_shape(pipe)
    parts = []
    for start in track(range(0, len(prompts), batch_size), description="sampling the teacher"):
        batch = contexts[start : start + batch_size]
        noise = prompt_noise(len(batch), shape, seed=seed, first=start)
        parts.append(sample_latents(teacher, pipe.scheduler, batch, empty, noise, **sampling).float().cpu())
    return TrainingData(torch.cat(parts), contexts.float().cpu(), empty.float().cpu())
