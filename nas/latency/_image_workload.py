"""Whether an image and a latency table speak of the same execution of the UNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.errors import TableError

if TYPE_CHECKING:
    from nas.latency._image import ImageLatency
    from nas.workload import Workload


def require_workload(image: ImageLatency, workload: Workload) -> None:
    """See `ImageLatency.require`."""
    runs = "a whole step" if image.unet_batch_size is None else "one run of its UNet"
    # Of an unknown batch only whole steps are known: all that is predicted in one is then one execution.
    batch_size = image.unet_batch_size or image.text_encoder_runs
    if workload.batch_size != batch_size:
        raise TableError(
            f"in this image {runs} is a batch of {batch_size}, not of {workload.batch_size}; take a table measured "
            f"with batch size {batch_size}, or another image"
        )
    # What is published or given need not say it.
    size, known = f"{workload.height}x{workload.width}", image.provenance.get("resolution")
    if known not in (None, size):
        raise TableError(f"the image's parts are for latents of {known}, not of {size}; measure them for {size}")
