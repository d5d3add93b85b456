"""Scripts in `benchmarks/` as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def loaded(name: str) -> Iterator[ModuleType]:
    """The script of this name; the test is skipped where scripts do not come along, as in a wheel."""
    script = FOLDER / f"{name}.py"
    if not script.is_file():
        pytest.skip("benchmarks are not part of this distribution")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", script)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        # Dataclasses look their module up by name.
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module
