"""What runtimes other than torch share: a module with its inputs as a graph that takes tensors only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from nas.errors import DeviceError
from nas.latency.devices._torch import moved, placed
from nas.unet import torch_dtype


@dataclass(frozen=True)
class Exported:
    """An exported module.

    Attributes:
        program: takes `tensors` in this order and gives a flat tuple of tensors.
        tensors: contiguous inputs in the precision, on the CPU.
        weight_mb: parameters and buffers, once.
    """

    program: torch.export.ExportedProgram
    tensors: tuple[torch.Tensor, ...]
    weight_mb: float


class TensorsOnly(nn.Module):
    """A module whose inputs are the tensors among its arguments, in order; numbers, None and structure are bound.

    Runtimes make inputs of unknown rank from arguments that are no tensors, or refuse them.

    Args:
        module: takes `module(*args, **kwargs)`.
        args: positional inputs.
        kwargs: inputs by name; mappings of tensors may be among them.
    """

    def __init__(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        leaves, self._structure = pytree.tree_flatten((tuple(args), dict(kwargs)))
        self._places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self._bound = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors among what the module gives."""
        leaves = list(self._bound)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._structure)
        return tuple(tensors_of(self.module(*args, **kwargs)))


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors in a tensor, tuple, mapping or diffusers output, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def export(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, precision: str, name: str) -> Exported:
    """`torch.export` a module with its inputs in a precision; the caller's module is left as it is.

    Args:
        module: takes `module(*args, **kwargs)`.
        args: positional inputs.
        kwargs: inputs by name.
        precision: of weights and inputs.
        name: the device's, for errors.

    Raises:
        DeviceError: the module cannot be exported.
    """
    cpu, dtype = torch.device("cpu"), torch_dtype(precision)
    with explained(name, precision), torch.no_grad(), quiet():
        module = placed(module, cpu, dtype)
        args, kwargs = moved((tuple(args), dict(kwargs)), cpu, dtype)
        tensors = tuple(tensor.contiguous() for tensor in tensors_of((args, kwargs)))
        program = torch.export.export(TensorsOnly(module, args, kwargs).eval(), tensors, strict=False)
    weights = [*module.parameters(), *module.buffers()]
    return Exported(program, tensors, sum(t.numel() * t.element_size() for t in weights) / 2**20)


@contextmanager
def explained(name: str, precision: str) -> Iterator[None]:
    """Turn whatever a converter or a runtime raises into an error that says where.

    Exporters and runtimes have no common family of exceptions, hence the wide net.
    """
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(f"{name} cannot run this in {precision}: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's exporters from saying what nobody here can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(_without_torchvision)
    try:
        with warnings.catch_warnings():
            # torch copies its own tree specifications in a way that it has deprecated itself.
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", category=FutureWarning)
            yield
    finally:
        registration.removeFilter(_without_torchvision)


def _without_torchvision(record: logging.LogRecord) -> bool:
    # It lists torchvision's operators, which no UNet has, where torchvision is not installed.
    return "torchvision" not in record.getMessage()
