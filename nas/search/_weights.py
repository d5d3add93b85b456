"""The supernet's weights in the course of a search: trained between rounds, kept on disk, put back at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nas._files import replacing
from nas.architecture import Architecture
from nas.errors import SearchError

if TYPE_CHECKING:
    from nas.supernet import Supernet

CHECKPOINT = "supernet.safetensors"
NEVER = -1

Train = Callable[["Supernet", int], object]


class Weights:
    """Brings the supernet to the weights of a round: by loading them where they are on disk, by training where not.

    Without training nothing happens to the supernet at all.

    Args:
        supernet: trained in place; `put_back` undoes it.
        workdir: where the checkpoint lies.
        train: trains the supernet at its current architecture, in the round with the given number; None to leave it.
    """

    def __init__(self, supernet: Supernet, workdir: Path, train: Train | None) -> None:
        self._supernet = supernet
        self._path = workdir / CHECKPOINT
        self._train = train
        self._round = NEVER
        self._before = _snapshot(supernet) if train else None
        self._saved = self._saved_round()

    @property
    def version(self) -> int:
        """Number of the last round of training that the round being run or replayed has in its weights; -1 for none."""
        return self._round

    @property
    def ahead(self) -> bool:
        """Whether the round being replayed is older than the weights that are left."""
        return self._round < self._saved

    def enter(self, round: int, architecture: Architecture) -> None:
        """Bring the supernet to a round: move it to the round's architecture and train, unless that was done before."""
        if self._train is None:
            return
        self._round = round
        if round < self._saved:
            return
        if round == self._saved:
            self._load()
            return
        self._supernet.move_to(architecture)
        self._train(self._supernet, round)
        self._save(round)

    def put_back(self) -> None:
        """Leave the supernet as it was given."""
        if self._before is not None:
            self._supernet.load_state_dict(self._before)

    def _saved_round(self) -> int:
        for leftover in self._path.parent.glob(f".{self._path.name}.*"):  # of a write that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if self._train is None or not self._path.exists():
            return NEVER
        try:
            with safe_open(self._path, framework="pt") as file:
                return int(file.metadata()["round"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SearchError(f"{self._path} is damaged: {error}; start again in another workdir") from error

    def _save(self, round: int) -> None:
        state = {name: tensor.contiguous() for name, tensor in _snapshot(self._supernet).items()}
        with replacing(self._path) as temporary:
            save_file(state, temporary, metadata={"round": str(round)})
        self._saved = round

    def _load(self) -> None:
        with safe_open(self._path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._supernet.load_state_dict(state)


def _snapshot(supernet: Supernet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in supernet.state_dict().items()}
