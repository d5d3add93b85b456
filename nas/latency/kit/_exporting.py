"""From a search space to a kit: everything a table needs, converted, and a script that times it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import nas
from nas._files import replacing
from nas._progress import track
from nas.errors import DeviceError, StorageError, TableError
from nas.latency._amounts import instances_of, kept_mb_of, passes_of
from nas.latency._building import attention_of
from nas.latency._bundles import Subject
from nas.latency._canary import CANARY_INSTANCES, canary_provenance, make_canary
from nas.latency._plan import Plan
from nas.latency._provenance import workload_provenance
from nas.latency.devices._machine import versions
from nas.latency.kit._manifest import LIBRARY, PACKAGES, RESULTS, SCRIPT, Manifest, Package, tree_sha256
from nas.search_space import SearchSpace
from nas.workload import Workload

if TYPE_CHECKING:
    from torch import nn

# All that measuring takes, copied as it is; a test runs it where nothing else is installed.
_MEASURING = (
    "errors.py",
    "_files.py",
    "_progress.py",
    "latency/_bench.py",
    "latency/_kept.py",
    "latency/_neighbours.py",
    "latency/_row.py",
    "latency/_speed.py",
    "latency/_timing.py",
    "latency/_visits.py",
    "latency/devices/_coreml_runtime.py",
    "latency/devices/_first_runs.py",
    "latency/devices/_machine.py",
    "latency/devices/_waiting.py",
    "latency/kit/_manifest.py",
    "latency/kit/_measuring.py",
)
_SCRIPT = '''"""Time this kit's packages: python measure.py --unit ne. It needs macOS, Python 3.11 and coremltools."""

import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
NEEDED = "measure.py needs Python 3.11 or newer and coremltools: python -m pip install coremltools"

if sys.version_info < (3, 11):
    sys.exit("%s. This is Python %d.%d." % (NEEDED, *sys.version_info[:2]))
sys.path.insert(0, str(KIT / "lib"))
try:
    from nas.latency.kit._measuring import main
except ImportError as error:
    sys.exit("%s. Missing: %s." % (NEEDED, error))
sys.exit(main([str(KIT), *sys.argv[1:]]))
'''


class Converter(Protocol):
    """Turns modules into files that another machine runs.

    Attributes:
        runtime: what runs them: "coreml".
        suffix: of the files.
        variant: what distinguishes its devices' names, such as "+iOS18".
        working_set_mb: see `Device.working_set_mb`.
        bundle_mb: see `Device.bundle_mb`.
        keep_mb: see `Device.keep_mb`.
    """

    runtime: str
    suffix: str
    variant: str
    working_set_mb: float
    bundle_mb: float
    keep_mb: float

    def provenance(self) -> dict[str, str | int | float]:
        """What decided the conversion."""
        ...

    def write(
        self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, precision: str, path: Path
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Convert a module and write it; its inputs by name, as shape and NumPy type."""
        ...


def export_kit(
    space: SearchSpace,
    kit: str | os.PathLike[str],
    *,
    converter: Converter | None = None,
    workload: Workload | None = None,
    copies: bool = True,
    whole_networks: int = 1,
    held_out: int = 0,
    seed: int = 0,
) -> Manifest:
    """Convert all that a table of a space needs, with a script beside it that measures it elsewhere.

    Args:
        space: whose blocks to convert.
        kit: folder to write; a kit that is there and was not measured is replaced.
        converter: to Core ML for iOS 17 when None.
        workload: what to convert for; the space's own latent size, batch 2 and fp16 when None.
        copies: also what copies of blocks cost.
        whole_networks: how many networks to measure end to end, which say what blocks take in context, the full one
            first; each is nearly as large as the model. There are none of models above 4 GiB.
        held_out: how many random networks to measure end to end beside them, of which the table's `validation` will be
            made; without them it has none. Each is about half as large as the model.
        seed: of those networks.

    Raises:
        DeviceError: a module cannot be converted.
        StorageError: the kit cannot be written, or the folder holds something else or measurements.
        TableError: a number of networks is none.
    """
    _require_free(Path(kit))
    converter = converter or _coreml()
    workload = workload or Workload.of(space, batch_size=2, precision="fp16")
    networks = {"whole_networks": whole_networks, "held_out": held_out, "seed": seed}
    plan = Plan.of(space, workload, home="cpu", copies=copies, bundle_mb=converter.bundle_mb, **networks)
    with replacing(kit) as folder:
        (folder / PACKAGES).mkdir(parents=True)
        writing = _Writing(folder, converter, space, workload)
        canary = writing.package("canary", lambda: (*make_canary(), {}), instances=CANARY_INSTANCES)
        names = track(plan.subjects, description=f"Converting {space.name} for {converter.runtime}")
        alone = dict.fromkeys(plan.networks, 1)
        packages = tuple(writing.package(name, plan.subjects[name], instances=alone.get(name)) for name in names)
        manifest = Manifest(
            runtime=converter.runtime,
            space=space.to_dict(),
            workload=vars(workload).copy(),
            variant=converter.variant,
            provenance={
                **versions("nas"),
                "attention": attention_of(space),
                **converter.provenance(),
                **workload_provenance(workload),
                **canary_provenance(),
            },
            canary=canary,
            packages=packages,
            wholes=tuple(plan.wholes),
            held_out=tuple(plan.held_out),
            seed=seed,
            bundles=plan.bundles,
            passes=passes_of(space, workload, keep_mb=converter.keep_mb),
            keep_mb=kept_mb_of(space, workload, keep_mb=converter.keep_mb),
        )
        manifest.write(folder)
        _copy_library(folder)
    return Manifest.read(Path(kit))


def _require_free(kit: Path) -> None:
    """Refuse to replace what cannot be made again by exporting."""
    if not kit.exists() or (kit.is_dir() and not any(kit.iterdir())):
        return
    try:
        Manifest.read(kit)
    except TableError as error:
        raise StorageError(f"{kit} is there and is no kit ({error}); export to another folder") from error
    if (kit / RESULTS).exists():
        raise StorageError(f"{kit} holds measurements; import them and remove the folder, or export to another one")


class _Writing:
    """Writes packages one after the other."""

    def __init__(self, folder: Path, converter: Converter, space: SearchSpace, workload: Workload) -> None:
        self._folder, self._converter, self._space, self._workload = folder, converter, space, workload
        self._count = 0

    def package(self, name: str, make: Callable[[], Subject], *, instances: int | None = None) -> Package:
        """Make a module, convert it, and say what it became; as many instances as a device would load when None."""
        module, args, kwargs = subject = make()
        path = self._folder / PACKAGES / f"{self._count:03d}{self._converter.suffix}"
        self._count += 1
        precision, size_mb = self._workload.precision, self._converter.working_set_mb
        try:
            inputs = self._converter.write(module, args, kwargs, precision=precision, path=path)
        except DeviceError as error:
            raise DeviceError(f"while converting {name}: {error}") from error
        if instances is None:
            instances = instances_of(subject, self._space, precision, working_set_mb=size_mb, min_instances=1)
        return Package(name, path.relative_to(self._folder).as_posix(), tree_sha256(path), instances, inputs)


def _copy_library(folder: Path) -> None:
    (folder / SCRIPT).write_text(_SCRIPT, encoding="utf-8")
    source, library = Path(nas.__file__).parent, folder / LIBRARY / "nas"
    for name in _MEASURING:
        target = library / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
        for package in target.relative_to(library).parents:
            (library / package / "__init__.py").touch()


def _coreml() -> Converter:
    from nas.latency.devices._coreml_converter import CoreMLConverter

    return CoreMLConverter()
