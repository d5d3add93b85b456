"""What is in a kit, and whether it is still what was put there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas._files import write_text_atomically
from nas.errors import TableError

SCHEMA = 3
MANIFEST, PACKAGES, RESULTS, LIBRARY, SCRIPT = "manifest.json", "packages", "results", "lib", "measure.py"
_SEAL = "sha256"


@dataclass(frozen=True)
class Package:
    """A module with its inputs, converted.

    Attributes:
        name: "canary", "base", a whole network's architecture, or a row's signature.
        path: inside the kit.
        sha256: over all of its files.
        instances: how many copies are run in turn, so that weights come from memory as they do in a network.
        inputs: name -> (shape, NumPy's name of the type).
    """

    name: str
    path: str
    sha256: str
    instances: int
    inputs: dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Manifest:
    """A kit's packages and all that the table of them will say.

    Attributes:
        runtime: what the packages are for: "coreml".
        variant: what distinguishes the table's device, such as "+iOS18".
        space: the search space as plain data.
        workload: likewise.
        provenance: of the conversion: target, attention, versions.
        canary: run around everything else.
        packages: what is measured.
        wholes: names of the packages that are whole networks.
        held_out: names of those that are networks to hold the table against.
        seed: that these were drawn with.
        bundles: how many blocks are in the bundle beside a row, by the row's name.
        passes: how often everything is measured in its turn.
        keep_mb: see `Device.keep_mb`.
        seal: SHA-256 over all of this.
    """

    runtime: str
    variant: str
    space: dict[str, Any]
    workload: dict[str, Any]
    provenance: dict[str, str | int | float]
    canary: Package
    packages: tuple[Package, ...]
    wholes: tuple[str, ...]
    held_out: tuple[str, ...]
    seed: int
    bundles: dict[str, int]
    passes: int
    keep_mb: float
    seal: str = ""

    def write(self, kit: Path) -> None:
        """Write it into a kit, sealed."""
        write_sealed(kit / MANIFEST, {name: value for name, value in asdict(self).items() if name != "seal"})

    @classmethod
    def read(cls, kit: Path) -> Manifest:
        """Read a kit's manifest.

        Raises:
            TableError: there is none, or it is not as it was written.
        """
        data = read_sealed(kit / MANIFEST)
        seal = data.pop(_SEAL)
        try:
            packages = tuple(_package(entry) for entry in data.pop("packages"))
            networks = {name: tuple(data.pop(name)) for name in ("wholes", "held_out")}
            return cls(**{**data, "canary": _package(data["canary"])}, **networks, packages=packages, seal=seal)
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{kit / MANIFEST}: {error!r}; export the kit again") from error


def _package(entry: Mapping[str, Any]) -> Package:
    inputs = {name: (tuple(shape), dtype) for name, (shape, dtype) in entry["inputs"].items()}
    return Package(**{**entry, "inputs": inputs})


def require_intact(kit: Path, package: Package) -> Path:
    """The package's path.

    Raises:
        TableError: it is missing or is not as it was exported.
    """
    path = kit / package.path
    if not path.exists():
        raise TableError(f"the kit lacks {package.path} ({package.name}); copy it again, or export it again")
    if tree_sha256(path) != package.sha256:
        raise TableError(f"{package.path} ({package.name}) is not as it was exported; copy it or export it again")
    return path


def tree_sha256(path: Path) -> str:
    """SHA-256 over a file, or over the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in files_of(path):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def files_of(path: Path) -> list[Path]:
    """A file, or all files in a folder, in an order that is the same on every system.

    What a Mac leaves beside files by itself (.DS_Store, and ._* on file systems of others) does not count.
    """
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".DS_Store", "._")))
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as JSON, with the schema before and the SHA-256 of all of it in the last field."""
    data = {"schema": SCHEMA, **data}
    write_text_atomically(path, json.dumps({**data, _SEAL: _seal_of(data)}, indent=1) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, the seal included.

    Raises:
        TableError: there is no such file, it is not as it was written, or is of another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TableError(f"there is no {path}") from error
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    content = {name: value for name, value in data.items() if name != _SEAL} if isinstance(data, dict) else {}
    if not content or data.get(_SEAL) != _seal_of(content):
        raise TableError(f"{path} was changed or damaged since it was written (its {_SEAL} does not match)")
    if data.pop("schema", None) != SCHEMA:
        raise TableError(f"{path} is not of schema {SCHEMA}, the one that this version of nas reads")
    return data


def _seal_of(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
