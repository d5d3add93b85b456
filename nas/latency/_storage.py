"""Tables as YAML: readable, checked field by field on the way in."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nas._files import write_text_atomically
from nas._yaml import read_yaml
from nas.architecture import Architecture
from nas.errors import NasError, TableError
from nas.latency._row import Row
from nas.latency._validation import Pair, Validation
from nas.resources import latency_tables_dir
from nas.search_space import SearchSpace
from nas.workload import Workload

if TYPE_CHECKING:
    from nas.latency._table import LatencyTable

SCHEMA = 3
# What files of an image's parts say of themselves; they lie in a folder below that of the tables.
IMAGE_KIND = "image parts"
_FIELDS = ("schema", "name", "device", "workload", "provenance", "base", "networks", "rows", "validation", "space")


# Writing.


def save_table(table: LatencyTable, path: str | os.PathLike[str]) -> None:
    """Write `path` in one step: what was there before stays until the new file is complete."""
    write_text_atomically(path, dump(to_dict(table)))


def to_dict(table: LatencyTable) -> dict[str, Any]:
    """A table as plain data."""
    rows = [{"signature": name, **vars(row)} for name, row in sorted(table.rows.items())]
    return {
        "schema": SCHEMA,
        "name": table.name,
        "device": table.device,
        "workload": vars(table.workload).copy(),
        "provenance": dict(table.provenance),
        "base": vars(table.base).copy(),
        "networks": [{"architecture": str(found), **vars(row)} for found, row in table.wholes.items()],
        "rows": rows,
        "validation": table.validation.to_dict() if table.validation else None,
        "space": table.space.to_dict(),
    }


def dump(data: Mapping[str, Any]) -> str:
    """YAML with one line a row, so that a table can be read and compared line by line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=2000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Flat mappings inside a list on a line of their own, everything else in blocks."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.Node:
        items = list(sequence)
        node = super().represent_sequence(tag, items, flow_style=all(_is_scalar(item) for item in items))
        for child, item in zip(node.value, items, strict=True):
            if isinstance(item, Mapping):
                child.flow_style = True
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple)


# Reading.


def load_table(path_or_name: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a `LatencyTable` from a file or a bundled table.

    Raises:
        TableError: no such table, or something in it is wrong; the message names file and field.
    """
    path = find_table(path_or_name)
    try:
        return from_dict(read_yaml(path))
    except NasError as error:
        raise TableError(f"{path}: {error}") from error


def find_table(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of a bundled table, or the path itself if there is a file.

    Raises:
        TableError: neither.
    """
    folder = latency_tables_dir()
    for path in (Path(path_or_name), folder / f"{path_or_name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
    raise TableError(f"no latency table {str(path_or_name)!r}: give a YAML file or a bundled table (there is {known})")


def from_dict(data: Any) -> dict[str, Any]:
    """The inverse of `to_dict`, as keyword arguments of `LatencyTable`; checks everything but the sums.

    Raises:
        TableError: a field is missing, unknown or wrong.
    """
    if not isinstance(data, Mapping):
        raise TableError("a latency table must be a mapping of fields")
    if data.get("kind") == IMAGE_KIND:
        raise TableError("these are the parts of an image, not a table of blocks; read them with nas.ImageLatency.load")
    if data.get("schema") != SCHEMA:
        raise TableError(f"schema is {data.get('schema')!r}; this version of nas reads schema {SCHEMA}")
    require_fields("the table", data, _FIELDS)
    provenance = _provenance(data["provenance"])
    if data["device"] != provenance["device"]:
        raise TableError(f"device is {data['device']!r} but provenance.device is {provenance['device']!r}")
    space = SearchSpace.from_dict(data["space"])
    return {
        "space": space,
        "workload": _made(Workload, "workload", data["workload"]),
        "rows": _rows("rows", "signature", data["rows"]),
        "base": _made(Row, "base", data["base"]),
        "wholes": _wholes(data["networks"], space),
        "provenance": provenance,
        "validation": None if data["validation"] is None else _validation(data["validation"], space),
    }


def require_fields(where: str, data: Any, names: tuple[str, ...]) -> None:
    """Refuse data that is no mapping, lacks one of `names` or has another; `where` is for the message."""
    if not isinstance(data, Mapping):
        raise TableError(f"{where} is {type(data).__name__} where a mapping of fields is expected")
    if missing := [name for name in names if name not in data]:
        raise TableError(f"{where} lacks the field {missing[0]!r}")
    if unknown := [name for name in data if name not in names]:
        raise TableError(f"{where} has the unknown field {unknown[0]!r}")


def _made(kind: type, where: str, data: Any) -> Any:
    # A dataclass from its fields; whatever is wrong with one is reported under its name.
    require_fields(where, data, tuple(entry.name for entry in fields(kind)))
    try:
        return kind(**data)
    except TableError as error:
        raise TableError(f"{where}.{error}") from error
    except (TypeError, OverflowError) as error:
        raise TableError(f"{where} holds something that is not a number: {dict(data)}") from error


def _rows(field: str, key: str, data: Any) -> dict[str, Row]:
    if not isinstance(data, list):
        raise TableError(f"{field} must be a list")
    rows: dict[str, Row] = {}
    for index, entry in enumerate(data):
        where = f"{field}[{index}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get(key), str):
            raise TableError(f"{where} has no {key}")
        name = entry[key]
        if name in rows:
            raise TableError(f"{where} repeats the {key} {name!r}")
        rows[name] = _made(Row, f"{where} ({name})", {part: value for part, value in entry.items() if part != key})
    return rows


def _wholes(data: Any, space: SearchSpace) -> dict[Architecture, Row]:
    wholes = {Architecture.parse(text): row for text, row in _rows("networks", "architecture", data).items()}
    for architecture in wholes:
        space.check(architecture)
    return wholes


def _provenance(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not isinstance(data.get("device"), str):
        raise TableError("provenance must be a mapping that names the device")
    if wrong := [name for name, value in data.items() if not isinstance(value, str | int | float)]:
        raise TableError(f"provenance.{wrong[0]} must be text or a number")
    if wrong := [name for name, value in data.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise TableError(f"provenance.{wrong[0]} is {data[wrong[0]]!r}; it must be a finite number")
    return dict(data)


def _validation(data: Any, space: SearchSpace) -> Validation:
    require_fields("validation", data, (*_SUMMARY, "seed", "date", "slowdown", "pairs"))
    if not isinstance(data["pairs"], list):
        raise TableError("validation.pairs must be a list")
    pairs = tuple(_made(Pair, f"validation.pairs[{index}]", entry) for index, entry in enumerate(data["pairs"]))
    for pair in pairs:
        space.check(Architecture.parse(str(pair.architecture)))
    slowdown = data["slowdown"]
    if slowdown is not None and (isinstance(slowdown, bool) or not isinstance(slowdown, int | float)):
        raise TableError(f"validation.slowdown is {slowdown!r}; it must be a number, or null")
    validation = Validation(pairs, data["seed"], str(data["date"]), slowdown)
    for name, value in validation.summary().items():
        # NaN is no further off than anything, so the comparison must be one that it fails.
        if not isinstance(data[name], int | float) or not abs(data[name] - value) <= 1e-5:
            raise TableError(f"validation.{name} is {data[name]!r}, but its pairs give {value!r}")
    return validation


_SUMMARY = ("networks", "mean_error", "worst_error", "within_5", "within_10", "spearman")
