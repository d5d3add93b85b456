"""What Apple's runtimes share as devices."""

from __future__ import annotations

from nas.latency.devices._machine import versions
from nas.unet import check_attention


class AppleDevice:
    """A runtime that chooses its threads itself and into which an attention is put.

    Args:
        name: of the device with the attention that modules have.
        attention: "original", "split-einsum" or "split-einsum-chunks", see `nas.unet.with_attention`.

    Raises:
        ModelError: the attention is unknown.
    """

    home = "cpu"
    working_set_mb = 64.0
    min_instances = 1
    bundle_mb = 16.0
    # Converting and compiling take seconds.
    keep_mb = 512.0
    usual_precision = "fp32"

    def __init__(self, name: str, attention: str) -> None:
        check_attention(attention)
        self.attention = attention
        self.name = name if attention == "original" else f"{name}+{attention}"

    def _provenance(self, found: dict[str, str | int | float], *packages: str) -> dict[str, str | int | float]:
        # "original" is what the module has, which who built it knows better.
        attention = {} if self.attention == "original" else {"attention": self.attention}
        return {"device": self.name, **found, **attention, **versions(*packages, "torch", "diffusers")}
