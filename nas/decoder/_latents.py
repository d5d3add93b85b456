"""Where the latents of a distillation come from. Those of step i depend on the seed and on i, not on what came before.

So a run that stopped goes on exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_tensors, fingerprint_of_texts
from nas.decoder._pictures import require_latents
from nas.errors import NasError
from nas.sampling import (
    check_prompts,
    fingerprint_of_schedule,
    latent_shape,
    random_rows,
    require_text_to_image,
    require_whole_number,
    seeded_generator,
)
from nas.training import synthetic_data


class LatentSource(Protocol):
    """Gives the latents of any step."""

    def draw(self, step: int, *, batch_size: int, seed: int) -> Tensor:
        """Latents `[b x c x h x w]` of a step, scaled as a UNet gives them."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, rows and columns of a latent."""
        ...

    def identity(self) -> str:
        """Changes with anything but batch size and seed that decides the latents."""
        ...

    @property
    def networks(self) -> list[nn.Module]:
        """What is run to draw them, which is to lie where the training is; none where they exist already."""
        ...


class GivenLatents:
    """Latents that exist already: sampled by a teacher, encoded from pictures, or both together.

    Args:
        latents: `[n x c x h x w]`, scaled as a UNet gives them.
        noise: standard deviation of normal noise that is added to them, so that few latents are many.
        crop: rows and columns of a random piece that is cut out of each; all of it when None. Decoders but for their
            norms and attentions work on neighbourhoods, so pieces teach what whole latents do, at less cost a step.

    Raises:
        NasError: there are no latents, they are not finite, or a number makes no sense.
    """

    def __init__(self, latents: Tensor, *, noise: float = 0.0, crop: int | None = None) -> None:
        require_latents(latents)
        if not 0 <= noise < float("inf"):
            raise NasError(f"noise is {noise!r}; it must be a number of at least 0")
        if crop is not None and require_whole_number("crop", crop) > min(latents.shape[2:]):
            raise NasError(f"crop is {crop}; the latents have {latents.shape[2]} x {latents.shape[3]} rows and columns")
        self.latents, self.noise, self.crop = latents.detach().float().cpu(), noise, crop

    def draw(self, step: int, *, batch_size: int, seed: int) -> Tensor:
        """See `LatentSource.draw`; without repetition where there are enough."""
        generator = seeded_generator(seed, step)
        drawn = self.latents[random_rows(len(self.latents), batch_size, generator)]
        if self.crop is not None:
            drawn = torch.stack([_piece(latent, self.crop, generator) for latent in drawn])
        return drawn + self.noise * torch.randn(drawn.shape, generator=generator) if self.noise else drawn

    @property
    def shape(self) -> tuple[int, ...]:
        """See `LatentSource.shape`."""
        channels, *extents = self.latents.shape[1:]
        return (channels, *(extents if self.crop is None else (self.crop, self.crop)))

    def identity(self) -> str:
        """See `LatentSource.identity`."""
        return f"{fingerprint_of_tensors([('latents', self.latents)], leading=1 << 20)} {self.noise} {self.crop}"

    @property
    def networks(self) -> list[nn.Module]:
        """See `LatentSource.networks`."""
        return []


class SampledLatents:
    """Latents that a text-to-image pipeline samples on the fly: a prompt times any noise (paper §3).

    Sampling takes longer than decoding, so what was sampled serves for some steps before the next ones are sampled.

    Args:
        pipe: a pipeline in the manner of Stable Diffusion v1 and v2.
        prompts: the texts.
        unet: the teacher; the pipeline's own UNet when None.
        steps: DDIM steps.
        guidance_scale: guidance of the samples.
        pool_size: latents that are sampled at a time.
        pool_steps: training steps that they serve for.
        batch_size: prompts at a time, of those that are sampled at a time.

    Raises:
        ModelError: the pipeline is unsuitable.
        NasError: there are no prompts, or a number makes no sense.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str],
        *,
        unet: nn.Module | None = None,
        steps: int = 50,
        guidance_scale: float = 5.0,
        pool_size: int = 64,
        pool_steps: int = 64,
        batch_size: int = 32,
    ) -> None:
        require_text_to_image(pipe)
        self.pipe, self.prompts, self.unet = pipe, check_prompts(prompts), pipe.unet if unet is None else unet
        self.steps, self.guidance_scale = require_whole_number("steps", steps), float(guidance_scale)
        self.pool_size = require_whole_number("pool_size", pool_size)
        self.pool_steps = require_whole_number("pool_steps", pool_steps)
        self.batch_size = require_whole_number("batch_size", batch_size)
        self._pool: tuple[tuple[int, int], GivenLatents] | None = None

    def draw(self, step: int, *, batch_size: int, seed: int) -> Tensor:
        """See `LatentSource.draw`."""
        key = (seed, step // self.pool_steps)
        if self._pool is None or self._pool[0] != key:
            self._pool = key, GivenLatents(self._sample(*key))
        return self._pool[1].draw(step, batch_size=batch_size, seed=seed)

    def _sample(self, seed: int, number: int) -> Tensor:
        # A stream of its own, apart from that of the rows.
        generator = seeded_generator(seed, number, 1)
        picks = torch.randint(len(self.prompts), (self.pool_size,), generator=generator).tolist()
        data = synthetic_data(
            self.pipe,
            [self.prompts[pick] for pick in picks],
            unet=self.unet,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=int(torch.randint(2**31, (), generator=generator)),
            batch_size=self.batch_size,
        )
        return data.latents

    @property
    def shape(self) -> tuple[int, ...]:
        """See `LatentSource.shape`."""
        return latent_shape(self.pipe)

    def identity(self) -> str:
        """See `LatentSource.identity`."""
        made_of = (fingerprint_of_modules(self.unet, self.pipe.text_encoder), fingerprint_of_texts(self.prompts))
        sampling = fingerprint_of_schedule(self.pipe.scheduler), self.steps, self.guidance_scale
        return " ".join(map(str, (*made_of, *sampling, self.pool_size, self.pool_steps)))

    @property
    def networks(self) -> list[nn.Module]:
        """See `LatentSource.networks`."""
        return [self.unet, self.pipe.text_encoder]


def _piece(latent: Tensor, size: int, generator: torch.Generator) -> Tensor:
    top, left = (int(torch.randint(extent - size + 1, (), generator=generator)) for extent in latent.shape[1:])
    return latent[:, top : top + size, left : left + size]
