"""The state of a training run, in memory and on disk."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from nas._files import remove_leftovers
from nas._fingerprint import VALUES_PER_TENSOR, fingerprint_of_tensors
from nas.errors import ModelError, SearchError
from nas.sampling import require_whole_number
from nas.training._checkpoint import load_checkpoint, save_checkpoint
from nas.training._settings import Settings, make_optimizer

# How torch names in a `state_dict` what a module keeps besides weights.
_NO_WEIGHT = "_extra_state"


class Run:
    """Network, optimizer, average and losses; read from the checkpoint where there is one, written when one is due.

    Args:
        network: trained in place; parameters that need no gradient are left out.
        settings: of the training.
        steps: in all, those of the checkpoint included.
        identity: what a checkpoint must have been made with, so that going on from it is going on with the same run;
            the weights that the network has now are part of it without being named.
        path: of the checkpoint; None for none.
        every: steps between checkpoints.
        accelerator: only its main process writes; every process reads.

    Raises:
        ModelError: the checkpoint is damaged or of another network.
        SearchError: it is of a run with another identity, that began with other weights, or is longer.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: Settings,
        steps: int,
        identity: dict[str, Any],
        path: str | os.PathLike[str] | None,
        every: int,
        accelerator: Any,
    ) -> None:
        self.network, self.settings, self._identity, self._path = network, settings, identity, path
        self._every, self._accelerator = require_whole_number("every", every), accelerator
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters, settings)
        self.losses: dict[str, list[float]] = {}
        self._average = [] if settings.ema_decay is None else [_whole(p).clone() for p in self.parameters]
        self._start = None if path is None else _fingerprint(network.state_dict())
        if path is not None and accelerator.is_main_process:
            remove_leftovers(path)
        self._resume(steps)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses.get("loss", ()))

    @torch.no_grad()
    def note(self, losses: dict[str, float], *, last: bool) -> None:
        """Count a step: its losses, its weights into the average, and a checkpoint when one is due."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)
        if self._average:
            self._follow(1 - self.settings.ema_decay)
        due = self._path is not None and (last or self.step % self._every == 0)
        if due and self._accelerator.is_main_process:
            save_checkpoint(self._path, self._state())

    def _follow(self, share: float) -> None:
        if all(kept.dtype == now.dtype for kept, now in zip(self._average, self.parameters, strict=True)):
            torch._foreach_lerp_(self._average, self.parameters, share)
            return
        for kept, now in zip(self._average, self.parameters, strict=True):
            kept.lerp_(_whole(now), share)

    @torch.no_grad()
    def finish(self) -> None:
        """Give the network the averaged weights, if they are asked for."""
        for parameter, average in zip(self.parameters, self._average, strict=False):
            parameter.copy_(average)

    def _state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler  # of gradients in fp16
        return {
            "settings": self._identity,
            "start": self._start,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average,
            "losses": self.losses,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _resume(self, steps: int) -> None:
        state = load_checkpoint(self._path, self._identity)
        if state is None:
            return
        if "start" not in state:
            raise ModelError(
                f"the checkpoint {self._path} was written by an older version; delete it, or give another path"
            )
        try:
            self._require_same(state, steps)
            self._start = state["start"]
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._average = [kept.copy_(saved) for kept, saved in zip(self._average, state["average"], strict=True)]
            self.losses = {name: list(losses) for name, losses in state["losses"].items()}
            if self._accelerator.scaler is not None and state["scaler"] is not None:
                self._accelerator.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"the checkpoint {self._path} is of another network; give another path") from error

    def _require_same(self, state: dict[str, Any], steps: int) -> None:
        """Refuse a run that began elsewhere, before the network is changed."""
        reached, averaged = state["network"], dict(state["network"])
        if _shapes(reached) != _shapes(self.network.state_dict()):
            raise ValueError("its weights have other names or shapes")
        names = (name for name, parameter in self.network.named_parameters() if parameter.requires_grad)
        for name, average in zip(names, state["average"], strict=False):
            averaged[name] = average.to(reached[name].dtype)
        # Who calls again with the network as a run left it, to train it longer, goes on with that run, too.
        if self._start not in (state["start"], _fingerprint(reached), _fingerprint(averaged)):
            raise SearchError(
                f"the checkpoint {self._path} is of a run that began with other weights, or the network was left "
                "in the middle of that run; train the network that it began with, delete it, or give another path"
            )
        if (done := len(state["losses"]["loss"])) > steps:
            raise SearchError(
                f"the checkpoint {self._path} has {done} steps, more than the {steps} asked for; delete it or give "
                "another path"
            )


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    # What a module keeps besides weights, such as the step that a supernet is at, takes more bytes as it goes on.
    return {name: tuple(value.shape) for name, value in weights.items() if not name.endswith(_NO_WEIGHT)}


def _fingerprint(weights: dict[str, Tensor]) -> str:
    return fingerprint_of_tensors(sorted(weights.items()), leading=VALUES_PER_TENSOR)


def _whole(parameter: nn.Parameter) -> Tensor:
    """The weights in float32 or better: in half precision an average's small steps would all be rounded away."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
