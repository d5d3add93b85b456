"""Measuring the parts of a pipeline, all in turns on one bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from nas._schedulers import scheduled
from nas.errors import ModelError
from nas.latency._canary import bench_on
from nas.latency._network import PATIENT, space_of
from nas.latency._provenance import provenance_of
from nas.latency._row import Row
from nas.latency._timing import Timing
from nas.latency.devices import Device, Runnable, get_device
from nas.search_space import SearchSpace
from nas.unet import example_inputs
from nas.workload import Workload

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# A module with its inputs.
Subject: TypeAlias = "tuple[nn.Module, Sequence[Any], Mapping[str, Any]]"

_NEEDED = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
_TEXT_ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_UNET, _DECODER, _BETWEEN = "the UNet", "the decoder", "scheduler and guidance"
_GUIDANCE = 7.5


@dataclass(frozen=True)
class Conditions:
    """How the parts of an image are run.

    Attributes:
        steps: of the scheduler.
        samples: predictions a step, 2 under guidance.
        batch_size: samples in one execution of the UNet.
        height: rows of the latent; the UNet's own when None.
        width: columns of the latent, likewise.
        precision: "fp32", "fp16" or "bf16".
    """

    steps: int
    samples: int
    batch_size: int
    height: int | None
    width: int | None
    precision: str


def measure_parts(
    pipeline: DiffusionPipeline,
    conditions: Conditions,
    device: Device,
    *,
    timing: Timing | None,
    with_step_overhead: bool,
) -> tuple[dict[str, Any], dict[str, str | int | float]]:
    """Time text encoder, UNet, decoder and, if asked for, what a step does beside the UNet.

    Returns:
        the times, and the scheduler's steps, by the names that `ImageLatency` has for them; and all that decided them.

    Raises:
        ModelError: the pipeline lacks a part.
        NasError: the scheduler cannot do so many steps.
    """
    _require_parts(pipeline)
    steps = len(scheduled(pipeline.scheduler, conditions.steps).timesteps)
    space = space_of(pipeline.unet, context_length=pipeline.tokenizer.model_max_length)
    size = {"height": conditions.height, "width": conditions.width}
    workload = Workload.of(space, batch_size=conditions.batch_size, precision=conditions.precision, **size)
    loaders = _Parts(pipeline, space, workload, device).loaders()
    if with_step_overhead:
        loaders[_BETWEEN] = partial(_load_between, pipeline, conditions, workload, device)
    bench = bench_on(device, conditions.precision, timing or PATIENT)
    rows = bench.measure_all(loaders, description=f"Measuring the parts of an image on {device.name}")
    made_of = {"pipeline": type(pipeline).__name__, "scheduler": type(pipeline.scheduler).__name__}
    return {"steps": steps, **_times_of(rows)}, provenance_of(device, workload, bench, **made_of)


def _require_parts(pipeline: DiffusionPipeline) -> None:
    # An encoder beside the first is optional; its tokenizer is not.
    tokenizers = [_TEXT_ENCODERS[name] for name in _text_encoders(pipeline)]
    if missing := [name for name in (*_NEEDED, *tokenizers) if getattr(pipeline, name, None) is None]:
        raise ModelError(f"cannot measure the image of a {type(pipeline).__name__}: it has no {missing[0]}")


def _text_encoders(pipeline: DiffusionPipeline) -> list[str]:
    return [name for name in _TEXT_ENCODERS if getattr(pipeline, name, None) is not None]


def _times_of(rows: Mapping[str, Row]) -> dict[str, float]:
    fields = {_UNET: "unet_ms", _DECODER: "decoder_ms", _BETWEEN: "step_overhead_ms"}
    times = {field: rows[name].latency_ms for name, field in fields.items() if name in rows}
    return {"text_encoder_ms": sum(row.latency_ms for name, row in rows.items() if name not in fields), **times}


@dataclass(frozen=True)
class _Parts:
    """Makes the networks of a pipeline ready to run, with inputs of the right shapes."""

    pipeline: DiffusionPipeline
    space: SearchSpace
    workload: Workload
    device: Device

    def loaders(self) -> dict[str, Callable[[], Runnable]]:
        """By name, what loads each."""
        texts = {f"the pipeline's {name}": partial(self._text_encoder, name) for name in _text_encoders(self.pipeline)}
        subjects = {**texts, _UNET: self._unet, _DECODER: self._decoder}
        return {name: partial(self._load, subject) for name, subject in subjects.items()}

    def _load(self, subject: Callable[[], Subject]) -> Runnable:
        module, args, kwargs = subject()
        return self.device.load(module, args, kwargs, precision=self.workload.precision)

    def _text_encoder(self, name: str) -> Subject:
        tokenizer = getattr(self.pipeline, _TEXT_ENCODERS[name])
        tokens = torch.full((1, tokenizer.model_max_length), tokenizer.eos_token_id, dtype=torch.long)
        return _TextEncoder(getattr(self.pipeline, name)), (tokens,), {}

    def _unet(self) -> Subject:
        return self.pipeline.unet, (), example_inputs(self.space, self.workload, device=self.device.home)

    def _decoder(self) -> Subject:
        return Decoding(self.pipeline.vae), (_latents(self.pipeline, self.workload, 1),), {}


class _TextEncoder(nn.Module):
    """Tokens [1 x length] -> hidden states [1 x length x d]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.training = encoder, encoder.training

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.encoder(tokens, return_dict=False)[0]


class Decoding(nn.Module):
    """Latents [1 x c x h x w] -> a picture [1 x 3 x H x W]."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae, self.training = vae, vae.training

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents, return_dict=False)[0]


def _load_between(pipeline: DiffusionPipeline, conditions: Conditions, workload: Workload, device: Device) -> Runnable:
    # In eager torch whatever the device: it is Python that calls the scheduler, also between runs of a compiled UNet.
    threads = device.provenance().get("threads")
    host = get_device(f"torch-{device.home}", threads=threads if isinstance(threads, int) else None)
    between = _BetweenSteps(pipeline.scheduler, conditions.steps, conditions.samples, device.home).eval()
    inputs = tuple(_latents(pipeline, workload, count) for count in (1, conditions.samples))
    return host.load(between, inputs, {}, precision=workload.precision)


def _latents(pipeline: DiffusionPipeline, workload: Workload, count: int) -> torch.Tensor:
    shape = (count, pipeline.vae.config.latent_channels, workload.height, workload.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class _BetweenSteps(nn.Module):
    """All that a pipeline does in a step beside the UNet; after the last step it begins with another image."""

    def __init__(self, scheduler: Any, steps: int, samples: int, home: str) -> None:
        super().__init__()
        self.scheduler, self.steps, self.samples, self.home = scheduled(scheduler, steps, home), steps, samples, home
        self.left: list[torch.Tensor] = []

    def forward(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if not self.left:
            self.scheduler.set_timesteps(self.steps, device=self.home)
            self.left = list(self.scheduler.timesteps)
        timestep = self.left.pop(0)
        self.scheduler.scale_model_input(torch.cat([latents] * self.samples), timestep)
        if self.samples == 2:
            without, with_text = noise.chunk(2)
            noise = without + _GUIDANCE * (with_text - without)
        return self.scheduler.step(noise, timestep, latents, return_dict=False)[0]
