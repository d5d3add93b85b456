"""Where the data that comes with the library lies: search spaces, latency tables, models."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ModelError

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    # In a wheel the data folders lie inside the package, in a checkout beside it.
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def search_spaces_dir() -> Path:
    """The folder of bundled search spaces, `*.yaml`."""
    return _folder("search_spaces")


def latency_tables_dir() -> Path:
    """The folder of bundled latency tables, `*.yaml`."""
    return _folder("latency_tables")


def image_components_dir() -> Path:
    """The folder of published times of text encoder, UNet and decoder, `*.yaml`, below the tables of blocks."""
    return latency_tables_dir() / "components"


def models_dir() -> Path:
    """The folder of bundled pipelines."""
    return _folder("models")


def bundled(name: str) -> Path:
    """The folder of a bundled pipeline, for `StableDiffusionPipeline.from_pretrained`.

    Raises:
        ModelError: there is no bundled pipeline of that name.
    """
    path = models_dir() / name
    if not (path / "model_index.json").is_file():
        known = sorted(index.parent.name for index in models_dir().glob("*/model_index.json"))
        raise ModelError(f"no bundled pipeline is called {name!r}; there is {', '.join(known) or 'none'}")
    return path
