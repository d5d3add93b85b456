"""A budget of `nas evolve` that is one for the whole image."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli._values import count, milliseconds
from nas.errors import BudgetError, DeviceError, TableError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from nas.latency import ImageLatency, LatencyTable
    from nas.search import Evolution
    from nas.workload import Workload

KEPT = "image.yaml"


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The budget, of one run of the UNet or of the image, and what the image consists of."""
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget-ms", type=milliseconds, metavar="X", help="latency of one UNet run to get under")
    budget.add_argument(
        "--image-budget-ms", type=milliseconds, metavar="X", help="latency of a whole image to get under"
    )
    parser.add_argument(
        "--image",
        metavar="FILE",
        help="what text encoder and decoder take: a file of ImageLatency.save, or a name of published figures "
        "(default: measured with the pipeline on the table's device)",
    )
    parser.add_argument(
        "--image-steps",
        type=count,
        metavar="N",
        help="denoising steps of the image (default: --steps); with --image, runs of the UNet (default: FILE's)",
    )


@dataclass(frozen=True)
class ImageBudget:
    """A whole image with the time that it may take.

    Attributes:
        image: its parts, with what the table says of the full UNet.
        budget_ms: of the image.
    """

    image: ImageLatency
    budget_ms: float

    @property
    def unet_budget_ms(self) -> float:
        """What this leaves for one run of the UNet."""
        return self.image.unet_budget_ms(self.budget_ms)

    def document(self, result: Evolution) -> dict[str, Any]:
        """Plain data: the budget, the parts, and the image with the UNet before and after."""
        full_ms, measured_ms = self._measured(result)
        return {
            "budget_ms": self.budget_ms,
            "origin": self.image.origin,
            "steps": self.image.steps,
            "unet_runs": self.image.unet_runs,
            "without_unet_ms": self.image.without_unet_ms,
            "full_ms": self._total_ms(result.predicted_full_ms),
            "full_measured_ms": full_ms,
            "predicted_ms": self._total_ms(result.predicted_ms),
            "measured_ms": measured_ms,
        }

    def rows(self, result: Evolution) -> list[tuple[str, str, str]]:
        """The image before and after, for people."""
        predicted = self._total_ms(result.predicted_full_ms), self._total_ms(result.predicted_ms)
        lines = {"image by the table (ms)": predicted, "image, its UNet as measured (ms)": self._measured(result)}
        return [(name, *("-" if ms is None else f"{ms:.2f}" for ms in pair)) for name, pair in lines.items()]

    def __str__(self) -> str:
        image = self.image
        return (
            f"budget of the image: {self.budget_ms:.2f} ms; {image.unet_runs} runs of the UNet, and "
            f"{image.without_unet_ms:.2f} ms {image.origin} for everything else"
        )

    def _measured(self, result: Evolution) -> tuple[float | None, float | None]:
        if result.measured_ms is None:
            return None, None
        return self._total_ms(result.full_ms), self._total_ms(result.measured_ms)

    def _total_ms(self, unet_ms: float) -> float:
        return self.image.with_unet_ms(unet_ms).total_ms


def image_budget(
    options: argparse.Namespace, pipe: DiffusionPipeline, lut: LatencyTable, workload: Workload
) -> ImageBudget | None:
    """What the options say of the image; None where the budget is the UNet's.

    Raises:
        BudgetError: the image's budget cannot be met with this table, or options for an image without a budget for one.
        TableError: the table is for another workload than the image.
        DeviceError: the parts are to be measured and the table's device is not here.
    """
    if options.image_budget_ms is None:
        if stray := next((name for name in ("image", "image_steps") if getattr(options, name) is not None), None):
            raise BudgetError(f"--{stray.replace('_', '-')} says what an image consists of; give --image-budget-ms too")
        return None
    lut.require(workload)
    found = _image(options, pipe, lut, workload)
    found.require(workload)
    if steps := _runs(options, pipe):
        found = replace(found, steps=steps)
    # Where everything else comes from does not change with the UNet, which is the table's.
    found = replace(found.with_unet_ms(lut.latency_ms(lut.space.full)), origin=found.origin)
    asked = ImageBudget(found, options.image_budget_ms)
    _require_attainable(asked, lut)
    return asked


def _runs(options: argparse.Namespace, pipe: DiffusionPipeline) -> int | None:
    """How often the scheduler has the UNet predict for the steps asked for; None leaves it to a given file."""
    from nas._schedulers import scheduled

    if options.image:
        return options.image_steps
    return len(scheduled(pipe.scheduler, options.image_steps or options.steps).timesteps)


def _image(options: argparse.Namespace, pipe: DiffusionPipeline, lut: LatencyTable, workload: Workload) -> ImageLatency:
    from nas.latency import ImageLatency

    if options.image:
        return ImageLatency.load(options.image)
    kept = options.out / KEPT
    # An interrupted run goes on only with the budget that it began with: the parts are not measured again.
    if kept.is_file():
        return _same_conditions(ImageLatency.load(kept), kept, options, pipe, lut)
    image = _measure(options, pipe, lut, workload)
    image.save(kept)
    return image


def _measure(
    options: argparse.Namespace, pipe: DiffusionPipeline, lut: LatencyTable, workload: Workload
) -> ImageLatency:
    from nas.latency import ImageLatency

    try:
        return ImageLatency.measure(
            pipe,
            device=lut.device,
            threads=lut.threads,
            steps=options.image_steps or options.steps,
            guided=_guided(options),
            unet_batch_size=workload.batch_size,
            height=workload.height,
            width=workload.width,
            precision=workload.precision,
        )
    except DeviceError as error:
        raise DeviceError(f"cannot measure the image's other parts: {error}; give them with --image FILE") from error


def _guided(options: argparse.Namespace) -> bool:
    # As diffusers decides it.
    return options.guidance_scale > 1


def _same_conditions(
    image: ImageLatency, path: Path, options: argparse.Namespace, pipe: DiffusionPipeline, lut: LatencyTable
) -> ImageLatency:
    asked = {"device": lut.device, "precision": lut.workload.precision, "scheduler": type(pipe.scheduler).__name__}
    if "threads" in lut.provenance:
        asked["threads"] = lut.provenance["threads"]
    differs = [name for name, value in asked.items() if image.provenance.get(name) != value]
    if (image.text_encoder_runs == 2) != _guided(options):
        differs.append("guidance")
    if differs:
        raise TableError(f"{path} was measured with another {differs[0]}; give another --out")
    return image


def _require_attainable(asked: ImageBudget, lut: LatencyTable) -> None:
    from nas.search import profile

    unet_ms, least_ms = asked.unet_budget_ms, profile(lut.space, lut).smallest_ms
    if unet_ms < least_ms:
        least, full = (asked.image.with_unet_ms(ms).total_ms for ms in (least_ms, asked.image.unet_ms))
        raise BudgetError(
            f"an image in {asked.budget_ms:.2f} ms leaves {unet_ms:.2f} ms for one run of the UNet, which is below the "
            f"smallest network's {least_ms:.2f} ms; attainable for the image is {least:.2f} ms to {full:.2f} ms (the "
            "full network)"
        )
