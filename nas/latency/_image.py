"""The latency of a whole image: text encoder, UNet, decoder and what lies between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nas.errors import BudgetError, TableError
from nas.latency import _image_storage
from nas.latency._image_checks import check_image, is_finite_number, require_ms, require_workload
from nas.latency._timing import Timing

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

    from nas.latency.devices import Device
    from nas.workload import Workload


@dataclass(frozen=True)
class ImageLatency:
    """What one text-to-image picture takes, part by part.

    The whole is text encoder x its runs + steps x (UNet x its runs a step + what lies between two steps) + decoder x
    its runs + a constant.

    Guidance asks for two predictions a step, with the prompt and without. They can be one execution of the UNet with
    two samples (`unet_batch_size` 2, `unet_runs_per_step` 1: what diffusers does and what a `LatencyTable` of batch
    size 2 predicts), or two executions with one sample each (1 and 2: what some phones' runtimes do, whose models have
    a fixed batch of 1). `unet_ms` is always the time of one *execution*. Use `from_components` to have the runs
    counted.

    Attributes:
        text_encoder_ms: one run of the text encoder (the sum of both where a pipeline has two).
        unet_ms: one execution of the UNet.
        decoder_ms: one run of the image decoder.
        steps: denoising steps.
        text_encoder_runs: 2 under guidance: the prompt and the negative or empty one.
        unet_runs_per_step: executions of the UNet a step.
        decoder_runs: 1 for one picture.
        unet_batch_size: samples in one execution of the UNet. None where a source does not say: its `unet_ms` is then
            that of a whole step, however it was executed, and `unet_runs_per_step` is 1.
        step_overhead_ms: between the UNet's executions of one step and those of the next: scheduler, guidance.
        constant_ms: whatever else an image takes once: tokenizer, loading, conversion of the picture.
        origin: "measured" here, "published" by somebody, or "given" by the caller.
        reported_total_ms: the whole image as measured end to end or as the source gives it, beside `total_ms`.
        provenance: device, conditions and date; for published figures their source, URL and what it does not say.

    Raises:
        TableError: a time or number of runs that cannot be.
    """

    text_encoder_ms: float
    unet_ms: float
    decoder_ms: float
    steps: int
    text_encoder_runs: int = 2
    unet_runs_per_step: int = 1
    decoder_runs: int = 1
    unet_batch_size: int | None = 2
    step_overhead_ms: float = 0.0
    constant_ms: float = 0.0
    origin: str = "given"
    reported_total_ms: float | None = None
    provenance: Mapping[str, str | int | float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_image(self)

    # Where one comes from.

    @classmethod
    def from_components(
        cls,
        *,
        text_encoder_ms: float,
        unet_ms: float,
        decoder_ms: float,
        steps: int,
        guided: bool = True,
        unet_batch_size: int | None = None,
        step_overhead_ms: float = 0.0,
        constant_ms: float = 0.0,
        provenance: Mapping[str, str | int | float] | None = None,
    ) -> ImageLatency:
        """One picture from the times of its parts, with the runs that guidance asks for.

        Args:
            text_encoder_ms: one run of the text encoder.
            unet_ms: one execution of the UNet with `unet_batch_size` samples.
            decoder_ms: one run of the decoder.
            steps: denoising steps.
            guided: whether there is classifier-free guidance: two texts, two predictions a step.
            unet_batch_size: 2 if both predictions are one execution (the default under guidance), 1 if they are two.
                Without guidance it is 1.
            step_overhead_ms: scheduler and guidance, once a step.
            constant_ms: whatever else an image takes.
            provenance: where the figures are from.

        Raises:
            TableError: a time or number cannot be, or a batch of 2 without guidance.
        """
        samples = 2 if guided else 1
        batch_size = samples if unet_batch_size is None else unet_batch_size
        if type(batch_size) is not int or batch_size not in (1, samples):
            choices = "1 or 2 under guidance" if guided else "1 without guidance"
            raise TableError(f"unet_batch_size is {batch_size!r}; for one picture it must be {choices}")
        return cls(
            text_encoder_ms=text_encoder_ms,
            unet_ms=unet_ms,
            decoder_ms=decoder_ms,
            steps=steps,
            text_encoder_runs=samples,
            unet_runs_per_step=samples // batch_size,
            unet_batch_size=batch_size,
            step_overhead_ms=step_overhead_ms,
            constant_ms=constant_ms,
            provenance=dict(provenance or {}),
        )

    @classmethod
    def measure(
        cls,
        pipeline: DiffusionPipeline,
        *,
        device: str | Device = "torch-cpu",
        steps: int = 50,
        guided: bool = True,
        unet_batch_size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        precision: str | None = None,
        threads: int | None = None,
        timing: Timing | None = None,
        step_overhead_ms: float | None = None,
        constant_ms: float = 0.0,
    ) -> ImageLatency:
        """Measure the parts of a diffusers text-to-image pipeline as tables measure blocks: in turns, beside a canary.

        Args:
            pipeline: has `text_encoder`, `tokenizer`, `unet`, `vae`, `scheduler` (and perhaps `text_encoder_2` with its
                tokenizer, as SDXL does). It is left as it is.
            device: name or device.
            steps: denoising steps, as the pipeline is asked for. The result's `steps` are how often the scheduler then
                has the UNet predict: PNDM, which SD-v1.5 comes with, once more, Heun almost twice as often.
            guided: whether there is classifier-free guidance.
            unet_batch_size: see `from_components`.
            height: rows of the latent, not of the picture; the UNet's own when None.
            width: columns of the latent.
            precision: "fp32", "fp16" or "bf16", of all three parts; the device's usual one when None, as for tables.
            threads: CPU threads; as the runtime chooses when None.
            timing: how long to measure.
            step_overhead_ms: scheduler and guidance a step. When None they are timed too, in eager torch where the
                device is at home: also beside a compiled UNet it is Python that calls the scheduler.
            constant_ms: whatever else an image takes; it cannot be seen in the parts. See `with_total`.

        Raises:
            DeviceError: the device is not here, or cannot run a part.
            ModelError: the pipeline lacks a part.
            NasError: the scheduler cannot do so many steps.
            TableError: the workload makes no sense.
        """
        from nas.latency._image_measuring import Conditions, measure_parts
        from nas.latency._network import as_device

        # Refuses steps, batch or overheads that make no sense before anything is measured.
        unknown = {"text_encoder_ms": 1.0, "unet_ms": 1.0, "decoder_ms": 1.0}
        overheads = {"step_overhead_ms": step_overhead_ms or 0.0, "constant_ms": constant_ms}
        counted = cls.from_components(
            **unknown, **overheads, steps=steps, guided=guided, unet_batch_size=unet_batch_size
        )
        samples = counted.text_encoder_runs
        device = as_device(device, threads=threads)
        precision = precision or device.usual_precision
        conditions = Conditions(steps, samples, samples // counted.unet_runs_per_step, height, width, precision)
        parts, provenance = measure_parts(
            pipeline,
            conditions,
            device,
            timing=timing,
            with_step_overhead=step_overhead_ms is None,
        )
        return replace(counted, **parts, origin="measured", provenance=provenance)

    @classmethod
    def published(cls, name: str) -> ImageLatency:
        """Figures that somebody published, from the files that come along; none of them was measured by this library.

        Args:
            name: "iphone-14-pro_sd15", "iphone-14-pro_snapfusion", "iphone-13-pro-max_snapfusion" or
                "iphone-12-pro-max_snapfusion", all from the SnapFusion paper (https://arxiv.org/abs/2306.00980).

        Raises:
            TableError: there is none of that name; the message lists those that there are.
        """
        return cls.load(_image_storage.find_published(name))

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str]) -> ImageLatency:
        """Read a file that `save` wrote, or published figures by name.

        Raises:
            TableError: there is no such file or name, or the file is damaged; the message names file and field.
        """
        path = _image_storage.find_image(path_or_name)
        fields = _image_storage.load_image(path)
        try:
            return cls(**fields)
        except TableError as error:
            raise TableError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as YAML; a file already there is replaced in one step.

        Raises:
            StorageError: the system refuses to write.
        """
        _image_storage.save_image(self, path)

    # What it says.

    @property
    def unet_runs(self) -> int:
        """Executions of the UNet for the whole image."""
        return self.steps * self.unet_runs_per_step

    @property
    def without_unet_ms(self) -> float:
        """The image if its UNet took no time: no budget can be below this."""
        return (
            self.text_encoder_ms * self.text_encoder_runs
            + self.step_overhead_ms * self.steps
            + self.decoder_ms * self.decoder_runs
            + self.constant_ms
        )

    @property
    def total_ms(self) -> float:
        """The whole image."""
        return self.without_unet_ms + self.unet_ms * self.unet_runs

    @property
    def total_error(self) -> float | None:
        """How far the sum of the parts is from `reported_total_ms`, as a signed fraction; None where that is None."""
        return None if self.reported_total_ms is None else self.total_ms / self.reported_total_ms - 1

    def unet_budget_ms(self, image_budget_ms: float) -> float:
        """What one execution of the UNet may take for the image to take `image_budget_ms`.

        It is the `budget_ms` of `nas.evolve` for a table measured with the batch size `unet_batch_size`, see `require`.
        A step has `unet_runs_per_step` such executions:

            image.require(lut.workload)
            result = nas.evolve(supernet, lut, budget_ms=image.unet_budget_ms(2000), ...)
            image.with_unet_ms(result.predicted_ms).total_ms

        Raises:
            BudgetError: it is no positive number of ms, or the rest of the image takes as long without any UNet.
        """
        if not is_finite_number(image_budget_ms) or image_budget_ms <= 0:
            raise BudgetError(f"the image's budget is {image_budget_ms!r}; it must be a positive number of ms")
        budget_ms = (float(image_budget_ms) - self.without_unet_ms) / self.unet_runs
        if budget_ms <= 0:
            raise BudgetError(
                f"no UNet is fast enough for an image in {image_budget_ms:.2f} ms: the rest of the image takes "
                f"{self.without_unet_ms:.2f} ms; attainable is more than that (with this UNet, {self.steps} steps "
                f"of {self.unet_ms * self.unet_runs_per_step:.2f} ms, {self.total_ms:.2f} ms)"
            )
        return budget_ms

    def require(self, workload: Workload) -> None:
        """Refuse a table that does not say what one execution of this image's UNet takes.

        Args:
            workload: the table's, `LatencyTable.workload`.

        Raises:
            TableError: its batch size is not that of one execution, or its latent size or precision not that of the
                parts, where these are known.
        """
        require_workload(self, workload)

    def with_unet_ms(self, unet_ms: float) -> ImageLatency:
        """The same image with another UNet, for example one that a `LatencyTable` of the same batch size predicts.

        What was reported for the whole is not known of it, and it is neither measured nor published as a whole.
        """
        return replace(self, unet_ms=unet_ms, reported_total_ms=None, origin="given")

    def with_total(self, measured_ms: float) -> ImageLatency:
        """The same with the constant that makes `total_ms` what was measured end to end.

        Raises:
            TableError: the parts take longer than that.
        """
        parts_ms = self.total_ms - self.constant_ms
        require_ms("measured_ms", measured_ms, least="more than 0")
        if measured_ms < parts_ms:
            raise TableError(f"measured_ms is {measured_ms:.6g}, below the sum of the parts, {parts_ms:.6g} ms")
        return replace(self, constant_ms=measured_ms - parts_ms, reported_total_ms=measured_ms)

    def breakdown(self) -> pd.DataFrame:
        """One line a part: `component`, `ms` a run, `runs`, `total_ms`, and `share` of the image."""
        import pandas as pd

        parts = (
            ("text encoder", self.text_encoder_ms, self.text_encoder_runs),
            ("UNet", self.unet_ms, self.unet_runs),
            ("between steps", self.step_overhead_ms, self.steps),
            ("decoder", self.decoder_ms, self.decoder_runs),
            ("constant", self.constant_ms, 1),
        )
        lines = [
            {"component": name, "ms": ms, "runs": runs, "total_ms": ms * runs, "share": ms * runs / self.total_ms}
            for name, ms, runs in parts
        ]
        return pd.DataFrame(lines)
