"""From a torch module to a Core ML program, and reading such a program back. Runs on any operating system."""

from __future__ import annotations

import io
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nas._files import replacing
from nas.errors import DeviceError
from nas.latency.devices._coreml_runtime import coremltools, without_log
from nas.latency.devices._device import require_precision
from nas.latency.devices._export import Exported, explained, export
from nas.unet import with_attention

if TYPE_CHECKING:
    from torch import nn

TARGETS = ("iOS17", "iOS18")
_PRECISIONS = {"fp32": "FLOAT32", "fp16": "FLOAT16"}
DTYPES = {"FLOAT16": np.float16, "FLOAT32": np.float32, "INT32": np.int32}
# By the names of the types in Core ML's program format (MIL.proto).
_BYTES = {"FLOAT16": 2, "FLOAT32": 4, "FLOAT64": 8}


@dataclass(frozen=True)
class CoreMLProgram:
    """What a Core ML program is, read from the package itself.

    Attributes:
        specification: version of the file format: 8 for iOS 17, 9 for iOS 18.
        opset: version of the operations, such as "CoreML7".
        inputs: name -> shape and type, such as ((2, 4, 64, 64), "FLOAT16"), in the module's order.
        outputs: likewise.
        operations: how often each operation stands in it, constants left out.
        result_types: how many results of these operations have each type.
        weight_bytes: of all constants with a floating type.
    """

    specification: int
    opset: str
    inputs: dict[str, tuple[tuple[int, ...], str]]
    outputs: dict[str, tuple[tuple[int, ...], str]]
    operations: Counter[str]
    result_types: Counter[str]
    weight_bytes: int

    def document(self) -> dict[str, Any]:
        """The same as plain lists, dicts and numbers, for JSON or YAML."""
        features = {
            name: {at: {"shape": list(shape), "type": kind} for at, (shape, kind) in found.items()}
            for name, found in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        counts = {"operations": dict(self.operations), "result_types": dict(self.result_types)}
        numbers = {"specification": self.specification, "opset": self.opset, "weight_bytes": self.weight_bytes}
        return {**numbers, **features, **counts}


def convert_to_coreml(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    target: str = "iOS17",
    precision: str = "fp16",
    attention: str = "original",
) -> CoreMLProgram:
    """Convert a module to a Core ML package. Runs on any operating system; nothing is loaded or compiled.

    Inputs, outputs, weights and all operations have the precision:

        block = space.block("down.1.attention.0")
        args, kwargs = block_inputs(block, Workload.of(space))
        program = convert_to_coreml(make_block(block), args, kwargs, "block.mlpackage", attention="split-einsum")
        print(program.operations)

    Args:
        module: takes `module(*args, **kwargs)`; it is left as it is.
        args: positional arguments of the shapes to convert for.
        kwargs: arguments by name, likewise.
        path: the package to write, a folder named `.mlpackage`.
        target: "iOS17" (macOS 14) or "iOS18" (macOS 15): the oldest system that it shall run on.
        precision: "fp16" or "fp32"; Core ML has no bf16.
        attention: "original", "split-einsum" or "split-einsum-chunks", see `nas.unet.with_attention`.

    Returns:
        what was written, read back.

    Raises:
        DeviceError: path, target or precision is none of these, or the module cannot be converted.
        MissingRuntimeError: coremltools is not installed.
        ModelError: the attention is unknown.
        StorageError: the package cannot be written.
    """
    require_target(target)
    require_coreml_precision(precision)
    exported = export_for_coreml(module, args, kwargs, attention=attention)
    write_coreml(exported, path, target=target, precision=precision)
    return read_coreml(path)


def export_for_coreml(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, attention: str = "original"
) -> Exported:
    """Export a module as coremltools wants it: in fp32, as its own constants are; it makes fp16 of all of it.

    Raises:
        DeviceError: the module cannot be exported.
    """
    return export(with_attention(module, attention), args, kwargs, precision="fp32", name="Core ML")


def write_coreml(exported: Exported, path: str | os.PathLike[str], *, target: str, precision: str) -> None:
    """Convert what was exported into a package.

    Raises:
        DeviceError: the path is not named `.mlpackage`, or coremltools cannot convert this.
        MissingRuntimeError: coremltools is not installed.
    """
    if not str(path).endswith(".mlpackage"):
        raise DeviceError(f"cannot write {path}: a Core ML package is a folder whose name ends with .mlpackage")
    ct = coremltools()
    kind = _PRECISIONS[precision]
    types = [DTYPES[kind if tensor.is_floating_point() else "INT32"] for tensor in exported.tensors]
    with replacing(path) as temporary, explained(f"Core ML for {target}", precision), _quiet(), _cleared():
        ct.convert(
            exported.program.run_decompositions({}),
            inputs=[ct.TensorType(dtype=dtype) for dtype in types],
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.precision[kind],
            skip_model_load=True,
            package_dir=str(temporary),
        )


def coreml_inputs(exported: Exported, program: CoreMLProgram) -> dict[str, np.ndarray]:
    """The tensors that were exported as a program takes them: by name, in its shapes and types."""
    given = dict(zip(exported.program.graph_signature.user_inputs, exported.tensors, strict=True))
    found = {}
    for name, (shape, kind) in program.inputs.items():
        # coremltools makes vectors of numbers without an axis, such as a timestep, and adds to their name.
        source = next(key for key in given if name == key or name.startswith(f"{key}_wrapped"))
        found[name] = given[source].reshape(shape).numpy().astype(DTYPES[kind])
    return found


def require_target(target: str) -> None:
    """Refuse what is no target.

    Raises:
        DeviceError: it is none of `TARGETS`.
    """
    if target not in TARGETS:
        raise DeviceError(f"target is {target!r}; choose one of {', '.join(TARGETS)}")


def require_coreml_precision(precision: str) -> None:
    """Refuse what Core ML does not compute in.

    Raises:
        DeviceError: the precision is neither "fp16" nor "fp32".
    """
    require_precision(precision)
    if precision not in _PRECISIONS:
        raise DeviceError(f"Core ML has no {precision}; choose fp16 or fp32")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without coremltools' progress bars, its notes, and NumPy's on how it rounds constants and casts them."""
    with warnings.catch_warnings(), without_log(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _cleared() -> Iterator[None]:
    """After an error, remove coremltools' temporary folder; it leaves that to the garbage collector, which warns."""
    try:
        yield
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        raise


def read_coreml(path: str | os.PathLike[str]) -> CoreMLProgram:
    """Read a package back, on any operating system.

    Raises:
        MissingRuntimeError: coremltools is not installed.
    """
    spec = coremltools().utils.load_spec(str(path))
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    running = [operation for operation in operations if operation.type != "const"]
    results = [_type(output) for operation in running for output in operation.outputs]
    constants = [_type(op.outputs[0]) for op in operations if op.type == "const"]
    return CoreMLProgram(
        spec.specificationVersion,
        function.opset,
        {feature.name: _feature(feature) for feature in spec.description.input},
        {feature.name: _feature(feature) for feature in spec.description.output},
        Counter(operation.type for operation in running),
        Counter(name for _, name in results),
        sum(prod(shape) * _BYTES[name] for shape, name in constants if name in _BYTES),
    )


def _type(value: Any) -> tuple[tuple[int, ...], str]:
    kind = value.type.tensorType
    names = type(kind).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return tuple(dimension.constant.size for dimension in kind.dimensions), names[kind.dataType].name


def _feature(feature: Any) -> tuple[tuple[int, ...], str]:
    array = feature.type.multiArrayType
    names = type(array).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return tuple(array.shape), names[array.dataType].name
