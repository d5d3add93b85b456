"""Where an execution's time goes: a look at the clock between the modules of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

from torch import nn


@contextmanager
def ends_of_parts(module: nn.Module) -> Iterator[list[int]]:
    """The moments, in ns, at which members of the `ModuleList`s inside a module end while it is run.

    Those are a network's stages, their blocks, and the layers inside attention. The module's hooks are its own again
    afterwards.
    """
    ends: list[int] = []

    def note(*_: Any) -> None:
        ends.append(perf_counter_ns())

    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    # Modules may be shared: one hook each. Where an optional one is missing, diffusers has a None in its list.
    members = {id(member): member for members in lists for member in members if member is not None}
    hooks = [member.register_forward_hook(note) for member in members.values()]
    try:
        yield ends
    finally:
        for hook in hooks:
            hook.remove()
