"""What a recipe is made of, read and checked before anything long begins."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_texts
from nas._prompts import read_prompts
from nas.compression._recipe import Recipe
from nas.compression._settings import Texts
from nas.errors import ModelError, NasError
from nas.latency import LatencyTable
from nas.pipelines import load_part, load_pipeline, load_unet
from nas.quality import Clip, ClipScore, picture_files, read_sheet
from nas.resources import bundled, models_dir
from nas.sampling import (
    check_prompts,
    ddim_scheduler,
    fingerprint_of_schedule,
    placed_like,
    placement,
    require_text_to_image,
)
from nas.search import fingerprint_of_latencies
from nas.training import TrainingData, synthetic_data
from nas.training.losses import prediction_type
from nas.unet import check_unet, folded_width
from nas.workload import Workload


@dataclass(frozen=True, eq=False)
class Model:
    """The pipeline as it stands after a stage.

    Attributes:
        unet: its network.
        vae: its autoencoder.
        scheduler: DDIM, with the prediction type of the network.
        steps: with which it is sampled.
        slim: whether the decoder is the slim one.
    """

    unet: nn.Module
    vae: nn.Module
    scheduler: Any
    steps: int
    slim: bool = False

    @property
    def folded(self) -> bool:
        """Whether the UNet is told the guidance."""
        return folded_width(self.unet) is not None


class Inputs:
    """Pipeline, table, texts and judges of a recipe.

    Raises:
        ModelError: pipeline, UNet or CLIP model are missing, damaged or unsuitable.
        NasError: there are no prompts or pictures where the recipe says.
        TableError: there is no such table, or it is for other pictures than the pipeline's.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise NasError("the recipe runs in one process; train with several by nas.training and accelerate launch")
        self.pipe = _pipeline(recipe.pipeline, recipe.compute_on)
        require_text_to_image(self.pipe)
        predicts = prediction_type(self.pipe.scheduler)
        if recipe.step_distillation is not None and predicts not in ("epsilon", "v_prediction"):
            raise ModelError(f"the pipeline predicts {predicts!r}; steps are distilled of 'epsilon' or 'v_prediction'")
        if placement(self.pipe.unet)[1] == torch.float16:
            raise ModelError("the pipeline is in float16; load it in float32 and train with mixed_precision='fp16'")
        if folded_width(self.pipe.unet) is not None:
            raise ModelError("the pipeline's UNet is told the guidance already; compress the one it was made from")
        self.lut = recipe.lut if isinstance(recipe.lut, LatencyTable) else LatencyTable.load(recipe.lut)
        self._require_table()
        self.start = self._start()
        self.training_prompts = self._texts("data", recipe.data, "train")
        self.judging_prompts = self._texts("judge", recipe.judge, "validation")
        if recipe.evaluation is not None:
            self.evaluation_prompts = self._texts("evaluation", recipe.evaluation, "test")
            self.real = self._real(recipe.evaluation.real)
            inception = recipe.evaluation.inception
            if inception is not None and not Path(inception).is_file():
                raise ModelError(f"there is no file {inception}; evaluation.inception must name a TorchScript network")
        self.clip = Clip.load(recipe.judge.clip or self._home("clip", "judge.clip"))
        self.clip.model.to(placement(self.pipe.unet)[0])
        self.accelerator()  # refuses before anything long begins what it would refuse then

    @cached_property
    def original(self) -> Model:
        """The pipeline as it was given."""
        return Model(self.pipe.unet, self.pipe.vae, ddim_scheduler(self.pipe.scheduler), self.recipe.full_steps)

    @cached_property
    def data(self) -> TrainingData:
        """Latents of the training prompts, sampled once for a folder."""
        return self._sampled(self.training_prompts, "latents.safetensors", seed=self.recipe.seed)

    @cached_property
    def unseen(self) -> TrainingData:
        """Latents of the judging prompts, from noise that no latent to train on started from."""
        return self._sampled(self.judging_prompts, "judging_latents.safetensors", seed=self.recipe.seed + 1)

    def _sampled(self, prompts: list[str], file: str, *, seed: int) -> TrainingData:
        recipe = self.recipe
        options = {"steps": recipe.data.steps, "guidance_scale": recipe.guidance_scale, "seed": seed}
        options["batch_size"] = recipe.data.batch_size
        return synthetic_data(self.pipe, prompts, path=recipe.folder / "data" / file, **options)

    def judge(self, model: Model, *, steps: int | None = None) -> ClipScore:
        """CLIP score in the place of a model: its autoencoder, scheduler and steps, the recipe's prompts and noise."""
        return ClipScore(
            self.pipeline_of(model),
            clip=self.clip,
            prompts=self.judging_prompts,
            steps=steps or model.steps,
            guidance_scale=self.recipe.guidance_scale,
            seed=self.recipe.seed,
            batch_size=self.recipe.judge.batch_size,
        )

    def accelerator(self) -> dict[str, Any]:
        """What trains in mixed precision, as an option of `nas.training`, a new one for each stage; or nothing.

        Raises:
            NasError: this process has trained in another precision before.
        """
        if self.recipe.mixed_precision is None:
            return {}
        from accelerate import Accelerator

        on_cpu = placement(self.pipe.unet)[0].type == "cpu"
        try:
            # Everything lies where the pipeline does already.
            options = {"cpu": on_cpu, "device_placement": False}
            return {"accelerator": Accelerator(mixed_precision=self.recipe.mixed_precision, **options)}
        except ValueError as error:
            raise NasError(
                f"cannot train in {self.recipe.mixed_precision} here: {error} (accelerate keeps to the first precision "
                "of a process; start another one)"
            ) from error

    def pipeline_of(self, model: Model) -> Any:
        """The pipeline with a model's parts; the one that was given is left as it is."""
        pipe = copy.copy(self.pipe)
        for name in ("unet", "vae", "scheduler"):
            setattr(pipe, name, getattr(model, name))
        return pipe

    def read_unet(self, folder: Path) -> nn.Module:
        """A network that a stage kept, where the pipeline's own is."""
        return placed_like(load_unet(folder), self.pipe.unet)

    def read_vae(self, folder: Path) -> nn.Module:
        """An autoencoder that a stage kept, likewise."""
        from diffusers import AutoencoderTiny

        from nas.decoder import SlimAutoencoderKL

        kind = AutoencoderTiny if isinstance(self.pipe.vae, AutoencoderTiny) else SlimAutoencoderKL
        vae = load_part(kind, folder, "autoencoder", use_safetensors=True)
        return placed_like(vae, self.pipe.vae).eval()

    def identity(self) -> dict[str, Any]:
        """What decides every stage's result or its judgement, by fingerprint."""
        recipe, data, judge = self.recipe, self.recipe.data, self.recipe.judge
        return {
            "pipeline": fingerprint_of_modules(self.pipe.unet, self.pipe.vae, self.pipe.text_encoder),
            "scheduler": fingerprint_of_schedule(self.pipe.scheduler),
            "start": fingerprint_of_modules(self.start),
            "table": fingerprint_of_latencies(self.lut.space, self.lut),
            "seed": recipe.seed,
            "guidance_scale": recipe.guidance_scale,
            "full_steps": recipe.full_steps,
            "mixed_precision": recipe.mixed_precision,
            "data": {"prompts": fingerprint_of_texts(self.training_prompts), "steps": data.steps},
            "judge": {
                "prompts": fingerprint_of_texts(self.judging_prompts),
                "steps": judge.steps,
                "clip": self.clip.fingerprint(),
            },
        }

    def _require_table(self) -> None:
        # Latents are sampled, and judged, in the UNet's own size.
        lut = self.lut
        check_unet(self.pipe.unet, lut.space)
        asked = {"batch_size": lut.workload.batch_size, "precision": lut.workload.precision}
        lut.require(Workload.of(lut.space, **asked, context_length=self.pipe.tokenizer.model_max_length))

    def _start(self) -> nn.Module:
        """The UNet to start from."""
        if self.recipe.unet is None:
            return self.pipe.unet
        unet = placed_like(load_unet(self.recipe.unet), self.pipe.unet)
        if self.recipe.robust_training is not None or self.recipe.evolution is not None:
            check_unet(unet, self.lut.space)
        if folded_width(unet) is not None:
            raise ModelError(f"the UNet in {self.recipe.unet} is told the guidance already; start from another one")
        return unet

    def _texts(self, field: str, settings: Any, split: str) -> list[str]:
        """A stage's prompts: those of its settings, or what comes with the pipeline."""
        prompts: Texts | None = settings.prompts
        if prompts is None:
            prompts = self._home(f"captions/{split}.json", f"{field}.prompts")
        if not isinstance(prompts, str | os.PathLike):
            return check_prompts(prompts)[: settings.max_prompts]
        options = {"count": settings.max_prompts, "seed": self.recipe.seed}
        return read_prompts(Path(prompts), option=f"{field}.prompts", **options)

    def _real(self, folder: str | os.PathLike[str] | None) -> np.ndarray | str | os.PathLike[str]:
        if folder is not None:
            picture_files(folder)  # refuses now what would be refused after hours
            return folder
        return read_sheet(self._home("pictures/test.png", "evaluation.real").parents[1], "test")

    def _home(self, name: str, field: str) -> Path:
        """A file or folder that comes with the pipeline."""
        home = getattr(self.pipe, "name_or_path", None)
        if not home or not (Path(home) / name).exists():
            where = f"there is no {name} in {home}" if home else "the pipeline was not read from a folder"
            raise NasError(f"{where}; say with {field} what to take")
        return Path(home) / name


def _pipeline(given: Any, device: str | None) -> Any:
    """A pipeline; a text is a folder, or the name of one that comes along."""
    if not isinstance(given, str | os.PathLike):
        if device is not None:
            raise NasError("compute_on is for a pipeline that is read from a folder; this one lies where it lies")
        return given
    named = not Path(given).exists() and (models_dir() / given).is_dir()
    return load_pipeline(bundled(str(given)) if named else given, compute_on=device)
