"""Plain data for strict JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Anything that is reported as JSON types; numbers that JSON does not know become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    # NumPy scalars and arrays know how to become Python's own types; what else there is speaks for itself.
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
