"""What each stage of the recipe is told. A recipe in YAML has these fields, one to one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nas.errors import BudgetError, NasError
from nas.sampling import require_whole_number
from nas.training import Settings

if TYPE_CHECKING:
    from nas.latency import LatencyTable, Timing

_MIXED = ("bf16", "fp16")
Texts = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The latents that everything is trained on: sampled by the pipeline as it is given.

    Attributes:
        prompts: texts, or a file of them; `captions/train.json` in the pipeline's folder when None.
        max_prompts: how many of them, drawn at random.
        steps: DDIM steps of the samples.
    """

    prompts: Texts | None = None
    max_prompts: int = 256
    steps: int = 20

    def __post_init__(self) -> None:
        _whole(self, "max_prompts", "steps")


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The CLIP score that the evolution and the record of every stage go by.

    Attributes:
        prompts: texts, or a file of them; `captions/validation.json` in the pipeline's folder when None.
        max_prompts: how many of them, drawn at random.
        steps: DDIM steps of the pictures that the evolution judges candidates by; records have those of the model.
        clip: folder of the CLIP model; `clip/` in the pipeline's folder when None.
    """

    prompts: Texts | None = None
    max_prompts: int = 32
    steps: int = 10
    clip: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _whole(self, "max_prompts", "steps")


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
    """

    training_steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    accumulate: int = 1
    gradient_checkpointing: bool = False
    _least_training_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _whole(self, "training_steps", least=self._least_training_steps)
        _whole(self, "accumulate")
        Settings(**{name: getattr(self, name) for name in _NUMBERS})  # refuses what makes no sense

    def options(self) -> dict[str, Any]:
        """By the names that `nas.training` has for them, but for the number of steps."""
        return {name: getattr(self, name) for name in (*_NUMBERS, "accumulate", "gradient_checkpointing")}


_NUMBERS = ("batch_size", "learning_rate", "weight_decay", "gradient_clip", "ema_decay")


@dataclass(frozen=True, kw_only=True)
class RobustSettings(_Training):
    """Robust training, see `nas.training.robust_train`; the pipeline's UNet is the teacher.

    Attributes:
        skip_probability: how often a block is skipped, see `nas.Supernet`.
        data_weight: of the data loss beside the distillation loss.
        feature_weight: of the loss of the stages' outputs beside the distillation loss.
    """

    skip_probability: float = 0.1
    data_weight: float = 0.0
    feature_weight: float = 0.0


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

    def search(self) -> dict[str, Any]:
        """By the names that `nas.evolve` has for them, but for the number of training steps at the end."""
        names = ("train_steps", "probe_steps", "margin", "group_size", "candidates", "exchanges")
        return {name: getattr(self, name) for name in (*names, "first_look", "max_rounds")}


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(_Training):
    """The slim decoder, see `nas.decoder`; with 0 `training_steps` as it was pruned and refitted.

    Attributes:
        keep: share of the channels to keep, or one for each level.
        refit_latents: on how many of the data's latents channels are chosen and weights refitted; 0 for neither.
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
    refit_latents: int = 32
    fresh_latents: bool = True
    pool_size: int = 64
    pool_steps: int = 64
    latency_ms: float | None = None
    _least_training_steps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "pool_size", "pool_steps")
        _whole(self, "refit_latents", least=0)


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
        _whole(self, "v_training_steps")
        if self.teacher_steps is not None:
            _whole(self, "teacher_steps")
        route, between = self.route, self.guidance_range
        if route is not None and (not isinstance(route, Sequence) or not all(map(_is_number, route)) or not route):
            raise NasError(f"route is {route!r}; it must be numbers of steps that descend, at least one")
        if between is not None and (len(between) != 2 or not all(map(_is_number, between))):
            raise NasError(f"guidance_range is {between!r}; it must be two numbers, the least and the largest guidance")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Quality against guidance, see `nas.evaluate`: the model as it was and as it has become, side by side.

    Attributes:
        prompts: texts, or a file of them; `captions/test.json` in the pipeline's folder when None.
        max_prompts: how many of them, drawn at random.
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
        _whole(self, "max_prompts", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that `nas.compress` is told; see there."""

    pipeline: Any
    lut: str | os.PathLike[str] | LatencyTable
    out: str | os.PathLike[str]
    image_budget_ms: float | None = None
    steps: int = 8
    full_steps: int = 50
    guidance_scale: float = 5.0
    unet: str | os.PathLike[str] | None = None
    image: str | os.PathLike[str] | None = None
    seed: int = 0
    compute_on: str | None = None
    mixed_precision: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    robust_training: RobustSettings | None = field(default_factory=RobustSettings)
    evolution: EvolutionSettings | None = field(default_factory=EvolutionSettings)
    decoder: DecoderSettings | None = field(default_factory=DecoderSettings)
    step_distillation: StepSettings | None = field(default_factory=StepSettings)
    evaluation: EvaluationSettings | None = field(default_factory=EvaluationSettings)
    timing: Timing | None = None

    def __post_init__(self) -> None:
        _whole(self, "steps", "full_steps")
        _whole(self, "seed", least=0)
        if self.mixed_precision not in (None, *_MIXED):
            raise NasError(f"mixed_precision is {self.mixed_precision!r}; choose {', '.join(_MIXED)}, or leave it out")
        if not _is_number(self.guidance_scale) or self.guidance_scale < 0:
            raise NasError(f"guidance_scale is {self.guidance_scale!r}; it must be a number of at least 0")
        if self.evolution is not None and self.image_budget_ms is None:
            raise BudgetError("the evolution needs a budget: give image_budget_ms, or leave the evolution out")
        if self.folded and self.guidance_scale <= 1:
            raise NasError(f"there is no guidance to fold at guidance_scale {self.guidance_scale!r}; give one above 1")
        if self.step_distillation is not None and self.route[-1] != self.steps:
            raise NasError(f"the route {list(self.route)} must end with the recipe's steps, {self.steps}")
        teacher_steps = self.step_distillation and self.step_distillation.teacher_steps
        if teacher_steps is not None and teacher_steps <= max(self.route):
            raise NasError(f"teacher_steps is {teacher_steps}; it must be more than the route's {list(self.route)}")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.out)

    @property
    def guided(self) -> bool:
        """Whether there is guidance, as diffusers decides it."""
        return self.guidance_scale > 1

    @property
    def folded(self) -> bool:
        """Whether the guidance ends up in the UNet."""
        return self.step_distillation is not None and self.step_distillation.fold

    @property
    def route(self) -> tuple[int, ...]:
        """Steps of sampling after each distillation."""
        given = self.step_distillation and self.step_distillation.route
        return (2 * self.steps, self.steps) if given is None else tuple(given)

    @property
    def guidance_range(self) -> tuple[float, float]:
        """Of the guided samples of step distillation."""
        given = self.step_distillation and self.step_distillation.guidance_range
        if given is None:
            return max(0.5 * self.guidance_scale, 1.0), max(1.5 * self.guidance_scale, 1.0)
        low, high = given
        return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(settings: Any, *names: str, least: int = 1) -> None:
    for name in names:
        require_whole_number(name, getattr(settings, name), least=least)
