"""Decoders that compete for a place in a pipeline, measured beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nas.errors import ModelError
from nas.latency._canary import bench_on
from nas.latency._network import PATIENT, as_device
from nas.latency._row import Row
from nas.latency._timing import Timing

if TYPE_CHECKING:
    from torch import nn

    from nas.latency.devices import Device


def measure_decoders_ms(
    vaes: Mapping[str, nn.Module],
    *,
    height: int,
    width: int,
    batch_size: int = 1,
    precision: str = "fp32",
    device: str | Device = "torch-cpu",
    timing: Timing | None = None,
) -> dict[str, Row]:
    """Measure what autoencoders take to decode, in turns, so that the same machine is seen by all.

    Args:
        vaes: by name, diffusers autoencoders of the same latents; they are left as they are.
        height: rows of the latent.
        width: its columns.
        batch_size: pictures at a time.
        precision: "fp32", "fp16" or "bf16".
        device: where to measure, name or device.
        timing: how long to measure; four passes, in turns there and back, when None.

    Returns:
        by name, the time of decoding one batch.

    Raises:
        ModelError: there is no autoencoder, or they take different latents.
        DeviceError: the device is not here or cannot run one of them.
    """
    import torch

    from nas.latency._image_measuring import Decoding

    channels = {vae.config.latent_channels for vae in vaes.values()}
    if len(channels) != 1:
        raise ModelError(f"latents have {sorted(channels)} channels; give autoencoders of the same latents")
    device = as_device(device)
    shape = (batch_size, channels.pop(), height, width)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    loaders = {
        name: partial(device.load, Decoding(vae), (latents,), {}, precision=precision) for name, vae in vaes.items()
    }
    bench = bench_on(device, precision, timing or replace(PATIENT, passes=4))
    return bench.measure_all(loaders, description=f"Measuring decoders on {device.name}")
