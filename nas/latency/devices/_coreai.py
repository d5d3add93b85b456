"""Core AI: Apple's newer stack (coreai-torch, coreai-core), which converts and executes on Linux as well."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch

from nas._files import replacing
from nas.errors import DeviceError, MissingRuntimeError
from nas.latency.devices._apple import AppleDevice
from nas.latency.devices._device import require_precision
from nas.latency.devices._export import Exported, explained, export
from nas.latency.devices._first_runs import after_first_runs
from nas.latency.devices._machine import machine
from nas.latency.devices._waiting import Waiting
from nas.unet import with_attention

if TYPE_CHECKING:
    from torch import nn


def convert_to_coreai(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    precision: str = "fp16",
    attention: str = "original",
) -> None:
    """Convert a module to a Core AI asset. Runs wherever Core AI is installed.

    Args:
        module: takes `module(*args, **kwargs)`; it is left as it is.
        args: positional arguments of the shapes to convert for.
        kwargs: arguments by name, likewise.
        path: the asset to write, a folder named `.aimodel`.
        precision: of weights, inputs and outputs: "fp32", "fp16" or "bf16".
        attention: "original", "split-einsum" or "split-einsum-chunks", see `nas.unet.with_attention`.

    Raises:
        DeviceError: path or precision is none of these, or the module cannot be converted.
        MissingRuntimeError: Core AI is not installed.
        ModelError: the attention is unknown.
        StorageError: the asset cannot be written.
    """
    require_precision(precision)
    if not str(path).endswith(".aimodel"):
        raise DeviceError(f"cannot write {path}: a Core AI asset is a folder whose name ends with .aimodel")
    exported = export(with_attention(module, attention), args, kwargs, precision=precision, name="Core AI")
    with replacing(path) as temporary, explained("Core AI", precision):
        _program(exported).save_asset(temporary)


def _program(exported: Exported) -> Any:
    coreai_torch = _coreai_torch()
    with warnings.catch_warnings():
        # It warns of releases of torch that it was not tested with, and of what it folds.
        warnings.simplefilter("ignore")
        decomposed = exported.program.run_decompositions(coreai_torch.get_decomp_table())
        return coreai_torch.TorchConverter().add_exported_program(decomposed).to_coreai()


class CoreAIDevice(AppleDevice):
    """The CPU under the runtime that comes with `coreai-core`.

    Args:
        attention: "original", "split-einsum" or "split-einsum-chunks", put into whatever is measured.

    Raises:
        MissingRuntimeError: Core AI is not installed.
        ModelError: the attention is unknown.
    """

    def __init__(self, *, attention: str = "original") -> None:
        super().__init__("coreai-cpu", attention)
        _coreai_torch()
        self._waiting = Waiting()

    def provenance(self) -> dict[str, str | int | float]:
        """Machine and versions."""
        return self._provenance({**machine(), "threads": "as Core AI chooses"}, "coreai-core", "coreai-torch")

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> CoreAIRunnable:
        """See `Device.load`. Weights, inputs and outputs are in the precision."""
        require_precision(precision)
        module = with_attention(module, self.attention)
        exported = export(module, args, kwargs, precision=precision, name=self.name)
        opened = _Opened(self._waiting)
        try:
            with explained(self.name, precision):
                program = _program(exported)
                # Files of their own, so that instances do not share weights.
                assets = [program.save_asset(opened.folder / f"{number}.aimodel") for number in range(instances)]
                functions = [opened.function(asset) for asset in assets]
                runnable = CoreAIRunnable(functions, exported, opened, (self.name, precision))
                return after_first_runs(runnable, instances)
        except BaseException:
            opened.close()
            raise


class _Opened:
    """Files of programs and what is loaded from them; both go when it is closed or no longer used."""

    def __init__(self, waiting: Waiting) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nas-coreai-"))
        self._waiting, self._stack = waiting, AsyncExitStack()
        self.close = weakref.finalize(self, _close, waiting, self._stack, self.folder)

    def function(self, asset: Any) -> Any:
        """The program's function, loaded."""
        return self._waiting.run(self._function(asset))

    async def _function(self, asset: Any) -> Any:
        # Elsewhere than on a Mac only this compiles the asset; a plain load expects that somebody did.
        model = await self._stack.enter_async_context(asset.executable())
        return model.load_function(model.function_names[0])

    def wait(self, coroutine: Any) -> Any:
        """Run it to its end."""
        return self._waiting.run(coroutine)


def _close(waiting: Waiting, stack: AsyncExitStack, folder: Path) -> None:
    waiting.finish(_closed(stack, folder))


async def _closed(stack: AsyncExitStack, folder: Path) -> None:
    await stack.aclose()
    shutil.rmtree(folder, ignore_errors=True)


class CoreAIRunnable:
    """Instances of a program that are run in turn; their files go with it."""

    def __init__(self, functions: list[Any], exported: Exported, opened: _Opened, conditions: tuple[str, str]) -> None:
        self.weight_mb = exported.weight_mb * len(functions)
        names = exported.program.graph_signature.user_inputs
        wanted = functions[0].desc.input_names
        arrays = {name: _array(tensor) for name, tensor in zip(names, exported.tensors, strict=True)}
        self._inputs = {name: array for name, array in arrays.items() if name in wanted}
        self._functions, self._turns, self._opened = functions, cycle(functions), opened
        self._conditions = conditions

    def run_ms(self) -> float:
        """The next instance, by the wall clock."""
        return self._run(next(self._turns))[1]

    def output(self) -> torch.Tensor:
        """See `Runnable.output`."""
        outputs, _ = self._run(self._functions[0])
        first = outputs[self._functions[0].desc.output_names[0]]
        return torch.from_numpy(first.numpy().astype("float32"))

    def _run(self, function: Any) -> tuple[Mapping[str, Any], float]:
        with explained(*self._conditions):
            return self._opened.wait(self._timed(function))

    async def _timed(self, function: Any) -> tuple[Mapping[str, Any], float]:
        start = perf_counter_ns()
        outputs = await function(self._inputs)
        return outputs, (perf_counter_ns() - start) / 1e6


def _array(tensor: torch.Tensor) -> Any:
    from coreai.runtime import NDArray

    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        # NumPy has no bf16 of its own: the same bits, under another name.
        return NDArray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    # Its integers have 32 bits, also where the program was exported with 64.
    return NDArray((tensor if tensor.is_floating_point() else tensor.int()).numpy())


def _coreai_torch() -> Any:
    """The package, imported when it is needed."""
    try:
        with warnings.catch_warnings():
            # It warns of releases of torch that it was not tested with.
            warnings.simplefilter("ignore")
            import coreai.runtime  # noqa: F401
            import coreai_torch
    except ImportError as error:
        raise MissingRuntimeError("Core AI is not installed; pip install 'nas[coreai]'") from error
    return coreai_torch
