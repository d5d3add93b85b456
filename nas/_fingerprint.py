"""Short identities of networks and texts, so that a journal or a cache notices when they are not the same any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

VALUES_PER_TENSOR = 256


def fingerprint_of_modules(*modules: nn.Module) -> str:
    """16 hex digits that change with any weight's name, shape or leading values; cheap even for large networks."""
    weights = [pair for module in modules for pair in (*module.named_parameters(), *module.named_buffers())]
    return fingerprint_of_tensors(weights, leading=VALUES_PER_TENSOR)


def fingerprint_of_tensors(tensors: Iterable[tuple[str, Tensor]], *, leading: int | None = None) -> str:
    """16 hex digits that change with a name, a shape or a value (only the first `leading` of each tensor, if given)."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().flatten()[:leading].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of_texts(texts: Iterable[str]) -> str:
    """16 hex digits that change with any text or with their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]
