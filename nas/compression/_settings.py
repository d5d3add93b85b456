"""What each stage of the recipe is told. A recipe in YAML has these fields, one to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nas.compression._numbers import (
    are_numbers,
    is_number,
    is_route,
    require_paths,
    require_positive,
    require_switches,
    require_whole_numbers,
)
from nas.errors import NasError
from nas.search import Greedy
from nas.supernet import Schedule, by_depth, constant, ramp, sandwich
from nas.training import RobustTrainingSettings, Settings, StepDistillationSettings

if TYPE_CHECKING:
    from nas.search_space import SearchSpace

Texts = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The latents that everything is trained on: sampled by the pipeline as it is given.

    Attributes:
        prompts: texts, or a file of them; `captions/train.json` in the pipeline's folder when None.
        max_prompts: how many of them: of a file drawn at random, of a list the first.
        steps: DDIM steps of the samples.
        batch_size: prompts at a time; guided, the UNet sees twice as many samples.
    """

    prompts: Texts | None = None
    max_prompts: int = 256
    steps: int = 20
    batch_size: int = 32

    def __post_init__(self) -> None:
        require_whole_numbers(self, "max_prompts", "steps", "batch_size")


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The CLIP score that the evolution and the record of every stage go by.

    Attributes:
        prompts: texts, or a file of them; `captions/validation.json` in the pipeline's folder when None.
        max_prompts: how many of them: of a file drawn at random, of a list the first.
        steps: DDIM steps of the pictures that the evolution judges candidates by; records have those of the model.
        clip: folder of the CLIP model; `clip/` in the pipeline's folder when None.
        batch_size: prompts at a time; guided, the UNet sees twice as many samples.
    """

    prompts: Texts | None = None
    max_prompts: int = 32
    steps: int = 10
    clip: str | os.PathLike[str] | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        require_whole_numbers(self, "max_prompts", "steps", "batch_size")
        require_paths(self, "clip")


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What all trainings have; see `nas.training`.

    Attributes:
        training_steps: how many.
        batch_size: samples a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the averaged weights that training ends with; None for no average.
        accumulate: in how many parts a step's samples are taken, to save memory.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        check_memory: refuse to start where there is clearly not enough memory.
    """

    training_steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    accumulate: int = 1
    gradient_checkpointing: bool = False
    check_memory: bool = True
    _least_training_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_whole_numbers(self, "training_steps", least=self._least_training_steps)
        require_whole_numbers(self, "accumulate")
        require_switches(self, "gradient_checkpointing", "check_memory")
        if self.accumulate > self.batch_size:
            raise NasError(
                f"accumulate is {self.accumulate}, more parts than the {self.batch_size} samples of batch_size"
            )
        Settings(**{name: getattr(self, name) for name in _NUMBERS})  # refuses what makes no sense

    def options(self) -> dict[str, Any]:
        """By the names that `nas.training` has for them, but for the number of steps."""
        names = (*_NUMBERS, "accumulate", "gradient_checkpointing", "check_memory")
        return {name: getattr(self, name) for name in names}


_NUMBERS = ("batch_size", "learning_rate", "weight_decay", "gradient_clip", "ema_decay")


@dataclass(frozen=True, kw_only=True)
class RobustSettings(_Training):
    """Robust training, see `nas.training.robust_train`; the pipeline's UNet is the teacher.

    Attributes:
        skip_probability: how often a block is skipped, see `nas.Supernet`.
        skip_schedule: "constant"; "ramp" from 0 over the first third of the training; "by_depth", from 0 for the first
            block to the probability for the last; or "sandwich", besides such random paths the full network and the
            smallest in every step. See `nas.supernet`.
        data_weight: of the data loss beside the distillation loss.
        feature_weight: of the loss of the stages' outputs beside the distillation loss.
    """

    skip_probability: float = 0.1
    skip_schedule: str = "constant"
    data_weight: float = 0.0
    feature_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.skip_probability) or not 0 <= self.skip_probability <= 1:
            raise NasError(f"skip_probability is {self.skip_probability!r}; it must be a number from 0 to 1")
        if self.skip_schedule not in _SCHEDULES:
            raise NasError(f"skip_schedule is {self.skip_schedule!r}; choose {', '.join(_SCHEDULES)}")
        RobustTrainingSettings(data_weight=self.data_weight, feature_weight=self.feature_weight)

    def schedule(self, space: SearchSpace) -> Schedule:
        """The skip probabilities of each step."""
        return _SCHEDULES[self.skip_schedule](self, space)


_SCHEDULES: dict[str, Callable[[RobustSettings, SearchSpace], Schedule]] = {
    "constant": lambda settings, space: constant(settings.skip_probability),
    "ramp": lambda settings, space: ramp(settings.skip_probability, settings.training_steps // 3),
    "by_depth": lambda settings, space: by_depth(space, 0.0, settings.skip_probability),
    "sandwich": lambda settings, space: sandwich(settings.skip_probability),
}


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings(_Training):
    """The evolution, see `nas.evolve`. `training_steps` are those of the network found; 0 for none.

    Attributes:
        train_steps: of robust training before each round.
        probe_steps: of distillation of each candidate before it is judged.
        margin: quantile of the table's error on whole networks to stay under the budget by.
        group_size: how much is done in a round.
        candidates: how many are judged anew in a round; None for all.
        exchanges: how many additions that do not fit may be tried.
        first_look: how many prompts candidates are judged by at first; None for all.
        max_rounds: after so many nothing is added.
    """

    train_steps: int = 0
    probe_steps: int = 0
    margin: float | None = None
    group_size: int | float = 0.5
    candidates: int | None = None
    exchanges: int = 0
    first_look: int | None = None
    max_rounds: int = 100
    _least_training_steps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole_numbers(self, "train_steps", "probe_steps", "exchanges", least=0)
        require_whole_numbers(self, "max_rounds")
        for name, least in (("candidates", 1), ("first_look", 2)):
            if getattr(self, name) is not None:
                require_whole_numbers(self, name, least=least)
        if not is_number(self.group_size):
            raise NasError(f"group_size is {self.group_size!r}; give a whole number from 1 or a share in (0, 1]")
        Greedy(self.group_size)
        if self.margin is not None and (not is_number(self.margin) or not 0 < self.margin <= 1):
            raise NasError(f"margin is {self.margin!r}; it must be a quantile, above 0 and at most 1")

    def search(self) -> dict[str, Any]:
        """By the names that `nas.evolve` has for them, but for the number of training steps at the end."""
        names = ("train_steps", "probe_steps", "margin", "group_size", "candidates", "exchanges")
        return {name: getattr(self, name) for name in (*names, "first_look", "max_rounds")}


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(_Training):
    """The slim decoder, see `nas.decoder`; with 0 `training_steps` as it was pruned and refitted.

    Attributes:
        keep: share of the channels to keep, or one for each level.
        refit_latents: on how many of the data's latents channels are chosen and weights refitted; 0 for neither. They
            are decoded at once: when None as many as have a megapixel together, at most 32.
        fresh_latents: learn on latents sampled on the fly, as many as wanted, instead of on the data's.
        pool_size: latents sampled at a time.
        pool_steps: training steps that they serve for.
        latency_ms: of the slim decoder, where the table's device is elsewhere; measured when None.
    """

    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    ema_decay: float | None = 0.99
    keep: float | Sequence[float] = 0.5
    refit_latents: int | None = None
    fresh_latents: bool = True
    pool_size: int = 64
    pool_steps: int = 64
    latency_ms: float | None = None
    _least_training_steps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole_numbers(self, "pool_size", "pool_steps")
        require_switches(self, "fresh_latents")
        require_positive(self, "latency_ms")
        shares = [self.keep] if is_number(self.keep) else self.keep
        if not are_numbers(shares) or not all(0 < share <= 1 for share in shares):
            raise NasError(f"keep is {self.keep!r}; it must be a number above 0 and up to 1, or one for each level")
        if self.refit_latents is not None:
            require_whole_numbers(self, "refit_latents", least=0)


@dataclass(frozen=True, kw_only=True)
class StepSettings(_Training):
    """Step distillation, see `nas.training.distil_route`. `training_steps` are those of each distillation.

    Attributes:
        route: steps of sampling after each distillation, the last those of the recipe; twice those and those when None.
            One number is the direct route.
        fold: fold the guidance into the UNet, so that a step is one evaluation instead of two.
        teacher_steps: None for two steps of the teacher at once; more than the route's steps for multistep consistency
            distillation, see `nas.training.distil_steps`.
        v_training_steps: of the training to v-prediction, where the pipeline predicts noise.
        zero_snr: see `nas.training.to_v_prediction`.
        guided_share: how many samples have the CFG-aware loss, see `nas.training.distil_steps`.
        guidance_range: of their guidance; None: half to one and a half times the recipe's, at least 1.
        balanced: weigh them so that large guidance does not decide alone.
        original_share: gamma of L_ori.
    """

    route: Sequence[int] | None = None
    fold: bool = False
    teacher_steps: int | None = None
    v_training_steps: int = 2000
    zero_snr: bool = True
    guided_share: float | None = None
    guidance_range: Sequence[float] | None = None
    balanced: bool = False
    original_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole_numbers(self, "v_training_steps")
        require_switches(self, "fold", "zero_snr", "balanced")
        if self.route is not None and not is_route(self.route):
            raise NasError(f"route is {self.route!r}; it must be numbers of steps that descend, at least one")
        between = self.guidance_range
        if between is not None and not (are_numbers(between) and len(between) == 2):
            raise NasError(f"guidance_range is {between!r}; it must be two numbers, the least and the largest guidance")
        told = {"guided_share": self.guided_share, "guidance_range": between and tuple(between)}
        StepDistillationSettings(
            student_steps=1,
            teacher_steps=self.teacher_steps,
            original_share=self.original_share,
            **{name: value for name, value in told.items() if value is not None},
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Quality against guidance, see `nas.evaluate`: the model as it was and as it has become, side by side.

    Attributes:
        prompts: texts, or a file of them; `captions/test.json` in the pipeline's folder when None.
        max_prompts: how many of them: of a file drawn at random, of a list the first.
        real: folder of real pictures; `pictures/test.png` in the pipeline's folder when None.
        guidance_scales: any numbers of at least 0; those of the paper's curves, 1 to 10 in halves, when None.
        inception: TorchScript network for FID; no FID when None.
        batch_size: prompts at a time.
    """

    prompts: Texts | None = None
    max_prompts: int = 256
    real: str | os.PathLike[str] | None = None
    guidance_scales: Sequence[float] | None = None
    inception: str | os.PathLike[str] | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        require_whole_numbers(self, "max_prompts", "batch_size")
        require_paths(self, "real", "inception")
        scales = self.guidance_scales
        if scales is not None and not (are_numbers(scales) and min(scales) >= 0):
            raise NasError(f"guidance_scales are {scales!r}; they must be numbers of at least 0, at least one")
