"""A training run on disk: everything that decides its next step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from nas._files import replacing
from nas.errors import ModelError, SearchError


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dicts of them); what was there before is replaced at the end.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What was saved at `path`, or None if nothing was.

    Raises:
        ModelError: the file is corrupt or something else.
        SearchError: it is of a run with other settings.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict(state["settings"])
    except Exception as error:  # pickle, zip and torch each have their own kinds
        raise ModelError(
            f"{path} is corrupt or no checkpoint of a training run; delete it or give another path"
        ) from error
    for name, value in settings.items():
        if saved.get(name) != value:
            raise SearchError(
                f"the checkpoint {path} is of a run with {name} = {saved.get(name)!r}, this one has {value!r}; "
                "delete it or give another path"
            )
    return state
