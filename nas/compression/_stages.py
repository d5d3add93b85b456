"""The stages that train: each takes the model as the one before left it, and leaves its result in its folder."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from nas._files import remove_leftovers, replacing
from nas._fingerprint import fingerprint_of_modules
from nas.compression._inputs import Model
from nas.compression._plan import Plan, standing_of
from nas.compression._records import Outcome, Record, once
from nas.compression._settings import DecoderSettings, EvolutionSettings, RobustSettings, StepSettings
from nas.decoder import GivenLatents, SampledLatents, compare_decoders, distil_decoder
from nas.pipelines import load_part
from nas.search import Evolution, evolve
from nas.supernet import Supernet
from nas.training import distil_route, robust_train, to_v_prediction
from nas.training.losses import prediction_type

UNET, VAE, SCHEDULER = "unet", "vae", "scheduler"
# Settings that say how much memory a training takes, not what comes of it.
_OF_MEMORY = ("accumulate", "gradient_checkpointing", "check_memory")


class Stage(ABC):
    """A stage that changes the model.

    Args:
        plan: what an image takes.

    Attributes:
        name: of the recipe's field with its settings, and of its folder.
        settings: what it is told.
    """

    name: str

    def __init__(self, plan: Plan) -> None:
        self.plan, self.inputs, self.recipe = plan, plan.inputs, plan.recipe
        self.settings = getattr(self.recipe, self.name)
        self.folder = self.recipe.folder / self.name

    def run(self, model: Model) -> tuple[Model, Record]:
        """Do the work, or read what was done; the model is not changed.

        The result is read from the folder either way, so that a run that went on is the run that never stopped.
        """
        record = once(self.folder, self.name, self._identity(model), lambda: self._outcome(model))
        for checkpoint in self.folder.glob("*.pt"):
            checkpoint.unlink()
        return self.read(model), record

    @abstractmethod
    def work(self, model: Model) -> Outcome:
        """Train, and keep the result in the folder; go on with what a checkpoint there has."""

    @abstractmethod
    def read(self, model: Model) -> Model:
        """The model with the result in it."""

    def told(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return {name: value for name, value in asdict(self.settings).items() if name not in _OF_MEMORY}

    def given(self) -> dict[str, Any]:
        """What decides the result beside settings, inputs and the model."""
        return {}

    def _identity(self, model: Model) -> dict[str, Any]:
        return {
            **self.inputs.identity(),
            "settings": self.told(),
            "model": fingerprint_of_modules(model.unet, model.vae),
            **self.given(),
        }

    def _outcome(self, model: Model) -> Outcome:
        outcome, after = self.work(model), self.read(model)
        standing = standing_of(self.inputs, after, self.plan.image_with(after))
        return Outcome(outcome.training_steps, {**outcome.figures, "model": standing})

    def _options(self, checkpoint: str) -> dict[str, Any]:
        """Of a training with the stage's settings."""
        kept = {"seed": self.recipe.seed, "checkpoint": self.folder / checkpoint}
        return {**self.settings.options(), **kept, **self.inputs.accelerator()}

    def _keep(self, network: Any, name: str) -> None:
        remove_leftovers(self.folder / name)
        with replacing(self.folder / name) as temporary:
            network.save_pretrained(temporary)


class RobustTraining(Stage):
    """The UNet learns to do without any of its blocks."""

    name = "robust_training"
    settings: RobustSettings

    def work(self, model: Model) -> Outcome:
        """See `Stage.work`."""
        inputs, settings = self.inputs, self.settings
        unet = copy.deepcopy(model.unet)
        skip = settings.schedule(inputs.lut.space)
        log = robust_train(
            Supernet(unet, inputs.lut.space, skip_probability=skip, seed=self.recipe.seed),
            inputs.pipe.unet,
            inputs.data,
            scheduler=model.scheduler,
            steps=settings.training_steps,
            data_weight=settings.data_weight,
            feature_weight=settings.feature_weight,
            **self._options("training.pt"),
        )
        self._keep(unet, UNET)
        return Outcome(len(log.losses))

    def read(self, model: Model) -> Model:
        """See `Stage.read`."""
        return replace(model, unet=self.inputs.read_unet(self.folder / UNET))


class Evolving(Stage):
    """The UNet becomes one that fits the budget."""

    name = "evolution"
    settings: EvolutionSettings

    def work(self, model: Model) -> Outcome:
        """See `Stage.work`."""
        inputs, settings, recipe = self.inputs, self.settings, self.recipe
        # As `nas evolve` does it: in fewer steps than the full model is for, there are many candidates.
        judge = inputs.judge(model, steps=recipe.judge.steps)
        trains = settings.train_steps + settings.probe_steps + settings.training_steps > 0
        found = evolve(
            Supernet(model.unet, inputs.lut.space, seed=recipe.seed),
            inputs.lut,
            budget_ms=self.plan.unet_budget_ms,
            scorer=judge,
            workdir=self.folder / "search",
            seed=recipe.seed,
            data=inputs.data if trains else None,
            teacher=inputs.pipe.unet,
            scheduler=model.scheduler,
            final_steps=settings.training_steps,
            training={**settings.options(), **inputs.accelerator()},
            **settings.search(),
        )
        found.save(self.folder)
        figures = {
            "budget_ms": found.budget_ms,
            "predicted_ms": found.predicted_ms,
            "measured_ms": found.measured_ms,
            "full_measured_ms": None if found.measured_ms is None else found.full_ms,
            "removed": found.removed,
            "added": found.added,
            "architecture": str(found.architecture),
            "candidates": len(found.history),
        }
        return Outcome(self._training_steps(found), figures)

    def read(self, model: Model) -> Model:
        """See `Stage.read`."""
        return replace(model, unet=self.inputs.read_unet(self.folder / UNET))

    def given(self) -> dict[str, Any]:
        """See `Stage.given`."""
        return {"unet_budget_ms": self.plan.unet_budget_ms}

    def _training_steps(self, found: Evolution) -> int:
        # Every round trains once, at its current network; what was not reused and is no end of the search was probed.
        history, settings = found.history, self.settings
        rounds = int(((history.action == "keep") & (history.stage == "complete")).sum())
        probes = int((~history.action.isin(["full", "result"]) & ~history.reused.astype(bool)).sum())
        return settings.training_steps + settings.train_steps * rounds + settings.probe_steps * probes


class Decoding(Stage):
    """The slim decoder, pruned by the plan, learns to give the original's pictures."""

    name = "decoder"
    settings: DecoderSettings

    def work(self, model: Model) -> Outcome:
        """See `Stage.work`."""
        inputs, original = self.inputs, self.inputs.pipe.vae
        slim = self.plan.pruned_vae()
        unseen = inputs.unseen.latents
        pruned = compare_decoders(slim, original, unseen)
        steps = self.settings.training_steps
        log = distil_decoder(slim, original, self._latents(), steps=steps, **self._options("training.pt"))
        self._keep(slim, VAE)
        figures = compare_decoders(slim, original, unseen).figures()
        return Outcome(len(log.losses), {"pictures": {**figures, "mean_psnr_db_pruned": pruned.mean_psnr_db}})

    def read(self, model: Model) -> Model:
        """See `Stage.read`."""
        return replace(model, vae=self.inputs.read_vae(self.folder / VAE), slim=True)

    def given(self) -> dict[str, Any]:
        """See `Stage.given`."""
        # Its result does not depend on the UNet, but its score does.
        return {"pruned": fingerprint_of_modules(self.plan.pruned_vae())}

    def _latents(self) -> GivenLatents | SampledLatents:
        inputs, settings = self.inputs, self.settings
        if not settings.fresh_latents:
            return GivenLatents(inputs.data.latents)
        return SampledLatents(
            inputs.pipe,
            inputs.training_prompts,
            steps=self.recipe.data.steps,
            guidance_scale=self.recipe.guidance_scale,
            batch_size=self.recipe.data.batch_size,
            pool_size=settings.pool_size,
            pool_steps=settings.pool_steps,
        )


class StepDistillation(Stage):
    """Steps become few: first v where noise was predicted, then along the route."""

    name = "step_distillation"
    settings: StepSettings

    def work(self, model: Model) -> Outcome:
        """See `Stage.work`."""
        settings, recipe = self.settings, self.recipe
        teacher, student, scheduler, trained = self._predicting_v(model)
        stages = distil_route(
            teacher,
            self.inputs.data,
            scheduler=scheduler,
            steps=settings.training_steps,
            route=recipe.route,
            student=student,
            fold=settings.fold,
            folder=self.folder,
            guided_share=settings.guided_share,
            guidance_range=recipe.guidance_range,
            balanced=settings.balanced,
            teacher_steps=settings.teacher_steps,
            original_share=settings.original_share,
            seed=recipe.seed,
            **settings.options(),
            **self.inputs.accelerator(),
        )
        self._keep(stages[-1].network, UNET)
        self._keep(scheduler, SCHEDULER)
        figures = {"route": [stage.name for stage in stages], "last_loss": stages[-1].log.losses[-1]}
        return Outcome(trained + sum(len(stage.log.losses) for stage in stages), figures)

    def read(self, model: Model) -> Model:
        """See `Stage.read`."""
        kind, folder = type(model.scheduler), self.folder / SCHEDULER
        scheduler = load_part(kind, folder, "scheduler", file="scheduler_config.json")
        unet = self.inputs.read_unet(self.folder / UNET)
        return replace(model, unet=unet, scheduler=scheduler, steps=self.recipe.steps)

    def told(self) -> dict[str, Any]:
        """See `Stage.told`; what follows from the recipe is the same whether it is said or not."""
        return {**super().told(), "route": self.recipe.route, "guidance_range": self.recipe.guidance_range}

    def _predicting_v(self, model: Model) -> tuple[nn.Module, nn.Module | None, Any, int]:
        """Teacher, student (None for a copy of the teacher), their scheduler, and the training steps that took."""
        teacher = self.inputs.pipe.unet
        student = None if model.unet is teacher else model.unet
        if prediction_type(model.scheduler) != "epsilon":
            return teacher, student, model.scheduler, 0
        networks = {"teacher": copy.deepcopy(teacher)}
        if student is not None:
            networks["student"] = copy.deepcopy(student)
        settings, trained, scheduler = self.settings, 0, model.scheduler
        for name, network in networks.items():
            scheduler, log = to_v_prediction(
                network.eval(),
                self.inputs.data,
                scheduler=model.scheduler,
                steps=settings.v_training_steps,
                zero_snr=settings.zero_snr,
                **self._options(f"v-{name}.pt"),
            )
            trained += len(log.losses)
        return networks["teacher"], networks.get("student"), scheduler, trained


STAGES = (RobustTraining, Evolving, Decoding, StepDistillation)
