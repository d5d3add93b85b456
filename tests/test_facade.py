"""`import nas` is cheap, and each name of the façade is where it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nas


def test_importing_the_facade_does_not_import_torch() -> None:
    code = "import sys, nas; nas.Architecture; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", nas.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(nas, name).__name__ == name
    assert name in dir(nas)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="bogus"):
        nas.bogus  # noqa: B018
