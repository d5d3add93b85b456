"""Rows without what a call of a program takes: several blocks are timed in one program, and one alone.

Where each block is called by itself in the network as well, as in eager torch, a call is part of what it takes. A
runtime that compiles the network calls it once for all blocks, and one that is fast takes as long for a call as for a
small block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from nas.latency._row import Row

# A module with its inputs.
Subject: TypeAlias = "tuple[nn.Module, Sequence[Any], Mapping[str, Any]]"

# The call is in neither; the more, the less the noise of both counts.
_MOST = 8


class Bundle(nn.Module):
    """Modules side by side, each with inputs of its own, so that a compiler finds nothing that they have in common.

    Args:
        modules: of one kind, with different weights.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.train(modules[0].training)

    def forward(self, *calls: tuple[Sequence[Any], Mapping[str, Any]]) -> tuple[Any, ...]:
        """What each gives for its arguments, positional and by name."""
        return tuple(part(*args, **kwargs) for part, (args, kwargs) in zip(self.parts, calls, strict=True))


def bundle_size(module_mb: float, bundle_mb: float) -> int:
    """How many modules of a size make a bundle; 1 where none is needed, because a call is nothing beside the module.

    Args:
        module_mb: weights and inputs of one.
        bundle_mb: see `Device.bundle_mb`.
    """
    if module_mb <= 0 or 2 * module_mb > bundle_mb:
        return 1
    return min(_MOST, int(bundle_mb / module_mb))


def bundle(make: Callable[[], Subject], size: int) -> Subject:
    """So many modules, made one by one, as one."""
    made = [make() for _ in range(size)]
    calls = tuple(pytree.tree_map(_own, (tuple(args), dict(kwargs))) for _, args, kwargs in made)
    return Bundle([module for module, _, _ in made]), calls, {}


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def row_of_bundle(single: Row, together: Row, size: int) -> Row:
    """What one of a bundle takes more than the call.

    Args:
        single: one module by itself.
        together: the bundle.
        size: how many are in it.
    """
    latency_ms = (together.latency_ms - single.latency_ms) / (size - 1)
    if latency_ms <= 0:  # noise alone can do that
        latency_ms = together.latency_ms / size
    spread_ms = (together.spread_ms**2 + single.spread_ms**2) ** 0.5 / (size - 1)
    drift = max(single.drift, together.drift, key=abs)
    return Row(round(latency_ms, 6), round(spread_ms, 6), min(single.count, together.count), drift)
