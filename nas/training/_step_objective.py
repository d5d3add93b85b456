"""The losses of step distillation: one step of a student against what leads there in two, and against the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_tensors
from nas.errors import ModelError, NasError
from nas.sampling import ddim_scheduler, in_mode, placement, require_whole_number, seeded_generator
from nas.training._batches import EMPTY_CONTEXT_SHARE, Batch, Batches
from nas.training._data import TrainingData
from nas.training._processes import Part
from nas.training._settings import Settings
from nas.training._step import Losses, Step
from nas.training.losses import data_loss, noise_from_v, prediction_type
from nas.training.step_distillation import (
    GUIDANCE_RANGE,
    GUIDED_SHARE,
    ORIGINAL_SHARE,
    Steps,
    TwoSteps,
    consistency_timesteps,
    draw_guidance,
    guidance_gain,
    guided_steps,
    moves,
    original_weight,
    plain_and_guided,
    step_loss,
    step_timesteps,
    target_of_steps,
    two_steps,
)
from nas.unet import folded_width, guidance_embedding

# Of how many steps the guidance is looked at, to see how many samples are guided at once.
_REHEARSED = 1000


@dataclass(frozen=True, kw_only=True)
class StepDistillationSettings(Settings):
    """The settings of step distillation; see `distil_steps`."""

    student_steps: int
    teacher_steps: int | None = None
    guided_share: float = GUIDED_SHARE
    guidance_range: tuple[float, float] = GUIDANCE_RANGE
    balanced: bool = False
    empty_context_share: float = EMPTY_CONTEXT_SHARE
    original_share: float = ORIGINAL_SHARE
    start_from_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole_number("student_steps", self.student_steps)
        if self.teacher_steps is not None:
            require_whole_number("teacher_steps", self.teacher_steps)
        self.require("from 0 to 1", lambda value: 0 <= value <= 1, "guided_share", "empty_context_share")
        self.require("of at least 0", lambda value: value >= 0, "original_share")
        draw_guidance(1, generator=torch.Generator(), share=self.guided_share, between=self.guidance_range)


class _Task(NamedTuple):
    """A part of a step's batch, and what the student is to say there.

    Attributes:
        z: where its step starts `[b x c x h x w]`.
        levels: the three noise levels.
        contexts: `[b x l x d]`.
        guidance: w of each sample `[b]`.
        target: the x of the two steps, like z.
        by_data: v by the data, like z.
        from_data: for which samples L_ori applies `[b]`.
        share: of the batch.
    """

    z: Tensor
    levels: TwoSteps
    contexts: Tensor
    guidance: Tensor
    target: Tensor
    by_data: Tensor
    from_data: Tensor
    share: float


class StepObjective:
    """One step of the student against two of the teacher, and the student against the data.

    Raises:
        ModelError: the scheduler's networks do not predict v.
        NasError: so many steps that none lies between them.
    """

    def __init__(
        self, teacher: nn.Module, data: TrainingData, scheduler: Any, settings: StepDistillationSettings
    ) -> None:
        self.teacher, self.data, self.settings, self.scheduler = teacher, data, settings, ddim_scheduler(scheduler)
        if prediction_type(self.scheduler) != "v_prediction":
            raise ModelError(
                f"steps are distilled in v, but the scheduler's networks predict {prediction_type(self.scheduler)!r}; "
                "train the network with nas.training.to_v_prediction first and take the scheduler that it gives"
            )
        self.scheduler.set_timesteps(settings.student_steps)
        self.grid = self.scheduler.timesteps
        drawn = self._drawn()
        if not len(drawn):
            raise NasError(
                f"of the timesteps {self.grid.tolist()} none has a step that leads anywhere; give a scheduler with "
                "another timestep_spacing or steps_offset"
            )
        self._levels(drawn, like=drawn[:, None].float())
        self.batches = Batches(
            data,
            scheduler,
            batch_size=settings.batch_size,
            seed=settings.seed,
            empty_context_share=settings.empty_context_share,
            timesteps=drawn,
        )

    def fingerprint(self) -> str:
        """Of the noise schedule, its end and the timesteps."""
        end = torch.as_tensor(self.scheduler.final_alpha_cumprod)
        return fingerprint_of_tensors(
            [("schedule", self.scheduler.alphas_cumprod), ("end", end), ("timesteps", self.grid)]
        )

    def __call__(self, step: Step) -> list[Callable[[], Losses]]:
        batch, guidance = self.batches.sample(step.number), self._guidance(step.number)
        tasks = [self._task(step.network, batch, guidance, part) for part in step.parts]
        gamma = self._gamma(step, tasks)
        return [partial(self._losses, step, task, gamma) for task in tasks]

    @property
    def others(self) -> list[nn.Module]:
        """The networks that it runs besides."""
        return [self.teacher]

    def rehearse(self, step: Step) -> list[Callable[[], Losses | None]]:
        """A step with as many guided samples as the fullest of many has, see `nas.training.training_memory`."""
        drawn = [self._guidance(number) for number in range(step.number, step.number + _REHEARSED)]
        guided = [max(int((guidance[part.rows] != 1).sum()) for guidance in drawn) for part in step.parts]

        def say(network: nn.Module, model: nn.Module, part: Part, doubled: int) -> Tensor:
            folded = folded_width(network) is not None
            batch = self.batches.blank(part.rows.stop - part.rows.start + (0 if folded else doubled))
            told = torch.ones(len(batch.noisy)) if folded else None
            return _run(network, model, batch.noisy, batch.timesteps, batch.contexts, guidance=told)

        def teach() -> None:
            for part, doubled in zip(step.parts, guided, strict=True):
                for network in self._teachers(step.network):
                    with torch.no_grad(), in_mode(network, training=False):
                        say(network, network, part, doubled)

        def losses(part: Part, doubled: int) -> Losses:
            said = say(step.network, step.model, part, doubled)
            return {"loss": data_loss(said, torch.zeros_like(said))}

        return [teach, *(partial(losses, part, doubled) for part, doubled in zip(step.parts, guided, strict=True))]

    def _guidance(self, step: int) -> Tensor:
        settings = self.settings
        generator = seeded_generator(settings.seed, step, 1)
        return draw_guidance(
            settings.batch_size, generator=generator, share=settings.guided_share, between=settings.guidance_range
        )

    def _task(self, network: nn.Module, batch: Batch, guidance: Tensor, part: Part) -> _Task:
        batch, guidance = batch.take(part.rows).to(*placement(network)), guidance[part.rows]
        levels = self._levels(batch.timesteps, like=batch.noisy)
        z, from_data = self._start(batch, levels)
        if folded_width(network) is not None:
            from_data = from_data & (guidance.to(z.device) == 1)
        target = self._target(network, z, levels, batch.contexts, guidance)
        return _Task(z, levels, batch.contexts, guidance, target, batch.target, from_data, part.share)

    def _gamma(self, step: Step, tasks: list[_Task]) -> Tensor | None:
        """The weight of L_ori where the step has several parts; None where the one part says it by itself.

        It is a ratio of losses of the whole batch, and each part's gradient needs it before the other parts have run.
        """
        if not self.settings.original_share or len(tasks) == 1:
            return None
        with torch.no_grad():
            totals = step.total([torch.stack(self._both(step, task)) for task in tasks])
        return original_weight(*totals, share=self.settings.original_share)

    def _losses(self, step: Step, task: _Task, gamma: Tensor | None) -> Losses:
        distillation, original = self._both(step, task)
        if not self.settings.original_share:
            return {"loss": distillation, "distillation": distillation}
        if gamma is None:
            totals = step.total([torch.stack([distillation, original])])
            gamma = original_weight(*totals, share=self.settings.original_share)
        return {"loss": distillation + gamma * original, "distillation": distillation, "original": original}

    def _both(self, step: Step, task: _Task) -> list[Tensor]:
        """L_dstl and L_ori of a part, as shares of the batch's."""
        z, start = task.z, task.levels.start
        plain, v = _predict(step.network, step.model, z, start.timesteps, task.contexts, self._empty, task.guidance)
        gain = guidance_gain(task.guidance) if self.settings.balanced else 1.0
        distillation = step_loss(z, v, task.target, start, gain=gain)
        # Where L_ori does not apply it is 0 and has no gradient.
        wanted = torch.where(task.from_data.view(-1, 1, 1, 1), task.by_data.to(plain.dtype), plain.detach())
        return [task.share * distillation, task.share * data_loss(plain, wanted)]

    @property
    def _empty(self) -> Tensor:
        return self.data.empty_context

    def _drawn(self) -> Tensor:
        """The timesteps that are learned at."""
        return self._moving(self.grid)

    def _moving(self, timesteps: Tensor) -> Tensor:
        """Those from where a step leads anywhere."""
        _, end = self._places(timesteps)
        return timesteps[moves(self.scheduler.alphas_cumprod, timesteps, end, final=self.scheduler.final_alpha_cumprod)]

    def _places(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Where the two steps that make the target land."""
        return step_timesteps(timesteps, self.settings.student_steps, total=len(self.scheduler.alphas_cumprod))

    def _teachers(self, network: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The networks that make these two steps."""
        return self.teacher, self.teacher

    def _levels(self, timesteps: Tensor, *, like: Tensor) -> TwoSteps:
        schedule, places = self.scheduler.alphas_cumprod, self._places(timesteps)
        return two_steps(schedule, timesteps, *places, like=like, final=self.scheduler.final_alpha_cumprod)

    def _start(self, batch: Batch, levels: TwoSteps) -> tuple[Tensor, Tensor]:
        """Where the step starts, and of which samples the data say what v is there `[b]`."""
        if not self.settings.start_from_noise:
            return batch.noisy, torch.ones(len(batch.noisy), dtype=torch.bool, device=batch.noisy.device)
        noise = noise_from_v(batch.noisy, batch.target, levels.start.alpha, levels.start.sigma)
        first = (levels.start.timesteps == self.grid.max().item()) & (levels.start.alpha.flatten() > 0)
        return torch.where(first.view(-1, 1, 1, 1), noise.to(batch.noisy), batch.noisy), ~first

    def _target(self, network: nn.Module, z: Tensor, levels: TwoSteps, contexts: Tensor, guidance: Tensor) -> Tensor:
        first, second = self._teachers(network)
        with in_mode(first, training=False), in_mode(second, training=False):
            steps = (self._steps_of(each, contexts, guidance) for each in (first, second))
            return target_of_steps(*steps, z, levels)

    def _steps_of(self, network: nn.Module, contexts: Tensor, guidance: Tensor) -> Steps:
        if folded_width(network) is None:
            predict = partial(_run, network, network)
            return guided_steps(predict, contexts, empty=self._empty.to(contexts), guidance=guidance)
        return guided_steps(partial(_run, network, network, guidance=guidance), contexts)


class ConsistencyObjective(StepObjective):
    """One step of the student, from anywhere, against a short one of the teacher and the rest of the student's own.

    Multistep consistency distillation (https://arxiv.org/abs/2403.06807): the student is what makes the rest of the
    step, without gradient and as it is by then.
    """

    def _drawn(self) -> Tensor:
        # Of spacings that do not divide the schedule evenly some timesteps lie between two of diffusers' steps.
        return self._moving(torch.arange(int(self.grid.max()) + 1))

    def _places(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        total = len(self.scheduler.alphas_cumprod)
        return consistency_timesteps(timesteps, self.grid, self.settings.teacher_steps, total=total)

    def _teachers(self, network: nn.Module) -> tuple[nn.Module, nn.Module]:
        return self.teacher, network


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
