"""OpenVINO on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nas.errors import DeviceError
from nas.latency.devices._device import require_precision
from nas.latency.devices._export import Exported, explained, export, quiet
from nas.latency.devices._exporting import ExportedRunnable, ExportingDevice, needing
from nas.latency.devices._first_runs import after_first_runs
from nas.workload import PRECISIONS

if TYPE_CHECKING:
    from torch import nn

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# So few that a part is long against the clock's microseconds, and none is the fastest by chance alone.
_PARTS = 64
_ASKED_BACK = ("NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING")


class OpenVinoDevice(ExportingDevice):
    """OpenVINO's CPU plugin, for latency: one stream, shapes fixed, the precision as asked.

    Left alone the plugin computes fp32 models in bf16 where the CPU can, so the precision is set; one that the plugin
    has no kernels for, and would replace by another, is refused. Each instance is compiled from weights of its own; the
    inputs are bound once, and the outputs stay with the runtime. What is loaded has run once before it is timed.

    Args:
        threads: of inference; as many as torch uses when None.

    Raises:
        DeviceError: OpenVINO is not installed.
    """

    name = "openvino-cpu"

    def __init__(self, *, threads: int | None = None) -> None:
        with needing(self.name, "openvino"), _without_telemetry():
            import openvino
        super().__init__(threads=threads)
        self._openvino, self._core = openvino, openvino.Core()
        # A model read from files would otherwise be mapped into memory, and instances would share its pages.
        self._core.set_property({"ENABLE_MMAP": False})
        self._compiled: dict[str, str] = {}
        self._executed: set[str] = set()

    def provenance(self) -> dict[str, str | int | float]:
        """Machine, threads, versions, what was asked of the plugin, and what it says it compiled."""
        asked = {"performance_hint": "LATENCY", "perf_count": "on", "shapes": "static"}
        executed = {"executed_in": ", ".join(sorted(self._executed)) or "none yet"}
        return self.provenance_with("openvino", **asked, **self._compiled, **executed)

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> OpenVinoRunnable:
        """See `Device.load`. Weights, inputs and outputs are in the precision."""
        self._require(precision)
        exported = export(module, args, kwargs, precision=precision, name=self.name)
        with explained(self.name, precision):
            model = self._converted(exported)
            compiled = [self._compile(each, precision) for each in self._copies(model, instances)]
            self._note(compiled[0], precision)
            requests = [self._request(each, exported) for each in compiled]
            runnable = OpenVinoRunnable(requests, exported, device=self.name, precision=precision)
        return after_first_runs(runnable, instances)

    def _require(self, precision: str) -> None:
        require_precision(precision)
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision.upper() not in able:
            names = ", ".join(name for name in PRECISIONS if name.upper() in able)
            raise DeviceError(
                f"{self.name} has no kernels for {precision} on this CPU and would compute in another precision; "
                f"it has {names}"
            )

    def _converted(self, exported: Exported) -> Any:
        with quiet(), _without_telemetry():
            model = self._openvino.convert_model(exported.program)
        # Inputs come out with dynamic shapes, for which the plugin would plan anew.
        sizes = [self._openvino.PartialShape(list(tensor.shape)) for tensor in exported.tensors]
        model.reshape(dict(zip(model.inputs, sizes, strict=True)))
        return model

    def _copies(self, model: Any, instances: int) -> Iterator[Any]:
        # `Model.clone` would share the constants, and the plugin keeps some of them as they are.
        yield model
        if instances > 1:
            with tempfile.TemporaryDirectory(prefix="nas-openvino-") as folder:
                path = Path(folder) / "module.xml"
                self._openvino.save_model(model, path, compress_to_fp16=False)
                for _ in range(instances - 1):
                    yield self._core.read_model(path)

    def _compile(self, model: Any, precision: str) -> Any:
        properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Two looks at the clock for each operation.
            "PERF_COUNT": True,
        }
        return self._core.compile_model(model, "CPU", properties)

    def _note(self, compiled: Any, precision: str) -> None:
        asked, got = _HINTS[precision], compiled.get_property("INFERENCE_PRECISION_HINT")
        if got != getattr(self._openvino.Type, asked):
            raise DeviceError(f"{self.name} was asked for {asked} and compiled for {got}")
        if self._compiled.get("inference_precision_hint") != asked:
            # Of another table that the device was used for before.
            self._executed.clear()
        self._compiled = {name.lower(): str(compiled.get_property(name)) for name in _ASKED_BACK}
        self._compiled["inference_precision_hint"] = asked
        for node in compiled.get_runtime_model().get_ops():
            self._executed.add(_text(node.get_rt_info()["runtimePrecision"]))

    def _request(self, compiled: Any, exported: Exported) -> Any:
        request = compiled.create_infer_request()
        for index, tensor in enumerate(exported.tensors):
            request.set_input_tensor(index, self._tensor(tensor))
        return request

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if tensor.dtype != torch.bfloat16:
            return self._openvino.Tensor(tensor.numpy(), shared_memory=True)
        # NumPy has no bf16: the same bits under another name.
        return self._openvino.Tensor(tensor.view(torch.int16).numpy(), tensor.shape, self._openvino.Type.bf16)


class OpenVinoRunnable(ExportedRunnable):
    """Requests with inputs bound."""

    def run_parts_ms(self) -> tuple[float, ...]:
        """See `RunnableInParts`; a part is some consecutive operations.

        What the plugin says of them adds up to a percent more or less than the whole, which is divided in proportion.
        """
        whole_ms, instance = self._timed()
        with explained(self._device, self._precision):
            operations_ms = [info.real_time / timedelta(milliseconds=1) for info in instance.get_profiling_info()]
        parts_ms = np.array([part.sum() for part in np.array_split(operations_ms, _PARTS)])
        # Where nothing takes a microsecond there are no parts to tell apart.
        shares = parts_ms / parts_ms.sum() if parts_ms.any() else np.full(_PARTS, 1 / _PARTS)
        return tuple((whole_ms * shares).tolist())

    def execute(self, instance: Any) -> None:
        """Run a request; its outputs stay with the runtime."""
        instance.infer(share_outputs=True)

    def output_of(self, instance: Any) -> torch.Tensor:
        """The runtime's memory, copied."""
        found = instance.get_output_tensor(0)
        dtype = _DTYPES[found.element_type.get_type_name()]
        return torch.frombuffer(bytearray(found.data.tobytes()), dtype=dtype).reshape(tuple(found.shape)).float()


def _text(value: Any) -> str:
    return value.astype(str) if hasattr(value, "astype") else str(value)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    # The package reports its import over the network, and the converter its use, unless this is continuous integration
    # or somebody opted out on this machine.
    known = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if known is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = known
