"""A stand-in for Core ML's runtime where there is none: it interprets converted programs in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nas.latency.devices import read_coreml
from nas.latency.devices._coreml_runtime import coremltools


class FakeCoreML:
    """A `nas.latency.devices.CoreMLRuntime` for machines without Core ML.

    It reads the packages that it is given, refuses inputs that do not fit the program, interprets the operations in
    float32, and says that each takes a microsecond and runs on the unit that was asked for.
    """

    name = ""

    def provenance(self) -> dict[str, str | int | float]:
        """A machine that does not exist."""
        return {"hardware": "none", "os": "none", "python": "none"}

    def load(self, package: Path, unit: str) -> FakeCoreMLProgram:
        """See `nas.latency.devices.CoreMLRuntime.load`."""
        return FakeCoreMLProgram(package, unit)


class FakeCoreMLProgram:
    """A converted program, as it lies on disk."""

    def __init__(self, package: Path, unit: str) -> None:
        self.summary, self.unit = read_coreml(package), unit
        self._function = _function(package)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, in the program's types."""
        self._require_fitting(inputs)
        values = {name: _computed(torch.from_numpy(array)) for name, array in inputs.items()}
        for operation in self._function.operations:
            if operation.op_type != "const":
                _interpret(operation, values)
        return {
            name: values[name].numpy().reshape(shape).astype(kind.lower())
            for name, (shape, kind) in self.summary.outputs.items()
        }

    def predict_ms(self, inputs: Mapping[str, np.ndarray]) -> float:
        """A microsecond an operation; nothing is computed."""
        self._require_fitting(inputs)
        return 1e-3 * self.summary.operations.total()

    def _require_fitting(self, inputs: Mapping[str, np.ndarray]) -> None:
        given = {name: (array.shape, array.dtype.name.upper()) for name, array in inputs.items()}
        if given != self.summary.inputs:
            raise ValueError(f"the program takes {self.summary.inputs}, not {given}")

    def placement(self) -> Counter[tuple[str, str]]:
        """Everything where it was asked for."""
        return Counter({(operation, self.unit): count for operation, count in self.summary.operations.items()})


def _function(package: Path) -> Any:
    model = coremltools().models.MLModel(str(package), skip_model_load=True)
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = model.get_spec()
    return load(spec, spec.specificationVersion, model.weights_dir).functions["main"]


def _interpret(operation: Any, values: dict[str, torch.Tensor]) -> None:
    given = {name: _value(found, values) for name, found in operation.inputs.items() if found is not None}
    found = _OPERATIONS[operation.op_type](**given)
    results = found if isinstance(found, tuple) else (found,)
    for output, result in zip(operation.outputs, results, strict=True):
        assert result.shape == tuple(output.shape), f"{operation.op_type} gave {result.shape}, not {output.shape}"
        values[output.name] = result


def _value(found: Any, values: dict[str, torch.Tensor]) -> Any:
    """An operation's input: a tensor where it is floating or was computed, else what Python has for it."""
    if isinstance(found, list | tuple):
        return [_value(item, values) for item in found]
    if found.val is None:
        return values[found.name]
    constant = np.asarray(found.val)
    return _computed(torch.from_numpy(constant.copy())) if constant.dtype.kind == "f" else constant.tolist()


def _computed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    strides: list[int] | int = 1,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | int = 1,
    groups: int = 1,
) -> torch.Tensor:
    if pad_type == "custom":
        top, bottom, left, right = pad
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != "valid":
        raise NotImplementedError(f"padding {pad_type}")
    return F.conv2d(x, weight, bias, strides, 0, dilations, groups)


def _matmul(x: torch.Tensor, y: torch.Tensor, transpose_x: bool = False, transpose_y: bool = False) -> torch.Tensor:
    return (x.transpose(-1, -2) if transpose_x else x) @ (y.transpose(-1, -2) if transpose_y else y)


def _layer_norm(
    x: torch.Tensor,
    axes: list[int],
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    epsilon: torch.Tensor | float = 1e-5,
) -> torch.Tensor:
    centred = x - x.mean(axes, keepdim=True)
    found = centred / (centred.square().mean(axes, keepdim=True) + epsilon).sqrt()
    return found * (1 if gamma is None else gamma) + (0 if beta is None else beta)


def _batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    epsilon: torch.Tensor | float = 1e-5,
) -> torch.Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def _split(
    x: torch.Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[torch.Tensor, ...]:
    return x.split(split_sizes, axis) if split_sizes else x.chunk(num_splits, axis)


def _reshape(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _expand_dims(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: torch.Tensor, axes: list[int] | None = None) -> torch.Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes)


def _slice(
    x: torch.Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> torch.Tensor:
    axes = range(x.dim())
    no = [False] * x.dim()
    stride, begin_mask, end_mask = stride or [1] * x.dim(), begin_mask or no, end_mask or no
    squeeze_mask = squeeze_mask or no
    return x[
        tuple(
            begin[at]
            if squeeze_mask[at]
            else slice(None if begin_mask[at] else begin[at], None if end_mask[at] else end[at], stride[at])
            for at in axes
        )
    ]


def _upsample(x: torch.Tensor, scale_factor_height: Any, scale_factor_width: Any) -> torch.Tensor:
    return F.interpolate(x, scale_factor=(float(scale_factor_height), float(scale_factor_width)), mode="nearest")


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None
) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value


def _cast(x: torch.Tensor, dtype: str) -> torch.Tensor:
    return x.float() if dtype.startswith("fp") else x.to(getattr(torch, dtype))


# By the names of https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "batch_norm": _batch_norm,
    "cast": _cast,
    "concat": lambda values, axis, interleave=False: torch.cat(values, axis),
    "conv": _conv,
    "cos": lambda x: x.cos(),
    "einsum": lambda values, equation: torch.einsum(equation, *values),
    "exp": lambda x: x.exp(),
    "expand_dims": _expand_dims,
    "gelu": lambda x, mode="EXACT": F.gelu(x, approximate="none" if mode == "EXACT" else "tanh"),
    "identity": lambda x: x,
    "layer_norm": _layer_norm,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "reduce_mean": lambda x, axes, keep_dims=False: x.mean(axes, keepdim=keep_dims),
    "reshape": _reshape,
    "rsqrt": lambda x, epsilon=1e-12: (x + epsilon).rsqrt(),
    "scaled_dot_product_attention": _attention,
    "sigmoid": lambda x: x.sigmoid(),
    "silu": lambda x: F.silu(x),
    "sin": lambda x: x.sin(),
    "slice_by_index": _slice,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": _split,
    "sqrt": lambda x: x.sqrt(),
    "square": lambda x: x.square(),
    "squeeze": _squeeze,
    "sub": lambda x, y: x - y,
    "tile": lambda x, reps: x.repeat(reps),
    "transpose": lambda x, perm: x.permute(perm),
    "upsample_nearest_neighbor": _upsample,
}
