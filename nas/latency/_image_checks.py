"""What the fields of an image's latency may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from nas.errors import TableError

if TYPE_CHECKING:
    from nas.latency._image import ImageLatency
    from nas.workload import Workload

ORIGINS = ("measured", "published", "given")
_RUNS = ("steps", "text_encoder_runs", "unet_runs_per_step", "decoder_runs")
_NOT_NEGATIVE = ("text_encoder_ms", "decoder_ms", "step_overhead_ms", "constant_ms")


def check_image(image: ImageLatency) -> None:
    """Refuse what no image can be.

    Raises:
        TableError: names the first field that is wrong.
    """
    for name in _RUNS:
        _require_count(name, getattr(image, name))
    for name in _NOT_NEGATIVE:
        require_ms(name, getattr(image, name), least="0 or more")
    require_ms("unet_ms", image.unet_ms, least="more than 0")
    if image.reported_total_ms is not None:
        require_ms("reported_total_ms", image.reported_total_ms, least="more than 0")
    if image.unet_batch_size is not None:
        _require_count("unet_batch_size", image.unet_batch_size)
    elif image.unet_runs_per_step != 1:
        raise TableError("unet_runs_per_step must be 1 where unet_batch_size is unknown: unet_ms is a whole step's")
    if image.origin not in ORIGINS:
        raise TableError(f"origin is {image.origin!r}; choose one of {', '.join(ORIGINS)}")
    _require_scalars(image.provenance)


def require_ms(name: str, value: object, *, least: str) -> None:
    """Refuse what is no finite time; `least` is "0 or more" or "more than 0"."""
    if not is_finite_number(value) or value < 0 or (value == 0 and least != "0 or more"):
        raise TableError(f"{name} is {value!r}; it must be a finite number of ms, {least}")


def is_finite_number(value: object) -> bool:
    """Whether it is a number, neither True nor False, and finite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _require_scalars(provenance: object) -> None:
    if not isinstance(provenance, Mapping):
        raise TableError(f"provenance is {type(provenance).__name__}; it must be a mapping")
    if wrong := [name for name, value in provenance.items() if not isinstance(value, str | int | float)]:
        raise TableError(f"provenance.{wrong[0]} must be text or a number")


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TableError(f"{name} is {value!r}; it must be a whole number of at least 1")


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
    for name, asked in (("resolution", f"{workload.height}x{workload.width}"), ("precision", workload.precision)):
        if (known := image.provenance.get(name)) not in (None, asked):
            raise TableError(f"the image's parts are of {name} {known}, not {asked}; measure them for {name} {asked}")
