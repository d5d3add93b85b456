"""The parts of an image as YAML, in files of their own kind beside the tables of blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._files import write_text_atomically
from nas._yaml import read_yaml
from nas.errors import NasError, TableError
from nas.latency._storage import IMAGE_KIND, dump, require_fields
from nas.resources import image_components_dir

if TYPE_CHECKING:
    from nas.latency._image import ImageLatency

SCHEMA = 1
_FIELDS = (
    "origin",
    "text_encoder_ms",
    "text_encoder_runs",
    "unet_ms",
    "unet_runs_per_step",
    "unet_batch_size",
    "steps",
    "step_overhead_ms",
    "decoder_ms",
    "decoder_runs",
    "constant_ms",
    "reported_total_ms",
    "provenance",
)


def save_image(image: ImageLatency, path: str | os.PathLike[str]) -> None:
    """Write `path` in one step: what was there before stays until the new file is complete."""
    fields = {name: getattr(image, name) for name in _FIELDS}
    # YAML knows no numbers of NumPy's, such as a table predicts.
    fields |= {name: float(value) for name, value in fields.items() if name.endswith("_ms") and value is not None}
    fields["provenance"] = dict(image.provenance)
    write_text_atomically(path, dump({"schema": SCHEMA, "kind": IMAGE_KIND, **fields}))


def load_image(path: Path) -> dict[str, Any]:
    """The fields of an `ImageLatency`; their values are its own to check.

    Raises:
        TableError: the file cannot be read, is of another kind, or has not the right fields.
    """
    try:
        return _fields_of(read_yaml(path))
    except NasError as error:
        raise TableError(f"{path}: {error}") from error


def find_image(path_or_name: str | os.PathLike[str]) -> Path:
    """The path itself if there is a file, or the file of published figures of that name.

    Raises:
        TableError: neither.
    """
    path = Path(path_or_name)
    return path if path.is_file() else find_published(str(path_or_name))


def find_published(name: str) -> Path:
    """The file of published figures.

    Raises:
        TableError: there is none of that name.
    """
    # By comparison with the names that there are: a name is no path, and none leads out of the folder.
    files = {file.stem: file for file in sorted(image_components_dir().glob("*.yaml"))}
    if name not in files:
        raise TableError(f"no image's parts are known as {name!r}: there is {', '.join(files) or 'none'}")
    return files[name]


def _fields_of(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or data.get("kind") != IMAGE_KIND:
        raise TableError(f"this is not a file of an image's parts: its kind is not {IMAGE_KIND!r}")
    if data.get("schema") != SCHEMA:
        raise TableError(f"schema is {data.get('schema')!r}; this version of nas reads schema {SCHEMA}")
    require_fields("the file", data, ("schema", "kind", *_FIELDS))
    return {name: data[name] for name in _FIELDS}
