"""Step distillation: a student learns to make in one step what its teacher makes in two or more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from nas._fingerprint import fingerprint_of_modules
from nas.sampling import require_whole_number
from nas.training._batches import EMPTY_CONTEXT_SHARE
from nas.training._checks import check_training
from nas.training._data import TrainingData
from nas.training._loop import TrainingLog, train
from nas.training._step_objective import ConsistencyObjective, StepDistillationSettings, StepObjective
from nas.training.step_distillation import GUIDANCE_RANGE, GUIDED_SHARE, ORIGINAL_SHARE
from nas.unet import folded_width

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
    teacher_steps: int | None = None,
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
    check_memory: bool = True,
) -> TrainingLog:
    """Train a student in place to reach in `student_steps` DDIM steps what the teacher reaches in twice as many.

    The losses of SnapFusion (https://arxiv.org/abs/2306.00980); what the CFG-aware one needs is written in
    `nas.training.step_distillation`. Both networks predict v: see `to_v_prediction`.

    A student that is told the guidance (`nas.unet.fold_guidance`) learns to make in one evaluation what the guided
    teacher makes in two steps of two evaluations each; a teacher that is told it is guided that way.

    Args:
        student: starts best from the teacher's weights, or from those of a network distilled to twice the steps.
        teacher: the network of more steps; shares no weights with the student.
        data: clean latents and contexts, best sampled with guidance (`synthetic_data`).
        scheduler: any diffusers scheduler with v-prediction: noise schedule and spacing of the steps. Not changed.
        student_steps: steps of the student after the training; it learns at the timesteps of these.
        steps: training steps in all, those before an interruption included; 0 does nothing.
        teacher_steps: None: twice the student's, of which it learns to make two at once. Given, more than the
            student's: multistep consistency distillation (https://arxiv.org/abs/2403.06807), where the teacher makes
            one of so many steps from any timestep, and the student as it is by then the rest of its own.
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
        accelerator: for mixed precision and many processes; networks and teacher are moved to its device. None: one
            process, nothing is moved.
        checkpoint: a file to write every `every` steps and at the end. If it exists the run goes on from it, to the
            same weights bit for bit as without the interruption.
        every: steps between checkpoints.
        accumulate: in how many parts each process takes its samples, to save memory; the gradient is the same. With
            L_ori gamma, a ratio over the whole batch, then costs another forward pass of the student, without gradient.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        check_memory: see `nas.training.train`.

    Returns:
        The losses; the parts are "distillation" and "original", before gamma. With L_ori the loss itself is always
        (1 + `original_share`) times the distillation loss.

    Raises:
        ModelError: a network, the scheduler or the checkpoint is unsuitable.
        NasError: data or numbers make no sense, the teacher shares the student's weights, or memory is short.
        SearchError: the checkpoint is of a run with other settings or other weights, or is longer.
    """
    if require_whole_number("steps", steps, least=0) == 0:
        return TrainingLog()
    check_training(student, teacher, data)
    if guided_share is None:
        guided_share = GUIDED_SHARE if folded_width(student) is None else 1.0
    settings = StepDistillationSettings(
        student_steps=student_steps,
        teacher_steps=teacher_steps,
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
    make = StepObjective if teacher_steps is None else ConsistencyObjective
    objective = make(teacher, data, scheduler, settings)
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
        check_memory=check_memory,
        description=f"distilling to {student_steps} steps",
    )
