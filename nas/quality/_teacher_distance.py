"""How far a network's output is from its teacher's: needs neither pictures nor CLIP."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_tensors
from nas.errors import ModelError, NasError
from nas.quality.score import Score, finite_or
from nas.sampling import (
    ddim_scheduler,
    guided_output,
    in_mode,
    placement,
    require_text_only,
    require_whole_number,
    seeded_generator,
    told_guidance,
)
from nas.unet import folded_width

FURTHEST = 1e6


class TeacherDistance:
    """Relative error of a network's output against the teacher's, ||student - teacher|| / ||teacher||, per sample.

    Call it with a network: `judge(unet) -> Score`. Scores are negative, since higher is better: 0 is the teacher
    itself, -1 as bad as an output of zeros. Each latent gets noise at one timestep; timesteps are spread over the
    schedule so that the first few samples cover it too. The teacher's outputs are computed once, here: it may be
    trained or changed later. The mean's interval is Student's t over samples.

    Args:
        teacher: the network to stay close to.
        latents: clean latents `[n x c x h x w]`, scaled as the network sees them, any resolution that it takes.
        contexts: text states `[n x l x d]`, or one for all `[1 x l x d]`.
        timesteps: timesteps in turn for the samples; spread over the schedule when None.
        seed: of the noise.
        scheduler: whose noise schedule; Stable Diffusion's own when None.
        batch_size: samples at a time.
        guidance: w with which all networks are run, where 1 is none: one that is told the guidance
            (`nas.unet.fold_guidance`) is told w, any other is guided from outside. None: none, and no network may be
            one that is told it.
        empty_context: the empty text's state `[1 x l x d]`, which guidance from outside needs.

    Raises:
        ModelError: the teacher needs other conditions than a text, or is told the guidance and there is none.
        NasError: shapes or numbers do not fit.
    """

    def __init__(
        self,
        teacher: nn.Module,
        latents: Tensor,
        contexts: Tensor,
        *,
        timesteps: Sequence[int] | None = None,
        seed: int = 0,
        scheduler: Any = None,
        batch_size: int = 8,
        guidance: float | None = None,
        empty_context: Tensor | None = None,
    ) -> None:
        require_text_only(teacher)
        _require_shapes(latents, contexts)
        _require_guidance(guidance, empty_context, contexts)
        self.guidance, self._empty = guidance, empty_context
        self.seed = require_whole_number("seed", seed, least=0)
        self.batch_size = require_whole_number("batch_size", batch_size)
        schedule = _stable_diffusion_schedule() if scheduler is None else ddim_scheduler(scheduler)
        self._timesteps = _timesteps(timesteps, len(latents), schedule.config.num_train_timesteps)
        clean = latents.detach().cpu().float()
        noise = torch.randn(clean.shape, generator=seeded_generator(self.seed))
        self._noisy = schedule.add_noise(clean, noise, self._timesteps)
        self._contexts = contexts.detach().expand(len(latents), -1, -1)
        self._teacher = fingerprint_of_modules(teacher)
        self._outputs = self._run(teacher)

    def __call__(self, unet: nn.Module) -> Score:
        """Judge a network; it is run in eval mode and left as it was.

        Raises:
            ModelError: it is told the guidance, and there is none.
            NasError: it has to be guided from outside, and there is no context of the empty text.
        """
        started = time.perf_counter()
        error = (self._run(unet) - self._outputs).flatten(1).norm(dim=1)
        distances = (error / self._outputs.flatten(1).norm(dim=1)).double().numpy()
        values = 0.0 - np.minimum(finite_or(distances, FURTHEST), FURTHEST)
        return Score.of(values, seconds=time.perf_counter() - started)

    def subset(self, count: int, *, first: int = 0) -> TeacherDistance:
        """A cheaper scorer with `count` of the samples; the teacher is not run again.

        Raises:
            NasError: there are not so many samples.
        """
        if not 0 <= first < first + count <= len(self._noisy):
            raise NasError(f"cannot take {count} samples from number {first} on: there are {len(self._noisy)}")
        rows = slice(first, first + count)
        part = copy.copy(self)
        for name in ("_timesteps", "_noisy", "_contexts", "_outputs"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def describe(self) -> dict[str, Any]:
        """What decides the numbers: teacher, samples, timesteps and noise; for a journal."""
        described = {
            "scorer": "teacher_distance",
            "teacher": self._teacher,
            "samples": len(self._noisy),
            "samples_hash": fingerprint_of_tensors([("noisy", self._noisy), ("contexts", self._contexts)]),
            "timesteps": self._timesteps.tolist(),
            "seed": self.seed,
        }
        if self.guidance is not None:
            described["guidance"] = float(self.guidance)
            described["empty_hash"] = fingerprint_of_tensors([] if self._empty is None else [("empty", self._empty)])
        return described

    @torch.inference_mode()
    def _run(self, unet: nn.Module) -> Tensor:
        _require_told(unet, self.guidance)
        device, dtype = placement(unet)
        parts = []
        with in_mode(unet, training=False):
            for start in range(0, len(self._noisy), self.batch_size):
                rows = slice(start, start + self.batch_size)
                noisy, contexts = self._noisy[rows].to(device, dtype), self._contexts[rows].to(device, dtype)
                told, outside = told_guidance(unet, self.guidance or 1.0, len(noisy), device, dtype)
                if outside > 1:
                    contexts = torch.cat([self._steered_from(contexts), contexts])
                timesteps = self._timesteps[rows].to(device)
                output = guided_output(unet, noisy, timesteps, contexts, outside, told)
                parts.append(output.float().cpu())
        return torch.cat(parts)

    def _steered_from(self, contexts: Tensor) -> Tensor:
        """The empty text's context for each of these."""
        if self._empty is None:
            raise NasError(
                f"a network is to be judged with guidance {self.guidance} but is not told it, so it is guided from "
                "outside, which needs the empty text's context: give empty_context="
            )
        return self._empty.to(contexts).expand_as(contexts)


def spread_timesteps(count: int, total: int) -> list[int]:
    """`count` timesteps below `total`, of which any first few are spread too: the base-2 van der Corput sequence."""
    reversed_bits = (int(f"{index:032b}"[::-1], 2) / 2**32 for index in range(1, count + 1))
    return [int(part * total) for part in reversed_bits]


def _timesteps(given: Sequence[int] | None, count: int, total: int) -> Tensor:
    if given is None:
        return torch.tensor(spread_timesteps(count, total))
    given = [require_whole_number("a timestep", int(step), least=0) for step in given]
    if not given or max(given) >= total:
        raise NasError(f"timesteps must be some of 0 to {total - 1}; got {given}")
    return torch.tensor([given[index % len(given)] for index in range(count)])


def _stable_diffusion_schedule() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def _require_shapes(latents: Tensor, contexts: Tensor) -> None:
    if latents.ndim != 4 or not len(latents):
        raise NasError(f"latents have shape {tuple(latents.shape)}; they must be [n x channels x rows x columns]")
    if contexts.ndim != 3 or len(contexts) not in (1, len(latents)):
        raise NasError(
            f"contexts have shape {tuple(contexts.shape)}; they must be [{len(latents)} x tokens x features], one for "
            "each latent, or [1 x tokens x features]"
        )


def _require_guidance(guidance: float | None, empty: Tensor | None, contexts: Tensor) -> None:
    if guidance is not None:
        number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
        if not number or not math.isfinite(guidance) or guidance < 1:
            raise NasError(f"guidance is {guidance!r}; it must be a number of at least 1, which is none")
    if empty is not None and empty.shape != (1, *contexts.shape[1:]):
        raise NasError(f"empty_context has shape {tuple(empty.shape)}; it must be {(1, *contexts.shape[1:])}")


def _require_told(unet: nn.Module, guidance: float | None) -> None:
    if guidance is None and folded_width(unet) is not None:
        raise ModelError(
            "the network is told the guidance (nas.unet.fold_guidance), so what it says depends on it: give "
            "guidance= to TeacherDistance, the w with which pictures will be sampled"
        )
