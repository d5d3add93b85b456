"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nas.errors import DeviceError
from nas.latency.devices._device import require_precision
from nas.latency.devices._export import Exported, explained, export, quiet
from nas.latency.devices._exporting import ExportedRunnable, ExportingDevice, needing
from nas.latency.devices._first_runs import after_first_runs

if TYPE_CHECKING:
    from torch import nn

_PROVIDERS = ["CPUExecutionProvider"]
# A session's first run finds out how much memory each tensor takes and the second allocates that in one piece; in both
# the system has to provide new pages. SD-v1.5's UNet takes 40 % longer in them than in all later ones.
_UNTYPICAL_RUNS = 2
# From here on it matters how often weights are in memory.
_LARGE_MB = 256.0


class OnnxRuntimeDevice(ExportingDevice):
    """ONNX Runtime's CPU provider, all graph optimisations on, one operator at a time.

    Modules go through `torch.export` and `torch.onnx.export`. Each instance is a session with weights of its own; the
    inputs are bound once, and the outputs stay with the runtime.

    What is loaded has run twice before it is timed, see `_UNTYPICAL_RUNS`.

    A session's threads wait actively during a run, as in a deployed network, but not after it: else those of one
    instance would take the cores from the next (`session.force_spinning_stop`).

    Args:
        threads: intra-op threads; as many as torch uses when None.

    Raises:
        DeviceError: ONNX Runtime or what exports to it is not installed.
    """

    name = "onnxruntime-cpu"

    def __init__(self, *, threads: int | None = None) -> None:
        with needing(self.name, "onnxruntime"):
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
        super().__init__(threads=threads)
        self._runtime = onnxruntime
        self._opset = "none yet"

    def provenance(self) -> dict[str, str | int | float]:
        """Machine, threads, versions, session options, and the opset of what was exported."""
        options = {"inter_op_threads": 1, "execution": "sequential", "optimization": "all"}
        found = {"provider": _PROVIDERS[0], "spinning": "during runs", "opset": self._opset}
        return self.provenance_with("onnxruntime", "onnx", "onnxscript", **options, **found)

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> OnnxRuntimeRunnable:
        """See `Device.load`."""
        require_precision(precision)
        if precision != "fp32":
            raise DeviceError(
                f"{self.name} computes in fp32 only: its CPU kernels have no {precision}, or cast to fp32 and back "
                "around each operator; measure with precision='fp32'"
            )
        exported = export(module, args, kwargs, precision=precision, name=self.name)
        with explained(self.name, precision), _temporary_folder() as folder:
            apart = instances == 1 and exported.weight_mb > _LARGE_MB
            path = self._written(exported, Path(folder), apart=apart)
            bound = [self._bound(self._session(path), exported) for _ in range(instances)]
            runnable = OnnxRuntimeRunnable(bound, exported, device=self.name, precision=precision)
        return after_first_runs(runnable, instances, each=_UNTYPICAL_RUNS)

    def _written(self, exported: Exported, folder: Path, *, apart: bool) -> Path:
        path = folder / "module.onnx"
        with quiet():
            program = torch.onnx.export(exported.program, (), dynamo=True, verbose=False, optimize=True)
        # As a protobuf message weights are in memory several times over while they are written and read. In a file of
        # their own they would be mapped into memory, and several sessions would share its pages.
        program.save(path, external_data=apart)
        self._opset = str(program.model.opset_imports.get("", "unknown"))
        return path

    def _session(self, path: Path) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors only
        return self._runtime.InferenceSession(str(path), options, providers=_PROVIDERS)

    def _bound(self, session: Any, exported: Exported) -> tuple[Any, Any]:
        binding = session.io_binding()
        for node, tensor in zip(session.get_inputs(), exported.tensors, strict=True):
            # The value stands on the tensor's memory, which the runnable keeps.
            binding.bind_ortvalue_input(node.name, self._runtime.OrtValue.ortvalue_from_numpy(tensor.numpy()))
        for node in session.get_outputs():
            binding.bind_output(node.name, "cpu")
        return session, binding


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    # Windows does not remove files that are still mapped into memory.
    return tempfile.TemporaryDirectory(prefix="nas-onnx-", ignore_cleanup_errors=True)


class OnnxRuntimeRunnable(ExportedRunnable):
    """Sessions with inputs and outputs bound."""

    def execute(self, instance: tuple[Any, Any]) -> None:
        """Run a session with what is bound to it."""
        session, binding = instance
        session.run_with_iobinding(binding)

    def output_of(self, instance: tuple[Any, Any]) -> torch.Tensor:
        """The runtime's memory, copied."""
        _, binding = instance
        return torch.from_numpy(binding.get_outputs()[0].numpy().copy()).float()
