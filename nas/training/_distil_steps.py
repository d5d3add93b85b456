"""Step distillation: a student learns to make in one step what its teacher makes in two."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_tensors
from nas.errors import ModelError
from nas.sampling import ddim_scheduler, in_mode, placement, require_whole_number, seeded_generator
from nas.training._batches import EMPTY_CONTEXT_SHARE, Batch, Batches
from nas.training._checks import check_training
from nas.training._data import TrainingData
from nas.training._loop import Losses, Step, TrainingLog, train
from nas.training._settings import Settings
from nas.training.losses import data_loss, noise_from_v, prediction_type
from nas.training.step_distillation import (
    GUIDANCE_RANGE,
    GUIDED_SHARE,
    ORIGINAL_SHARE,
    TwoSteps,
    draw_guidance,
    guidance_gain,
    original_weight,
    plain_and_guided,
    step_loss,
    step_timesteps,
    teacher_target,
    two_steps,
)
from nas.unet import folded_width, guidance_embedding

if TYPE_CHECKING:
    from accelerate import Accelerator


def distil_steps(
    student: nn.Module,
    teacher: nn.Module,
    data: TrainingData,
    *,
    scheduler: Any,
    student_steps: int,
    steps: int,
    guided_share: float | None = None,
    guidance_range: tuple[float, float] = GUIDANCE_RANGE,
    balanced: bool = False,
    empty_context_share: float = EMPTY_CONTEXT_SHARE,
    original_share: float = ORIGINAL_SHARE,
    start_from_noise: bool = True,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    seed: int = 0,
    weight_decay: float = 0.01,
    gradient_clip: float = 1.0,
    ema_decay: float | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    accumulate: int = 1,
    gradient_checkpointing: bool = False,
) -> TrainingLog:
    """Train a student in place to reach in `student_steps` DDIM steps what the teacher reaches in twice as many.

    The losses of SnapFusion (https://arxiv.org/abs/2306.00980); what the CFG-aware one needs is written in
    `nas.training.step_distillation`. Both networks predict v: see `to_v_prediction`.

    A student that is told the guidance (`nas.unet.fold_guidance`) learns to make in one evaluation what the guided
    teacher makes in two steps of two evaluations each; a teacher that is told it is guided that way.

    Args:
        student: starts best from the teacher's weights, or from those of a network distilled to twice the steps.
        teacher: the network of twice the steps; shares no weights with the student.
        data: clean latents and contexts, best sampled with guidance (`synthetic_data`).
        scheduler: any diffusers scheduler with v-prediction: noise schedule and spacing of the steps. Not changed.
        student_steps: steps of the student after the training; it learns at the timesteps of these.
        steps: training steps in all, those before an interruption included; 0 does nothing.
        guided_share: how many samples have the CFG-aware loss, the others the vanilla one. None: the paper's 0.1, or
            all for a student that is told the guidance.
        guidance_range: w of the guided samples is uniform in it; better that of later use than the paper's wide one.
        balanced: weigh guided samples so that large w do not decide alone. Not in the paper.
        empty_context_share: how often a context is replaced by the empty text's; above 0, so that the branch without
            a text is taught.
        original_share: gamma of L_ori as a part of the distillation loss; 0 for none. A student that is told the
            guidance has L_ori at its unguided samples only, which are those that it is told w = 1 for.
        start_from_noise: samples at the first timestep are noise alone, as they are when pictures are sampled, also
            where the schedule's alpha is not 0 there (Stable Diffusion's t = 1). They have no L_ori then. Without
            effect on schedules with zero SNR, where it is so anyway.
        batch_size: samples a step, of all processes together.
        learning_rate: of AdamW.
        seed: of samples, timesteps, noise, dropped contexts and guidance.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: if given, the weights at the end are their exponential moving average.
        accelerator: for mixed precision and many processes; a plain one that moves nothing when None.
        checkpoint: a file to write every `every` steps and at the end. If it exists the run goes on from it, to the
            same weights bit for bit as without the interruption.
        every: steps between checkpoints.
        accumulate: in how many parts each process takes its samples, to save memory. Gamma is then each part's own.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.

    Returns:
        The losses; the parts are "distillation" and "original", before gamma. With L_ori the loss itself is always
        (1 + `original_share`) times the distillation loss.

    Raises:
        ModelError: a network, the scheduler or the checkpoint is unsuitable.
        NasError: data or numbers make no sense, or the teacher shares the student's weights.
        SearchError: the checkpoint is of a run with other settings.
    """
    if require_whole_number("steps", steps, least=0) == 0:
        return TrainingLog()
    check_training(student, teacher, data)
    if guided_share is None:
        guided_share = GUIDED_SHARE if folded_width(student) is None else 1.0
    settings = StepSettings(
        student_steps=student_steps,
        guided_share=guided_share,
        guidance_range=tuple(guidance_range),
        balanced=balanced,
        empty_context_share=empty_context_share,
        original_share=original_share,
        start_from_noise=start_from_noise,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        weight_decay=weight_decay,
        gradient_clip=gradient_clip,
        ema_decay=ema_decay,
    )
    objective = StepObjective(teacher, data, scheduler, settings)
    return train(
        student,
        objective,
        settings,
        steps=steps,
        identity={
            "data": data.fingerprint(),
            "teacher": fingerprint_of_modules(teacher),
            "schedule": objective.fingerprint(),
        },
        accelerator=accelerator,
        checkpoint=checkpoint,
        every=every,
        accumulate=accumulate,
        gradient_checkpointing=gradient_checkpointing,
        description=f"distilling to {student_steps} steps",
    )


@dataclass(frozen=True, kw_only=True)
class StepSettings(Settings):
    """The settings of step distillation; see `distil_steps`."""

    student_steps: int
    guided_share: float = GUIDED_SHARE
    guidance_range: tuple[float, float] = GUIDANCE_RANGE
    balanced: bool = False
    empty_context_share: float = EMPTY_CONTEXT_SHARE
    original_share: float = ORIGINAL_SHARE
    start_from_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole_number("student_steps", self.student_steps)
        self.require("from 0 to 1", lambda value: 0 <= value <= 1, "guided_share", "empty_context_share")
        self.require("of at least 0", lambda value: value >= 0, "original_share")
        draw_guidance(1, generator=torch.Generator(), share=self.guided_share, between=self.guidance_range)


class StepObjective:
    """One step of the student against two of the teacher, and the student against the data.

    Raises:
        ModelError: the scheduler's networks do not predict v.
        NasError: so many steps that none lies between them.
    """

    def __init__(self, teacher: nn.Module, data: TrainingData, scheduler: Any, settings: StepSettings) -> None:
        self.teacher, self.data, self.settings, self.scheduler = teacher, data, settings, ddim_scheduler(scheduler)
        if prediction_type(self.scheduler) != "v_prediction":
            raise ModelError(
                f"steps are distilled in v, but the scheduler's networks predict {prediction_type(self.scheduler)!r}; "
                "train the network with nas.training.to_v_prediction first and take the scheduler that it gives"
            )
        self.scheduler.set_timesteps(settings.student_steps)
        self.grid = self.scheduler.timesteps
        self._levels(self.grid, like=self.grid[:, None].float())
        self.batches = Batches(
            data,
            scheduler,
            batch_size=settings.batch_size,
            seed=settings.seed,
            empty_context_share=settings.empty_context_share,
            timesteps=self.grid,
        )

    def fingerprint(self) -> str:
        """Of the noise schedule and the timesteps."""
        return fingerprint_of_tensors([("schedule", self.scheduler.alphas_cumprod), ("timesteps", self.grid)])

    def __call__(self, step: Step) -> list[Callable[[], Losses]]:
        batch, guidance = self.batches.sample(step.number), self._guidance(step.number)
        return [
            partial(self._losses, step, batch.take(part.rows), guidance[part.rows], part.share) for part in step.parts
        ]

    def _guidance(self, step: int) -> Tensor:
        settings = self.settings
        generator = seeded_generator(settings.seed, step, 1)
        return draw_guidance(
            settings.batch_size, generator=generator, share=settings.guided_share, between=settings.guidance_range
        )

    def _losses(self, step: Step, batch: Batch, guidance: Tensor, share: float) -> Losses:
        batch = batch.to(*placement(step.network))
        levels = self._levels(batch.timesteps, like=batch.noisy)
        z, from_data = self._start(batch, levels)
        target = self._target(z, levels, batch.contexts, guidance)
        plain, v = _predict(step.network, step.model, z, levels.start.timesteps, batch.contexts, self._empty, guidance)
        gain = guidance_gain(guidance) if self.settings.balanced else 1.0
        distillation = share * step_loss(z, v, target, levels.start, gain=gain)
        if not self.settings.original_share:
            return {"loss": distillation, "distillation": distillation}
        if folded_width(step.network) is not None:
            from_data = from_data & (guidance.to(z.device) == 1)
        # Where L_ori does not apply it is 0 and has no gradient.
        wanted = torch.where(from_data.view(-1, 1, 1, 1), batch.target.to(plain.dtype), plain.detach())
        original = share * data_loss(plain, wanted)
        known = step.add_up(torch.stack([distillation.detach(), original.detach()]))
        loss = distillation + original_weight(*known, share=self.settings.original_share) * original
        return {"loss": loss, "distillation": distillation, "original": original}

    @property
    def _empty(self) -> Tensor:
        return self.data.empty_context

    def _levels(self, timesteps: Tensor, *, like: Tensor) -> TwoSteps:
        schedule = self.scheduler.alphas_cumprod
        places = step_timesteps(timesteps, self.settings.student_steps, total=len(schedule))
        return two_steps(schedule, timesteps, *places, like=like, final=self.scheduler.final_alpha_cumprod)

    def _start(self, batch: Batch, levels: TwoSteps) -> tuple[Tensor, Tensor]:
        """Where the step starts, and of which samples the data say what v is there `[b]`."""
        if not self.settings.start_from_noise:
            return batch.noisy, torch.ones(len(batch.noisy), dtype=torch.bool, device=batch.noisy.device)
        noise = noise_from_v(batch.noisy, batch.target, levels.start.alpha, levels.start.sigma)
        first = (levels.start.timesteps == self.grid.max().item()) & (levels.start.alpha.flatten() > 0)
        return torch.where(first.view(-1, 1, 1, 1), noise.to(batch.noisy), batch.noisy), ~first

    def _target(self, z: Tensor, levels: TwoSteps, contexts: Tensor, guidance: Tensor) -> Tensor:
        teacher = self.teacher
        with in_mode(teacher, training=False):
            if folded_width(teacher) is None:
                predict = partial(_run, teacher, teacher)
                return teacher_target(predict, z, levels, contexts, empty=self._empty.to(contexts), guidance=guidance)
            return teacher_target(partial(_run, teacher, teacher, guidance=guidance), z, levels, contexts)


def _predict(
    network: nn.Module,
    model: nn.Module,
    z: Tensor,
    timesteps: Tensor,
    contexts: Tensor,
    empty: Tensor,
    guidance: Tensor,
) -> tuple[Tensor, Tensor]:
    """The student's v, plain and guided, in one forward pass; both the same for one that is told the guidance."""
    if folded_width(network) is None:
        return plain_and_guided(partial(_run, network, model), z, timesteps, contexts, empty.to(contexts), guidance)
    v = _run(network, model, z, timesteps, contexts, guidance=guidance)
    return v, v


def _run(
    network: nn.Module,
    model: nn.Module,
    z: Tensor,
    timesteps: Tensor,
    contexts: Tensor,
    *,
    guidance: Tensor | None = None,
) -> Tensor:
    """v of a UNet, which may lie elsewhere or in another precision; `model` is what is called for it."""
    (device, dtype), width = placement(network), folded_width(network)
    options = {} if guidance is None else {"timestep_cond": guidance_embedding(guidance, width).to(device, dtype)}
    inputs = (z.to(device, dtype), timesteps.to(device), contexts.to(device, dtype))
    return model(*inputs, return_dict=False, **options)[0].to(z.device)
