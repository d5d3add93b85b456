"""Distillation of a slim decoder: its pictures are to be the original's (paper §3, https://arxiv.org/abs/2306.00980)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas._fingerprint import fingerprint_of_modules
from nas.decoder._latents import GivenLatents, LatentSource
from nas.decoder._pictures import decoded, decoder_inputs
from nas.errors import ModelError, NasError
from nas.sampling import in_mode, placement
from nas.training import Losses, Part, Settings, Step, TrainingLog, gradient_checkpoints, shares_weights, train

if TYPE_CHECKING:
    from accelerate import Accelerator


def picture_loss(pictures: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of pictures `[b x 3 x H x W]`, the paper's only loss here."""
    return functional.mse_loss(pictures.float(), wanted.float())


def distil_decoder(
    student: nn.Module,
    teacher: nn.Module,
    latents: Tensor | LatentSource,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    weight_decay: float = 0.0,
    gradient_clip: float = 1.0,
    ema_decay: float | None = 0.99,
    accelerator: Accelerator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    accumulate: int = 1,
    gradient_checkpointing: bool = False,
    keep_mb: float = 256.0,
    check_memory: bool = True,
) -> TrainingLog:
    """Train an autoencoder's decoder in place to give the pictures that another one gives, with AdamW.

    Neither the student's encoder nor its quantising convolutions change.

    Args:
        student: the autoencoder with the slim decoder, such as `prune_decoder` makes.
        teacher: the original autoencoder; it may not share weights with the student's decoder.
        latents: `[n x c x h x w]`, scaled as a UNet gives them, or what gives them for each step: `SampledLatents`,
            `GivenLatents` or another `LatentSource`.
        steps: number of steps in all, those before an interruption included; 0 does nothing.
        batch_size: pictures a step, of all processes together.
        learning_rate: of AdamW.
        seed: of the latents.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: if given, the student ends with the moving average of its weights, which is what a falling learning
            rate would give.
        accelerator: for mixed precision and many processes; student and teacher are moved to its device. None: one
            process, nothing is moved.
        checkpoint: a file to write every `every` steps and at the end. If it exists the run goes on from it, to the
            same weights bit for bit as without the interruption.
        every: steps between checkpoints.
        accumulate: in how many parts each process takes its pictures, to save memory; the gradient is the same.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        keep_mb: memory for the teacher's pictures of latents that come again, which otherwise take more time than the
            student's step.
        check_memory: see `nas.training.train`.

    Returns:
        The losses: mean squared errors of pictures from -1 to 1.

    Raises:
        ModelError: an autoencoder takes other latents, or the checkpoint is unsuitable.
        NasError: latents or numbers make no sense, the student shares weights with the teacher, or there is too little
            memory.
        SearchError: the checkpoint is of a run with other settings or other weights, or is longer.
    """
    source = GivenLatents(latents) if isinstance(latents, Tensor) else latents
    _check(student, teacher, source)
    settings = Settings(
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        weight_decay=weight_decay,
        gradient_clip=gradient_clip,
        ema_decay=ema_decay,
    )
    # Only the whole autoencoder is a diffusers model, which knows how to do this.
    with gradient_checkpoints(student, gradient_checkpointing):
        return train(
            student.decoder,
            _Objective(student, _Pictures(teacher, keep_mb), source, settings),
            settings,
            steps=steps,
            identity={"teacher": fingerprint_of_modules(teacher), "latents": source.identity()},
            accelerator=accelerator,
            checkpoint=checkpoint,
            every=every,
            accumulate=accumulate,
            check_memory=check_memory,
            description="distilling the decoder",
        )


def _check(student: nn.Module, teacher: nn.Module, source: LatentSource) -> None:
    wanted = {vae.config.latent_channels for vae in (student, teacher)}
    if isinstance(source, GivenLatents):
        wanted.add(source.latents.shape[1])
    if len(wanted) > 1:
        raise ModelError(f"student, teacher and latents must have the same channels; they have {sorted(wanted)}")
    if shares_weights(student.decoder, teacher):
        raise NasError(
            "the teacher shares weights with the decoder to be trained, so it would change with it; "
            "give a copy: copy.deepcopy(vae), or the autoencoder read again"
        )


class _Objective:
    """The loss of a step, see `nas.training._loop`."""

    def __init__(self, student: nn.Module, pictures: _Pictures, source: LatentSource, settings: Settings) -> None:
        self.student, self.pictures, self.source, self.settings = student, pictures, source, settings

    def __call__(self, step: Step) -> list[Callable[[], Losses]]:
        batch = self.source.draw(step.number, batch_size=self.settings.batch_size, seed=self.settings.seed)
        return [partial(self._losses, step, batch, part) for part in step.parts]

    @property
    def others(self) -> list[nn.Module]:
        """The networks that it runs besides, and those that lie beside the decoder."""
        return [self.pictures.teacher, self.student, *self.source.networks]

    def rehearse(self, step: Step) -> list[Callable[[], Losses | None]]:
        """A step that finds as many pictures kept as may be, see `nas.training.training_memory`."""
        shape, kept = self.source.shape, []

        def keep() -> None:
            device = placement(self.pictures.teacher)[0]
            kept.append(torch.empty(int(self.pictures.bytes_left), dtype=torch.uint8, device=device))

        def losses(part: Part) -> Losses:
            with torch.no_grad():
                latents = torch.zeros(part.rows.stop - part.rows.start, *shape)
                inputs, picture = decoder_inputs(self.student, latents), decoded(self.pictures.teacher, latents[:1])
                wanted = torch.cat([picture] * len(latents))
            pictures = step.model(inputs)
            return {"loss": picture_loss(pictures, wanted.to(pictures.device))}

        return [keep, *(partial(losses, part) for part in step.parts)]

    def _losses(self, step: Step, batch: Tensor, part: Part) -> Losses:
        latents = batch[part.rows]
        with torch.no_grad():
            inputs, wanted = decoder_inputs(self.student, latents), self.pictures.of(latents)
        pictures = step.model(inputs)
        return {"loss": part.share * picture_loss(pictures, wanted.to(pictures.device))}


class _Pictures:
    """The teacher's pictures; those of latents that come again are kept.

    Each is decoded alone: in a batch it would depend, in its last bits, on what was kept before, and a run that goes on
    from a checkpoint has kept nothing.
    """

    def __init__(self, teacher: nn.Module, keep_mb: float) -> None:
        self.teacher, self.bytes_left = teacher, keep_mb * 2**20
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def of(self, latents: Tensor) -> Tensor:
        """Pictures `[b x 3 x H x W]` of latents `[b x c x h x w]`."""
        with in_mode(self.teacher, training=False):
            return torch.cat([self._picture(latent) for latent in latents.split(1)])

    def _picture(self, latent: Tensor) -> Tensor:
        key = sha256(latent.float().cpu().numpy().tobytes()).digest()
        known = self.kept.pop(key, None)
        picture = decoded(self.teacher, latent) if known is None else known
        if known is None:
            self.bytes_left -= picture.nbytes
        self.kept[key] = picture
        while self.bytes_left < 0 and self.kept:
            # What was not asked for the longest.
            self.bytes_left += self.kept.pop(next(iter(self.kept))).nbytes
        return picture
