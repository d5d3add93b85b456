"""Texts to contexts, noise to latents, latents to pictures: what scoring and training both need of a pipeline.

Everything here takes the network as an argument and leaves the pipeline it came from as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_texts
from nas._progress import track
from nas._schedulers import scheduled
from nas.errors import ModelError, NasError
from nas.unet import folded_width, guidance_embedding

# Decoders have maps of hundreds of channels at the picture's size.
_PIXELS_AT_ONCE = 2**20
# Of small networks a batch is done before a progress bar could be read.
_SECONDS_UNSEEN = 3.0
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def require_text_to_image(pipe: Any) -> None:
    """Check that `pipe` is a text-to-image pipeline in the manner of Stable Diffusion v1 and v2.

    Raises:
        ModelError: a part is missing, or the UNet wants conditions other than the text.
    """
    missing = [part for part in _PARTS if getattr(pipe, part, None) is None]
    if missing:
        raise ModelError(f"{type(pipe).__name__} has no {', '.join(missing)}; give a StableDiffusionPipeline")
    require_text_only(pipe.unet)


def require_text_only(unet: nn.Module) -> None:
    """Check that the network is called with nothing but latents, timesteps and contexts.

    Raises:
        ModelError: it needs `added_cond_kwargs` (SDXL and its kin) or class labels.
    """
    config = getattr(unet, "config", None)
    for field in ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds"):
        if getattr(config, field, None) is not None:
            raise ModelError(
                f"the UNet needs more than a text ({field} is {getattr(config, field)!r}, as in SDXL), which cannot "
                "be scored or trained here; use a pipeline like Stable Diffusion v1.5 or v2.1"
            )


def require_whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`.

    Raises:
        NasError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise NasError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return int(value)


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        NasError: there are none, or one of them is not a text.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise NasError(f"prompts is {prompts!r}; give a list of texts")
    prompts = list(prompts)
    if not prompts:
        raise NasError("there are no prompts; give at least one text")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise NasError(f"a prompt is {prompt!r}; every prompt must be a text with something in it")
    return prompts


def truncated_prompts(tokenizer: Any, prompts: Sequence[str], *, length: int | None = None) -> list[bool]:
    """For each prompt, whether it has more tokens than the tokenizer (or `length`) takes."""
    length = tokenizer.model_max_length if length is None else length
    return [len(ids) > length for ids in tokenizer(list(prompts), verbose=False).input_ids]


@torch.no_grad()
def encode_prompts(pipe: Any, prompts: Sequence[str], *, batch_size: int = 64) -> Tensor:
    """Contexts for the UNet's cross-attention `[n x l x d]`, by the pipeline's own text encoder."""
    parts = [
        pipe.encode_prompt(list(prompts[start : start + batch_size]), pipe.text_encoder.device, 1, False)[0]
        for start in range(0, len(prompts), batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def encode_empty(pipe: Any) -> Tensor:
    """The context of the empty text `[1 x l x d]`, which guidance steers away from."""
    return pipe.encode_prompt("", pipe.text_encoder.device, 1, False)[0]


def seeded_generator(*seeds: int) -> torch.Generator:
    """A CPU generator for a tuple of seeds, (seed, step) for instance.

    Neighbouring tuples give unrelated streams: torch itself keeps 32 bits of a seed, so the tuple is hashed first.
    """
    state = np.random.SeedSequence(seeds).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def random_rows(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Which `count` of `total` rows a batch holds, [count]; none twice where there are enough."""
    if count <= total:
        return torch.randperm(total, generator=generator)[:count]
    return torch.randint(total, (count,), generator=generator)


def prompt_noise(count: int, shape: tuple[int, int, int], *, seed: int, first: int = 0) -> Tensor:
    """Standard normal noise `[count x c x h x w]`; row i depends on `seed` and `first + i` and on nothing else.

    So every network starts from the same noise at the same prompt, whatever the batch size, device or subset.
    """
    rows = (torch.randn(shape, generator=seeded_generator(seed, first + row)) for row in range(count))
    return torch.stack(list(rows))


def latent_shape(pipe: Any, *, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
    """Channels, rows and columns of the latent for pictures of `height` x `width` pixels (None: the UNet's own size).

    Raises:
        NasError: the size in pixels is not a multiple of the autoencoder's scale.
    """
    size = pipe.unet.config.sample_size
    own = size if isinstance(size, list | tuple) else (size, size)
    latent = []
    for name, pixels, default in zip(("height", "width"), (height, width), own, strict=True):
        if pixels is not None and (pixels < 1 or pixels % pipe.vae_scale_factor):
            raise NasError(f"{name} is {pixels} pixels; it must be a multiple of {pipe.vae_scale_factor}")
        latent.append(default if pixels is None else pixels // pipe.vae_scale_factor)
    return (pipe.unet.config.in_channels, *latent)


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """A fresh DDIM scheduler with the noise schedule and prediction type of any diffusers scheduler.

    Raises:
        ModelError: the scheduler has no discrete noise schedule (flow matching, for instance).
    """
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ModelError(f"{type(scheduler).__name__} has no discrete noise schedule; use a DDIMScheduler")
    # Latents are not confined to [-1, 1]: clip only where the pipeline itself says so.
    return DDIMScheduler.from_config(scheduler.config, clip_sample=scheduler.config.get("clip_sample", False))


def fingerprint_of_schedule(scheduler: Any) -> str:
    """16 hex digits that change with what `ddim_scheduler` takes over: noise schedule, spacing, prediction type.

    Raises:
        ModelError: the scheduler has no discrete noise schedule.
    """
    config = ddim_scheduler(scheduler).config
    return fingerprint_of_texts(f"{name} {value}" for name, value in sorted(config.items()) if name[0] != "_")


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `module` into train or eval mode and give every submodule its own mode back afterwards."""
    was_training = module.training
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        module.train(was_training)
        for part, mode in modes:
            part.training = mode


def placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a module's parameters."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


def placed_like(module: nn.Module, other: nn.Module) -> nn.Module:
    """Move `module` to where another one lies, in its dtype, and give it back."""
    # diffusers' own `to` would only add a warning that nothing needs to stay in float32.
    return nn.Module.to(module, *placement(other))


@torch.no_grad()
def sample_latents(
    unet: nn.Module,
    scheduler: Any,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Deterministic DDIM sampling of one batch, with classifier-free guidance.

    The same numbers as `StableDiffusionPipeline(..., latents=noise, output_type="latent")` with a DDIM scheduler of the
    same schedule (https://arxiv.org/abs/2010.02502, https://arxiv.org/abs/2207.12598).

    Args:
        unet: any network with the call signature of `UNet2DConditionModel`. One that is told the guidance
            (`nas.unet.fold_guidance`) is run once a step at any guidance.
        scheduler: where the noise schedule, spacing and prediction type come from; not changed.
        prompt_embeds: contexts `[b x l x d]`.
        negative_embeds: context(s) to steer away from, `[1 x l x d]` or `[b x l x d]`.
        noise: starting latents `[b x c x h x w]`.
        steps: DDIM steps.
        guidance_scale: w in e(0) + w (e(c) - e(0)); up to 1 means no guidance and half the work, or what a network with
            folded guidance is told.

    Returns:
        Latents `[b x c x h x w]` on the network's device and in its dtype.
    """
    return sample_latents_with(
        unet,
        ddim_scheduler(scheduler),
        prompt_embeds,
        negative_embeds,
        noise,
        steps=steps,
        guidance_scale=guidance_scale,
    )


@torch.no_grad()
def sample_latents_with(
    unet: nn.Module,
    scheduler: Any,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """`sample_latents` with any diffusers scheduler as it is, DPM-Solver++ for instance, instead of DDIM.

    `generators`, one a row, are where a scheduler that draws noise in its steps gets it from; the
    scheduler is not changed.
    """
    device, dtype = placement(unet)
    scheduler = scheduled(scheduler, steps, device)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": list(generators)} if generators and takes_generator else {}
    told, outside = told_guidance(unet, guidance_scale, len(noise), device, dtype)
    contexts = prompt_embeds
    if outside > 1:
        contexts = torch.cat([negative_embeds.expand_as(prompt_embeds), prompt_embeds])
    contexts, latents = contexts.to(device, dtype), noise.to(device, dtype) * scheduler.init_noise_sigma
    with in_mode(unet, training=False):
        for timestep in track(scheduler.timesteps, description="denoising", delay=_SECONDS_UNSEEN):
            scaled = scheduler.scale_model_input(latents, timestep)
            output = guided_output(unet, scaled, timestep, contexts, outside, told)
            latents = scheduler.step(output, timestep, latents, return_dict=False, **options)[0]
    return latents


def told_guidance(
    unet: nn.Module, scale: float, count: int, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Tensor], float]:
    """What a network is told of the guidance for `count` samples, and how much of it is left to do outside of it."""
    width = folded_width(unet)
    if width is None:
        return {}, scale
    embedding = guidance_embedding(torch.full((count,), float(scale)), width)
    return {"timestep_cond": embedding.to(device, dtype)}, 1.0


def guided_output(
    unet: nn.Module, latents: Tensor, timestep: Tensor, contexts: Tensor, scale: float, options: dict[str, Tensor]
) -> Tensor:
    """A network's output `[b x c x h x w]`, guided from outside where `scale` is above 1.

    Args:
        unet: the network.
        latents: `[b x c x h x w]`.
        timestep: one, or `[b]`.
        contexts: `[b x l x d]`; to be guided `[2b x l x d]`, of which the first half are to steer away from.
        scale: what `told_guidance` leaves to do.
        options: what it is told.
    """
    if scale <= 1:
        return unet(latents, timestep, contexts, return_dict=False, **options)[0]
    twice = torch.cat([timestep] * 2) if timestep.ndim else timestep
    without, with_text = unet(torch.cat([latents] * 2), twice, contexts, return_dict=False)[0].chunk(2)
    return without + scale * (with_text - without)


@torch.no_grad()
def decode_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """Pictures `[b x 3 x h x w]` with values from 0 to 1, float32; of large ones a few at a time, to save memory."""
    device, dtype = placement(vae)
    latents = latents.to(device, dtype) / vae.config.scaling_factor
    parts = [vae.decode(part, return_dict=False)[0] for part in latents.split(pictures_at_once(vae, latents.shape))]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1).float()


def pictures_at_once(vae: nn.Module, shape: Sequence[int]) -> int:
    """How many latents of a shape `[... x h x w]` to decode at a time: about a megapixel, which takes a few GB."""
    enlargement = 2 ** (len(vae.config.block_out_channels) - 1)
    return max(1, _PIXELS_AT_ONCE // (shape[-2] * shape[-1] * enlargement**2))


def to_uint8(images: Tensor) -> np.ndarray:
    """Pictures `[b x 3 x h x w]` from 0 to 1 as an array `[b x h x w x 3]` of bytes."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
