"""The mean similarity of generated pictures to their prompts, by CLIP."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_texts
from nas.errors import ModelError, NasError
from nas.quality._clip import Clip, find_clip
from nas.quality.score import Score, finite_or
from nas.sampling import (
    check_prompts,
    decode_latents,
    encode_empty,
    encode_prompts,
    fingerprint_of_schedule,
    latent_shape,
    prompt_noise,
    require_text_to_image,
    require_whole_number,
    sample_latents,
    to_uint8,
    truncated_prompts,
)

WORST_COSINE = -1.0


class ClipScore:
    """CLIP score (https://arxiv.org/abs/2104.08718) of a network inside a pipeline: mean cosine of picture and prompt.

    Call it with a network: `judge(unet) -> Score`. For every prompt a picture is sampled with DDIM and guidance, from
    noise that depends on `seed` and the prompt's position alone, so that scores of two networks can be subtracted
    prompt by prompt. The pipeline lends its text encoder, scheduler and autoencoder and is not changed; contexts and
    CLIP's text vectors are computed once. The similarity is not multiplied by 100. Its interval is Student's t over
    prompts.

    Args:
        pipe: a Stable Diffusion v1 or v2 pipeline.
        prompts: the texts; too long ones are cut by the tokenizers, see `describe()["truncated_prompts"]`.
        clip: the judge: a folder that `CLIPModel.from_pretrained` loads (with tokenizer and image processor), a model
            in the Hugging Face cache, a `CLIPModel`, or a `Clip`; the folder `clip` inside the pipeline's own when
            None.
        steps: DDIM steps.
        guidance_scale: guidance; up to 1 means none, at half the cost.
        seed: of the noise.
        batch_size: prompts at a time; the network sees twice as many samples under guidance.
        height: of the pictures, in pixels; the UNet's own size when None.
        width: of the pictures, in pixels.

    Raises:
        ModelError: the pipeline or the CLIP model is missing, corrupt or unsuitable.
        NasError: there are no prompts, or a number makes no sense.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        prompts: Sequence[str],
        clip: Clip | CLIPModel | str | os.PathLike[str] | None = None,
        steps: int = 10,
        guidance_scale: float = 5.0,
        seed: int = 0,
        batch_size: int = 32,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        require_text_to_image(pipe)
        self.prompts = check_prompts(prompts)
        self.steps = require_whole_number("steps", steps)
        self.guidance_scale = _guidance(guidance_scale)
        self.seed = require_whole_number("seed", seed, least=0)
        self.batch_size = require_whole_number("batch_size", batch_size)
        self.clip = find_clip(clip, pipe)
        self._pipe = pipe
        self._shape = latent_shape(pipe, height=height, width=width)
        self._empty = encode_empty(pipe)
        self._contexts = encode_prompts(pipe, self.prompts)
        self._texts = self.clip.embed_texts(self.prompts)
        self._truncated = np.array(truncated_prompts(pipe.tokenizer, self.prompts)) | self.clip.truncated(self.prompts)
        self._first = 0

    def __call__(self, unet: nn.Module) -> Score:
        """Judge a network; it is run in eval mode and left as it was.

        Raises:
            ModelError: the network does not fit the pipeline.
        """
        require_fit(unet, self._pipe.unet)
        started = time.perf_counter()
        parts = [self._cosines(unet, rows) for rows in self._batches(len(self.prompts))]
        values = finite_or(torch.cat(parts).cpu().double().numpy(), WORST_COSINE)
        return Score.of(values, seconds=time.perf_counter() - started)

    def images(self, unet: nn.Module, prompts: Sequence[str] | None = None) -> np.ndarray:
        """Pictures of the scorer's prompts, or of others, as bytes `[n x h x w x 3]`.

        The i-th picture starts from the same noise for every network.
        """
        require_fit(unet, self._pipe.unet)
        contexts = self._contexts if prompts is None else encode_prompts(self._pipe, check_prompts(prompts))
        parts = [self._pictures(unet, contexts[rows], rows.start) for rows in self._batches(len(contexts))]
        return np.concatenate([to_uint8(part) for part in parts])

    def subset(self, count: int, *, first: int = 0) -> ClipScore:
        """A cheaper scorer with `count` of the prompts, each with its own noise; nothing is computed anew.

        `Score.joined` of consecutive subsets is the score of all their prompts.

        Raises:
            NasError: there are not so many prompts.
        """
        if not 0 <= first < first + count <= len(self.prompts):
            raise NasError(f"cannot take {count} prompts from number {first} on: there are {len(self.prompts)}")
        rows = slice(first, first + count)
        part = copy.copy(self)
        part.prompts, part._first = self.prompts[rows], self._first + first
        part._contexts, part._texts, part._truncated = self._contexts[rows], self._texts[rows], self._truncated[rows]
        return part

    def describe(self) -> dict[str, Any]:
        """What decides the numbers: models, prompts, noise and schedule; for a journal."""
        return {
            "scorer": "clip_score",
            "clip": self.clip.fingerprint(),
            "pipeline": fingerprint_of_modules(self._pipe.vae, self._pipe.text_encoder),
            "schedule": fingerprint_of_schedule(self._pipe.scheduler),
            "prompts": len(self.prompts),
            "prompts_hash": fingerprint_of_texts(self.prompts),
            "truncated_prompts": int(self._truncated.sum()),
            "first_noise": self._first,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "latent_shape": list(self._shape),
        }

    def _batches(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    @torch.inference_mode()
    def _pictures(self, unet: nn.Module, contexts: Tensor, start: int) -> Tensor:
        noise = prompt_noise(len(contexts), self._shape, seed=self.seed, first=self._first + start)
        latents = sample_latents(
            unet,
            self._pipe.scheduler,
            contexts,
            self._empty,
            noise,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
        )
        return decode_latents(self._pipe.vae, latents)

    @torch.inference_mode()
    def _cosines(self, unet: nn.Module, rows: slice) -> Tensor:
        pictures = self._pictures(unet, self._contexts[rows], rows.start)
        return (self.clip.embed_images(pictures) * self._texts[rows]).sum(dim=-1)


def _guidance(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
        raise NasError(f"guidance_scale is {value!r}; it must be a number of at least 0")
    return float(value)


def require_fit(unet: nn.Module, reference: nn.Module) -> None:
    """Check that a network can stand in a pipeline for `reference`.

    Raises:
        ModelError: it takes or gives other channels, or other contexts.
    """
    for field in ("in_channels", "out_channels", "cross_attention_dim"):
        have, want = getattr(unet.config, field), getattr(reference.config, field)
        if have != want:
            raise ModelError(f"the network's {field} is {have}, the pipeline's is {want}; use its own pipeline")
