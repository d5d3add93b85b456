"""Before any training: what an image takes part by part, and what its budget leaves for the UNet.

The slim decoder's latency is known as soon as it is pruned, whatever its weights will be. So pruning comes first, and a
budget that cannot be met is found out before hours are spent.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from nas._files import replacing
from nas.compression._budget import image_of, unet_budget_ms
from nas.compression._inputs import Inputs, Model
from nas.compression._records import Outcome, once
from nas.decoder import count_parameters, prune_decoder
from nas.errors import BudgetError, DeviceError, TableError
from nas.latency import ImageLatency, device_of, measure_decoders_ms
from nas.sampling import pictures_at_once
from nas.search import profile, safety_margin
from nas.supernet import EvolvedUNet

NAME = "plan"
IMAGE, VAE = "image.yaml", "vae"
_MOST_TO_REFIT = 32


class Plan:
    """The parts of the image, and the budget of one run of the UNet.

    Made once for a folder: the parts are not measured again when a run goes on, or its budget would be another.

    Args:
        inputs: of the recipe.

    Attributes:
        record: of this stage.
        parts: the image as it was, measured or given.
        slim_decoder_ms: what the slim decoder takes; None where there is to be none.
        unet_budget_ms: for one run of the UNet with the table's batch size; None without a budget for the image.

    Raises:
        BudgetError: the image's budget cannot be met.
        DeviceError: the parts are to be measured and the table's device is not here.
        SearchError: the folder holds a plan of other settings.
        TableError: the table is for another kind of step.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.recipe, self.lut = inputs, inputs.recipe, inputs.lut
        self.folder = self.recipe.folder / NAME
        self._require_batch()
        self.record = once(self.folder, NAME, self._identity(), self._work)
        self.parts = ImageLatency.load(self.folder / IMAGE)
        self.slim_decoder_ms: float | None = self.record.figures["slim_decoder_ms"]
        self.unet_budget_ms: float | None = self.record.figures["unet_budget_ms"]

    def pruned_vae(self) -> nn.Module:
        """The autoencoder with the slim decoder, not distilled yet."""
        return self.inputs.read_vae(self.folder / VAE)

    def image_with(self, model: Model) -> ImageLatency:
        """The image of a model, its UNet as the table predicts it."""
        return self._image(self.parts, model, self.slim_decoder_ms)

    def _identity(self) -> dict[str, Any]:
        recipe, decoder = self.recipe, self.recipe.decoder
        names = ("keep", "refit_latents", "latency_ms")
        return {
            **self.inputs.identity(),
            "image_budget_ms": recipe.image_budget_ms,
            "steps": recipe.steps,
            "image": recipe.image and asdict(ImageLatency.load(recipe.image)),
            "fold": recipe.folded,
            "evolution": recipe.evolution is not None,
            "decoder": None if decoder is None else {name: getattr(decoder, name) for name in names},
        }

    def _work(self) -> Outcome:
        inputs, original = self.inputs, self.inputs.original
        parts = ImageLatency.load(self.recipe.image) if self.recipe.image else self._measured()
        self._image(parts, original, None).require(self.lut.workload)
        slim_ms = None if self.recipe.decoder is None else self._slim_decoder_ms()
        budget_ms = self._budget(parts, slim_ms)
        parts.save(self.folder / IMAGE)
        standing = standing_of(inputs, original, self._image(parts, original, None))
        figures = {"slim_decoder_ms": slim_ms, "unet_budget_ms": budget_ms, "parts": asdict(parts)}
        return Outcome(figures={**figures, "model": standing})

    def _budget(self, parts: ImageLatency, slim_ms: float | None) -> float | None:
        if self.recipe.image_budget_ms is None:
            return None
        space, lut = self.lut.space, self.lut
        aim = self._image(parts, None, slim_ms)
        image_ms, full_ms, evolution = self.recipe.image_budget_ms, lut.latency_ms(space.full), self.recipe.evolution
        if evolution is None:
            return unet_budget_ms(aim, image_ms, smallest_ms=full_ms, full_ms=full_ms)
        offered = profile(space, lut)
        budget_ms = unet_budget_ms(aim, image_ms, smallest_ms=offered.smallest_ms, full_ms=full_ms)
        margin = 0.0 if evolution.margin is None else safety_margin(lut, evolution.margin)
        try:
            offered.for_budget(budget_ms, safety_margin=margin)  # as the evolution would, hours later
        except BudgetError as error:
            raise BudgetError(
                f"an image in {image_ms:.2f} ms leaves {budget_ms:.2f} ms for the UNet: {error}"
            ) from error
        return budget_ms

    def _image(self, parts: ImageLatency, model: Model | None, slim_ms: float | None) -> ImageLatency:
        """The image with a model; with None, as it is to be in the end but for its UNet, which is the full one."""
        recipe = self.recipe
        return image_of(
            parts,
            steps=recipe.steps if model is None else model.steps,
            unet_ms=self.lut.latency_ms(self.lut.space.full if model is None else architecture_of(model, self.lut)),
            unet_batch_size=self.lut.workload.batch_size,
            decoder_ms=slim_ms if model is None or model.slim else None,
            guided=recipe.guided,
            folded=recipe.folded if model is None else model.folded,
        )

    def _require_batch(self) -> None:
        batch_size, guided = self.lut.workload.batch_size, self.recipe.guided and not self.recipe.folded
        if batch_size not in ((1, 2) if guided else (1,)):
            why = "the guidance is folded into the UNet" if self.recipe.folded else "there is no guidance"
            why = why if not guided else "a guided picture is one run with two samples or two runs with one"
            raise TableError(
                f"the table was measured with batch size {batch_size}, but {why}: measure one with batch size "
                f"{2 if guided else 1}"
            )

    def _measured(self) -> ImageLatency:
        recipe = self.recipe
        try:
            return measured_image(self.inputs, self.inputs.original, folded_later=recipe.folded)
        except DeviceError as error:
            raise DeviceError(f"cannot measure the image's parts: {error}; give them with image") from error

    def _slim_decoder_ms(self) -> float:
        inputs, settings, workload = self.inputs, self.recipe.decoder, self.lut.workload
        try:
            # Before latents are sampled, which takes longer than to find out that the device is elsewhere.
            device = None if settings.latency_ms is not None else device_of(self.lut)
            slim = self._pruned()
            if device is None:
                return settings.latency_ms
            size = {"height": workload.height, "width": workload.width, "precision": workload.precision}
            rows = measure_decoders_ms(
                {"original": inputs.pipe.vae, "slim": slim}, **size, device=device, timing=self.recipe.timing
            )
        except DeviceError as error:
            raise DeviceError(f"cannot measure the slim decoder: {error}; give decoder.latency_ms") from error
        return rows["slim"].latency_ms

    def _pruned(self) -> nn.Module:
        inputs, settings = self.inputs, self.recipe.decoder
        vae, latents, count = inputs.pipe.vae, None, settings.refit_latents
        if count != 0:
            sampled = inputs.data.latents
            latents = sampled[: count or min(_MOST_TO_REFIT, pictures_at_once(vae, sampled.shape))]
        slim = prune_decoder(vae, settings.keep, latents=latents)
        with replacing(self.folder / VAE) as temporary:
            slim.save_pretrained(temporary)
        return slim


def architecture_of(model: Model, lut: Any) -> Any:
    """Which blocks a model's UNet has."""
    return model.unet.architecture if isinstance(model.unet, EvolvedUNet) else lut.space.full


def standing_of(inputs: Inputs, model: Model, image: ImageLatency) -> dict[str, Any]:
    """What a record says of the model after a stage."""
    score = inputs.judge(model)(model.unet)
    return {
        "steps": model.steps,
        "unet_runs": image.unet_runs,
        "unet_ms": image.unet_ms,
        "decoder_ms": image.decoder_ms,
        "image_ms": image.total_ms,
        "unet_parameters": count_parameters(model.unet),
        "decoder_parameters": count_parameters(model.vae.decoder),
        "clip_score": score.mean,
        "clip_score_low": score.low,
        "clip_score_high": score.high,
        "clip_scores": score.values,
    }


def measured_image(inputs: Inputs, model: Model, *, folded_later: bool = False) -> ImageLatency:
    """Measure what an image of a model takes, part by part, under the table's conditions.

    Args:
        inputs: of the recipe.
        model: the model.
        folded_later: the table is for the UNet with folded guidance, which this is not: a step is then one run with two
            samples, as in diffusers.

    Raises:
        DeviceError: the table's device is not here.
    """
    recipe, workload = inputs.recipe, inputs.lut.workload
    guided = recipe.guided and not model.folded
    return ImageLatency.measure(
        inputs.pipeline_of(model),
        device=inputs.lut.device,
        threads=inputs.lut.threads,
        steps=model.steps,
        guided=guided,
        unet_batch_size=None if folded_later else workload.batch_size,
        height=workload.height,
        width=workload.width,
        precision=workload.precision,
        timing=recipe.timing,
    )
