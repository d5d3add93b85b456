"""Processes that kill themselves with SIGKILL in the midst of their work, as a machine that is switched off would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


class Fuse:
    """Kills the process at the n-th forward pass of any module of some classes, be it in training or in scoring."""

    def __init__(self, passes: int, of: type[nn.Module] | tuple[type[nn.Module], ...]) -> None:
        self.left, self.of = passes, of
        register_module_forward_pre_hook(self._burn)

    def _burn(self, module: nn.Module, inputs: object) -> None:
        self.left -= isinstance(module, self.of)
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def starts_until_done(
    run: Callable[[], Any], passes: int, of: type[nn.Module] | tuple[type[nn.Module], ...], *, most: int = 50
) -> int:
    """Call something in a process of its own, killed after so many passes, until it comes to its end; how often.

    Processes are forked, so nothing may have been computed yet by this one.
    """
    for starts in range(1, most + 1):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                Fuse(passes, of)
                run()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if status:
                raise RuntimeError(f"start {starts} ended with an error, see above")
            return starts
    raise RuntimeError(f"killed {most} times without coming to an end")
