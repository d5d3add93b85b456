"""A pipeline with the way it is sampled: what an evaluation compares."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules
from nas._schedulers import scheduled
from nas.errors import ModelError, NasError
from nas.pipelines import load_pipeline, load_unet
from nas.quality._clip_score import require_fit
from nas.sampling import (
    ddim_scheduler,
    decode_latents,
    encode_empty,
    encode_prompts,
    latent_shape,
    placed_like,
    placement,
    prompt_noise,
    require_text_only,
    require_text_to_image,
    require_whole_number,
    sample_latents_with,
    seeded_generator,
)


def _dpm_solver(scheduler: Any) -> DPMSolverMultistepScheduler:
    ddim = ddim_scheduler(scheduler)
    # What only DDIM has is left out: diffusers would warn of it.
    known = {name: value for name, value in ddim.config.items() if name in _DPM_SHARES}
    return DPMSolverMultistepScheduler(**known, algorithm_type="dpmsolver++")


_DPM_SHARES = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
)

SCHEDULERS: Mapping[str, Callable[[Any], Any]] = {
    "ddim": ddim_scheduler,
    "dpm++": _dpm_solver,
    "own": lambda scheduler: scheduler,
}


@dataclass(frozen=True, eq=False)
class Model:
    """A pipeline with the way it is sampled.

    Attributes:
        pipe: a pipeline in the manner of Stable Diffusion v1 or v2, or its folder; it is not changed.
        steps: sampling steps; the evaluation's when None.
        scheduler: "ddim", "dpm++" (DPM-Solver++ of second order, https://arxiv.org/abs/2211.01095), both on the
            pipeline's noise schedule; "own", the pipeline's; or any diffusers scheduler.
        unet: a network, or its folder, in place of the pipeline's.
        vae: an autoencoder in place of the pipeline's.

    Raises:
        NasError: there is no scheduler of that name, or the steps are no whole number.
    """

    pipe: Any
    steps: int | None = None
    scheduler: Any = "ddim"
    unet: nn.Module | str | os.PathLike[str] | None = None
    vae: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_whole_number("steps", self.steps)
        if isinstance(self.scheduler, str) and self.scheduler not in SCHEDULERS:
            raise NasError(
                f"there is no scheduler {self.scheduler!r}; choose {', '.join(SCHEDULERS)} or give one of diffusers"
            )

    @property
    def in_folder(self) -> bool:
        """Whether the pipeline is to be read from a folder."""
        return isinstance(self.pipe, str | os.PathLike)

    def require_folder(self) -> None:
        """Find out before long work whether a folder that is read later is there.

        Raises:
            ModelError: it is not.
        """
        if self.in_folder and not (Path(self.pipe) / "model_index.json").is_file():
            raise ModelError(f"no pipeline at {self.pipe}: there is no model_index.json")

    def open(self, *, steps: int, compute_on: str | None = None) -> OpenModel:
        """Read what is in folders.

        Args:
            steps: of sampling, where the model does not say.
            compute_on: where a pipeline that is read from a folder is put; the CPU when None.

        Raises:
            DeviceError: torch does not have that device here.
            ModelError: a part is missing, damaged or unsuitable.
            NasError: the scheduler cannot do so many steps.
        """
        pipe = load_pipeline(self.pipe, compute_on=compute_on) if self.in_folder else self.pipe
        require_text_to_image(pipe)
        unet = self.unet
        if isinstance(unet, str | os.PathLike):
            unet = placed_like(load_unet(unet), pipe.unet)
        if unet is not None:
            require_text_only(unet)
            require_fit(unet, pipe.unet)
        resolve = SCHEDULERS[self.scheduler] if isinstance(self.scheduler, str) else lambda _: self.scheduler
        scheduler, steps = resolve(pipe.scheduler), self.steps or steps
        scheduled(scheduler, steps)  # refuses steps that it cannot do
        return OpenModel(
            pipe=pipe,
            unet=pipe.unet if unet is None else unet,
            vae=pipe.vae if self.vae is None else self.vae,
            scheduler=scheduler,
            steps=steps,
        )


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model in memory.

    Attributes:
        pipe: where text encoder and tokenizer come from.
        unet: the network.
        vae: the autoencoder.
        scheduler: as it is used.
        steps: of sampling.
    """

    pipe: Any
    unet: nn.Module
    vae: nn.Module
    scheduler: Any
    steps: int

    def describe(self) -> dict[str, Any]:
        """What decides its pictures, beside prompts, noise and guidance; for a journal."""
        schedule = {"name": type(self.scheduler).__name__, **_plain(self.scheduler.config)}
        return {
            "weights": fingerprint_of_modules(self.unet, self.vae, self.pipe.text_encoder),
            "unet": _plain(self.unet.config),
            "vae": _plain(self.vae.config),
            "dtype": str(placement(self.unet)[1]),
            "scheduler": schedule,
            "steps": self.steps,
            "latent_shape": list(latent_shape(self.pipe)),
        }

    def pictures(
        self, contexts: tuple[Tensor, Tensor], *, guidance_scale: float, seed: int, batch_size: int
    ) -> Iterator[Tensor]:
        """Pictures of all prompts in batches `[b x 3 x h x w]`, values from 0 to 1; not finite where it diverged.

        Args:
            contexts: of the prompts `[n x l x d]` and of the empty text, from `encode`.
            guidance_scale: guidance; up to 1 means none.
            seed: of the noise, which depends on it and the prompt's position alone.
            batch_size: prompts at a time.
        """
        texts, empty = contexts
        for start in range(0, len(texts), batch_size):
            rows = texts[start : start + batch_size]
            latents = sample_latents_with(
                self.unet,
                self.scheduler,
                rows,
                empty,
                prompt_noise(len(rows), latent_shape(self.pipe), seed=seed, first=start),
                steps=self.steps,
                guidance_scale=guidance_scale,
                # Apart from the starting noise, whose generators have one number less.
                generators=[seeded_generator(seed, start + row, 1) for row in range(len(rows))],
            )
            yield decode_latents(self.vae, latents)

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Contexts of the prompts `[n x l x d]` and of the empty text `[1 x l x d]`."""
        return encode_prompts(self.pipe, prompts), encode_empty(self.pipe)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    # Names with an underscore tell where a part was read from and by which release.
    known = {name: value for name, value in sorted(config.items()) if not name.startswith("_")}
    return json.loads(json.dumps(known, default=str), parse_constant=str)
