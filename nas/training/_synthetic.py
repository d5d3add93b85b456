"""Training data without pictures: the teacher's own latents."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nas._files import remove_leftovers, replacing
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
from nas.training._data import MARK, TrainingData, saved_identity

# Of a large model a batch takes minutes: what an interruption may cost at most.
_SECONDS_BETWEEN_SAVES = 60.0


def synthetic_data(
    pipe: Any,
    prompts: Sequence[str],
    *,
    unet: nn.Module | None = None,
    steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
    batch_size: int = 32,
    height: int | None = None,
    width: int | None = None,
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
        height: of the pictures, in pixels; the UNet's own size when None.
        width: of the pictures, in pixels.
        path: a file to keep the data in: read when it holds this very data, else written. Until all is sampled, what
            there is is kept beside it once a minute, and an interrupted call goes on from there.

    Returns:
        The data, on the CPU in float32.

    Raises:
        ModelError: the pipeline is unsuitable, or `path` holds something else.
        NasError: there are no prompts, or a number makes no sense.
    """
    require_text_to_image(pipe)
    prompts = check_prompts(prompts)
    require_whole_number("steps", steps)
    teacher = pipe.unet if unet is None else unet
    made_of = (fingerprint_of_modules(teacher, pipe.text_encoder), fingerprint_of_texts(prompts))
    sampling = fingerprint_of_schedule(pipe.scheduler), steps, float(guidance_scale), seed
    shape = latent_shape(pipe, height=height, width=width)
    other = () if shape == latent_shape(pipe) else shape
    identity = " ".join(map(str, (*made_of, *sampling, *other)))
    if path is not None and Path(path).exists() and saved_identity(path) == identity:
        return TrainingData.load(path)
    kept = None if path is None else _Kept(Path(path), identity)
    noise = {"shape": shape, "seed": seed}
    data = _sample(pipe, teacher, prompts, batch_size, noise, kept, steps=steps, guidance_scale=guidance_scale)
    if kept is not None:
        data.save(kept.path, identity=identity)
        kept.beside.unlink(missing_ok=True)
    return data


@dataclass(frozen=True)
class _Kept:
    """A file for the data, and one beside it for what there is of them."""

    path: Path
    identity: str

    @property
    def beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def read(self) -> list[torch.Tensor]:
        """The latents that there are."""
        remove_leftovers(self.beside)
        if not self.beside.exists() or saved_identity(self.beside) != self.identity:
            return []
        return [load_file(self.beside)["latents"]]

    def save(self, latents: list[torch.Tensor]) -> None:
        """Write down those that there are; texts are encoded again in no time."""
        with replacing(self.beside) as temporary:
            save_file({"latents": torch.cat(latents)}, temporary, metadata={MARK: self.identity})


def _sample(
    pipe: Any,
    teacher: nn.Module,
    prompts: list[str],
    batch_size: int,
    noise: Mapping[str, Any],
    kept: _Kept | None,
    **sampling: Any,
) -> TrainingData:
    contexts, empty = encode_prompts(pipe, prompts), encode_empty(pipe)
    parts, saved = [] if kept is None else kept.read(), time.monotonic()
    first = sum(map(len, parts))
    for start in track(range(first, len(prompts), batch_size), description="sampling the teacher"):
        batch = contexts[start : start + batch_size]
        begun = prompt_noise(len(batch), **noise, first=start)
        parts.append(sample_latents(teacher, pipe.scheduler, batch, empty, begun, **sampling).float().cpu())
        if kept is not None and time.monotonic() - saved >= _SECONDS_BETWEEN_SAVES:
            kept.save(parts)
            saved = time.monotonic()
    return TrainingData(torch.cat(parts), contexts.float().cpu(), empty.float().cpu())
