"""Where Core ML programs run: this Mac, or an iPhone or iPad connected to it.

None of what is in this file has been run yet on a Mac, an iPhone or an iPad: it is written after coremltools 9's source
(`MLModel`, `MLComputePlan`, `coremltools.models.ml_program.experimental`).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nas.errors import DeviceError, MissingRuntimeError
from nas.latency.devices._machine import machine
from nas.latency.devices._waiting import Waiting

if TYPE_CHECKING:
    import numpy as np

# Core ML's names of the compute units, by ours.
UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ne": "CPU_AND_NE", "all": "ALL"}
PHONES = {"iphone": "IPHONE", "ipad": "IPAD"}
_TEAM = "NAS_DEVELOPMENT_TEAM"


class LoadedProgram(Protocol):
    """A program compiled for a compute unit, ready to predict."""

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The outputs by name."""
        ...

    def predict_ms(self, inputs: Mapping[str, np.ndarray]) -> float:
        """Predict once; the time in ms that Core ML says it took, without the copies of arrays to and from Python."""
        ...

    def placement(self) -> Counter[tuple[str, str]]:
        """(operation, compute unit) -> how many of these operations Core ML means to run there."""
        ...


class CoreMLRuntime(Protocol):
    """Something that runs Core ML programs.

    Attributes:
        name: "" for the machine at hand, else what stands in a device's name, such as "iphone".
    """

    name: str

    def provenance(self) -> dict[str, str | int | float]:
        """At least "hardware" and "os"."""
        ...

    def load(self, package: Path, unit: str) -> LoadedProgram:
        """Compile and load an `.mlpackage` for a compute unit: "cpu", "gpu", "ne" or "all"."""
        ...


def require_unit(unit: str) -> None:
    """Refuse what is no compute unit.

    Raises:
        DeviceError: it is none of `UNITS`.
    """
    if unit not in UNITS:
        raise DeviceError(f"Core ML has no compute unit {unit!r}; choose one of {', '.join(UNITS)}")


def units_of(program: LoadedProgram) -> Counter[str]:
    """How many of a program's operations Core ML means to run on each unit; empty where the system does not tell."""
    units: Counter[str] = Counter()
    # Systems before macOS 14.4 do not, which is no reason not to measure.
    with suppress(DeviceError):
        for (_, unit), count in program.placement().items():
            units[unit] += count
    return units


def described_units(units: Iterable[Mapping[str, int]]) -> str:
    """Of all programs together, for a table's provenance: "cpu 12, ne 3456"."""
    total = sum(map(Counter, units), Counter())
    return ", ".join(f"{unit} {count}" for unit, count in sorted(total.items())) or "unknown"


def conditions_of(runtime: CoreMLRuntime, unit: str) -> dict[str, str | int | float]:
    """Where something is measured and what is asked of Core ML there, for a table's provenance."""
    return {**runtime.provenance(), "compute_unit": UNITS[unit], "threads": "as Core ML chooses"}


class MacRuntime:
    """The Mac at hand. Written after coremltools' source; not run on a Mac yet.

    Raises:
        DeviceError: this is no Mac.
    """

    name = ""

    def __init__(self) -> None:
        require_mac()

    def provenance(self) -> dict[str, str | int | float]:
        """The machine, with macOS' own version."""
        return {**machine(), "os": f"macOS {platform.mac_ver()[0]} {platform.machine()}"}

    def load(self, package: Path, unit: str) -> LoadedProgram:
        """See `CoreMLRuntime.load`."""
        return _MacProgram(package, unit)


class _MacProgram:
    def __init__(self, package: Path, unit: str) -> None:
        ct = coremltools()
        self._unit = ct.ComputeUnit[UNITS[unit]]
        with explained_by_coreml("load this program"), warnings.catch_warnings():
            # What Core ML could not compile is only warned of.
            warnings.filterwarnings("error", "You will not be able to run predict")
            self._model = ct.models.MLModel(str(package), compute_units=self._unit)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `LoadedProgram.predict`."""
        with explained_by_coreml("run this program"):
            return self._model.predict(dict(inputs))

    def predict_ms(self, inputs: Mapping[str, np.ndarray]) -> float:
        """Measured around Core ML's own prediction, in nanoseconds.

        coremltools hands inputs in fp16 over in fp32; that Core ML casts them may count.
        """
        self.predict(inputs)
        return _ms(self._model.last_predict_duration_in_nano_seconds)

    def placement(self) -> Counter[tuple[str, str]]:
        """From `MLComputePlan`."""
        from coremltools.models.compute_plan import MLComputePlan

        with explained_by_coreml("say where this program would run"):
            path = self._model.get_compiled_model_path()
            return placement_of(MLComputePlan.load_from_path(path=path, compute_units=self._unit))


class PhoneRuntime:
    """An iPhone or iPad connected to this Mac. Written after coremltools' source; not run on any device yet.

    coremltools builds a small app by Xcode, installs it on the device and talks to it. So Xcode must be installed, the
    device unlocked and in developer mode, and a development team known that signs the app.

    Args:
        kind: "iphone" or "ipad"; the first one connected is taken.
        team: identifier of the development team, as Xcode shows it; the environment's `NAS_DEVELOPMENT_TEAM` when None.

    Raises:
        DeviceError: this is no Mac, no such device is connected, or no team is given.
        MissingRuntimeError: coremltools is not installed.
    """

    def __init__(self, kind: str, *, team: str | None = None) -> None:
        if kind not in PHONES:
            raise DeviceError(f"no device is called {kind!r}; choose one of {', '.join(PHONES)}")
        require_mac()
        coremltools()
        from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

        self.name = kind
        found = Device.get_connected_devices(device_type=DeviceType[PHONES[kind]])
        if not found:
            raise DeviceError(f"no {kind} is connected; plug it in, unlock it and turn on its developer mode")
        team = team or os.environ.get(_TEAM)
        if not team:
            raise DeviceError(f"an app is built for the {kind} and signed: set {_TEAM} to your team's identifier")
        self._loop = Waiting()
        credentials = AppSigningCredentials(development_team=team)
        with explained_by_coreml(f"use the {kind}"):
            self._phone = self._loop.run(found[0].prepare_for_model_debugging(credentials=credentials))

    def provenance(self) -> dict[str, str | int | float]:
        """The device's model, with a mark of its own, and the Mac that it is connected to.

        Many phones are called "iPhone" by their owners, and coremltools knows no model's name: Xcode's tool is asked.
        Where it does not say, the owner's name stands for the model.
        """
        model = _model_of(self._phone.udid) or self._phone.name
        mark = sha256(self._phone.udid.encode()).hexdigest()[:8]
        system = f"{self._phone.os_version} ({self._phone.os_build_number})"
        mac = machine()
        return {"hardware": f"{model} [{mark}]", "os": system, "python": mac["python"], "host": mac["hardware"]}

    def load(self, package: Path, unit: str) -> LoadedProgram:
        """See `CoreMLRuntime.load`."""
        return _PhoneProgram(package, unit, self._phone, self._loop)


class _PhoneProgram:
    def __init__(self, package: Path, unit: str, phone: Any, loop: Waiting) -> None:
        from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

        self._loop = loop
        units = coremltools().ComputeUnit[UNITS[unit]]
        with explained_by_coreml("load this program"):
            self._model = MLModelAsyncWrapper.from_spec_or_path(
                str(package), weights_dir="", compute_units=units, device=phone
            )
            loop.run(self._model.load())
        # coremltools' own finalizer makes a coroutine that nobody runs, and the app keeps every program.
        weakref.finalize(self, _unload, self._model, loop)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `LoadedProgram.predict`."""
        with explained_by_coreml("run this program"):
            return self._loop.run(self._model.predict(dict(inputs)))

    def predict_ms(self, inputs: Mapping[str, np.ndarray]) -> float:
        """Measured on the device around Core ML's own prediction; the transfer to the device is not in it."""
        self.predict(inputs)
        return _ms(self._model.last_predict_duration_in_nano_seconds)

    def placement(self) -> Counter[tuple[str, str]]:
        """From the device's own compute plan."""
        with explained_by_coreml("say where this program would run"):
            return placement_of(self._loop.run(self._model.retrieve_compute_plan()))


def _unload(model: Any, loop: Waiting) -> None:
    with suppress(Exception):  # of a device that was unplugged, which holds nothing any longer
        loop.finish(model.unload())


def _model_of(udid: str) -> str | None:
    """Such as "iPhone 14 Pro", from `devicectl`'s list of devices; None where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        path = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            devices = json.loads(path.read_text(encoding="utf-8"))["result"]["devices"]
            hardware = [device["hardwareProperties"] for device in devices]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            return None
    own = next((found for found in hardware if found.get("udid") == udid), {})
    return own.get("marketingName") or own.get("productType")


@contextmanager
def explained_by_coreml(action: str) -> Iterator[None]:
    """Turn whatever Core ML or coremltools raises, which have no family of exceptions, into an error of this library.

    Raises:
        DeviceError: something was raised inside.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(f"Core ML cannot {action}: {reason}") from error


def placement_of(plan: Any) -> Counter[tuple[str, str]]:
    """(operation, compute unit) -> count, from an `MLComputePlan`; constants have no unit and are left out."""
    found: Counter[tuple[str, str]] = Counter()
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is not None:
            # The name has the operations' version before it, such as "ios17.conv".
            found[operation.operator_name.rpartition(".")[2], _unit_of(usage.preferred_compute_device)] += 1
    return found


def _unit_of(device: Any) -> str:
    names = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ne"}
    # On a connected device these are subclasses' proxies: by name, the classes have no common attribute that says it.
    return next((names[kind.__name__] for kind in type(device).__mro__ if kind.__name__ in names), "unknown")


def require_mac() -> None:
    """Refuse other systems.

    Raises:
        DeviceError: this is not macOS.
    """
    if platform.system() != "Darwin":
        raise DeviceError(
            f"Core ML runs programs on macOS only, and this is {platform.system()}: convert here with "
            "nas.latency.devices.convert_to_coreml, measure on a Mac"
        )


def _ms(nanoseconds: int | None) -> float:
    if nanoseconds is None:
        raise DeviceError("Core ML does not say how long the prediction took; coremltools 9 or newer is needed")
    return nanoseconds / 1e6


def coremltools() -> Any:
    """The package, imported when it is needed.

    Raises:
        MissingRuntimeError: it is not installed.
    """
    try:
        with warnings.catch_warnings(), without_log():
            # It says at import which releases of other frameworks it was not tested with.
            warnings.simplefilter("ignore")
            import coremltools as ct
    except ImportError as error:
        raise MissingRuntimeError("coremltools is not installed; pip install coremltools, or 'nas[coreml]'") from error
    return ct


@contextmanager
def without_log() -> Iterator[None]:
    """Without coremltools' notes on what it was not tested with and what it renames."""
    log = logging.getLogger("coremltools")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
