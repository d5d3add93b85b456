"""Scripts in `benchmarks/`, and those as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Path:
    """The script of this name; scripts come along wherever tests do."""
    return FOLDER / f"{name}.py"


@contextmanager
def loaded(name: str) -> Iterator[ModuleType]:
    """The script of this name as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", script(name))
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        # Dataclasses look their module up by name.
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module
