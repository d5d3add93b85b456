"""What networks are trained on: clean latents and the contexts that go with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nas._files import replacing
from nas._fingerprint import fingerprint_of_tensors
from nas.errors import ModelError, NasError

MARK = "nas.training_data"


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Latents with their text states.

    Attributes:
        latents: clean latents `[n x c x h x w]`, scaled as the network sees them.
        contexts: text states `[n x l x d]`, one for each latent.
        empty_context: text states of the empty text `[1 x l x d]` or `[l x d]`, which replace a context now and then so
            that guidance keeps working.

    Raises:
        NasError: shapes do not fit each other, there is no sample, or a value is not finite.
    """

    latents: Tensor
    contexts: Tensor
    empty_context: Tensor

    def __post_init__(self) -> None:
        if self.empty_context.ndim == 2:
            object.__setattr__(self, "empty_context", self.empty_context.unsqueeze(0))
        if self.latents.ndim != 4 or not len(self.latents):
            raise _wrong_shape("latents", self.latents, "n x channels x rows x columns")
        if self.contexts.ndim != 3 or len(self.contexts) != len(self.latents):
            raise _wrong_shape("contexts", self.contexts, f"{len(self.latents)} x tokens x features")
        if self.empty_context.shape != (1, *self.contexts.shape[1:]):
            raise _wrong_shape("empty_context", self.empty_context, "1 x {} x {}".format(*self.contexts.shape[1:]))
        for name in ("latents", "contexts", "empty_context"):
            # Noise and samples are drawn on the CPU; a step's batch is moved to its network.
            object.__setattr__(self, name, getattr(self, name).cpu())
            if not torch.isfinite(getattr(self, name)).all():
                raise NasError(f"{name} holds values that are not finite; sample the data again")

    def __len__(self) -> int:
        return len(self.latents)

    def require_fit(self, network: nn.Module) -> None:
        """Check that a network can be trained on this data.

        Raises:
            NasError: its channels or contexts are others.
        """
        channels, features = network.config.in_channels, network.config.cross_attention_dim
        if self.latents.shape[1] != channels:
            raise NasError(f"the data's latents have {self.latents.shape[1]} channels, the network takes {channels}")
        if isinstance(features, int) and self.contexts.shape[2] != features:
            raise NasError(f"the data's contexts have {self.contexts.shape[2]} features, the network takes {features}")

    def fingerprint(self) -> str:
        """16 hex digits that change with the shapes and with the first values."""
        tensors = [(name, getattr(self, name)) for name in ("latents", "contexts", "empty_context")]
        return fingerprint_of_tensors(tensors, leading=1 << 16)

    def save(self, path: str | os.PathLike[str], *, identity: str = "") -> None:
        """Write to a safetensors file; `identity` says where the data came from.

        Raises:
            StorageError: it cannot be written; what was there before is unchanged.
        """
        tensors = {name: getattr(self, name).contiguous() for name in ("latents", "contexts", "empty_context")}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={MARK: identity})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingData:
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing, corrupt, or something else.
        """
        saved_identity(path)
        with safe_open(path, framework="pt") as file:
            return cls(**{name: file.get_tensor(name) for name in ("latents", "contexts", "empty_context")})


def _wrong_shape(name: str, tensor: Tensor, wanted: str) -> NasError:
    return NasError(f"{name} has shape {list(tensor.shape)}; it must be [{wanted}]")


def saved_identity(path: str | os.PathLike[str]) -> str:
    """The `identity` with which a file of training data was saved.

    Raises:
        ModelError: the file is missing, corrupt, or something else.
    """
    if not Path(path).is_file():
        raise ModelError(f"there is no training data at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt or no safetensors file; delete it or give another path") from error
    if MARK not in metadata:
        raise ModelError(f"{path} holds something other than training data; give another path")
    return metadata[MARK]
