"""Core ML's packages for a machine that is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.latency.devices._apple import AppleDevice
from nas.latency.devices._coreml_program import DTYPES, convert_to_coreml, require_target
from nas.latency.devices._machine import versions
from nas.unet import check_attention

if TYPE_CHECKING:
    from torch import nn


class CoreMLConverter:
    """Writes modules as Core ML packages, on any operating system.

    Args:
        target: "iOS17" (macOS 14) or "iOS18" (macOS 15): the oldest system that they shall run on.
        attention: "original", "split-einsum" or "split-einsum-chunks", put into whatever is converted.

    Raises:
        DeviceError: the target is unknown.
        ModelError: the attention is unknown.
    """

    runtime = "coreml"
    suffix = ".mlpackage"
    working_set_mb = AppleDevice.working_set_mb
    bundle_mb = AppleDevice.bundle_mb
    keep_mb = AppleDevice.keep_mb

    def __init__(self, *, target: str = "iOS17", attention: str = "original") -> None:
        require_target(target)
        check_attention(attention)
        self.target, self.attention = target, attention

    @property
    def variant(self) -> str:
        """What `get_device` has behind a device's name, such as "+iOS18+split-einsum"."""
        chosen = {"iOS17": self.target, "original": self.attention}
        return "".join(f"+{choice}" for usual, choice in chosen.items() if choice != usual)

    def provenance(self) -> dict[str, str | int | float]:
        """Target, versions, and the attention unless it is the modules' own."""
        attention = {} if self.attention == "original" else {"attention": self.attention}
        return {"target": self.target, **attention, **versions("coremltools", "torch", "diffusers")}

    def write(
        self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, precision: str, path: Path
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Convert a module into a package; its inputs by name, as shape and NumPy type. See `convert_to_coreml`."""
        program = convert_to_coreml(
            module, args, kwargs, path, target=self.target, precision=precision, attention=self.attention
        )
        return {name: (shape, DTYPES[kind].__name__) for name, (shape, kind) in program.inputs.items()}
