"""A kit from end to end, with a converter and a runtime that only pretend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kits import CostConverter, CostProgram, CostRuntime

from nas import LatencyTable, SearchSpace, Workload
from nas.errors import DeviceError, StorageError, TableError
from nas.latency import Timing
from nas.latency._canary import canary_on
from nas.latency.kit import Manifest, _manifest, export_kit, import_kit, measure_kit
from nas.latency.testing import FakeDevice

TIMING = Timing(passes=2, extra_seconds=0)


@pytest.fixture(scope="module")
def exported(tiny_space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kit = tmp_path_factory.mktemp("kits") / "kit"
    export_kit(tiny_space, kit, converter=CostConverter(), whole_networks=3)
    return kit


@pytest.fixture
def kit(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "kit")


@pytest.fixture(scope="module")
def measured_kit(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kit = shutil.copytree(exported, tmp_path_factory.mktemp("measured") / "kit")
    measure_kit(kit, "ne", runtime=CostRuntime("phone"), timing=TIMING)
    return kit


@pytest.fixture
def measured(measured_kit: Path, tmp_path: Path) -> Path:
    return shutil.copytree(measured_kit, tmp_path / "measured")


def test_the_table_of_a_kit_is_that_of_a_device_at_hand(measured: Path, tiny_space: SearchSpace) -> None:
    table = import_kit(measured)
    here = LatencyTable.measure(tiny_space, device=FakeDevice(), precision="fp16", timing=TIMING)
    assert table.workload == here.workload == Workload.of(tiny_space, batch_size=2, precision="fp16")
    assert {name: row.latency_ms for name, row in table.rows.items()} == pytest.approx(
        {name: row.latency_ms for name, row in here.rows.items()}
    )
    assert table.base_ms == pytest.approx(here.base_ms)
    assert len(table.wholes) == 3
    assert table.latency_ms(tiny_space.full) == pytest.approx(here.latency_ms(tiny_space.full))
    assert table.device == "pretended-phone-ne+thrift"
    assert {"nas", "attention", "canary_ms", "date"} <= table.provenance.keys()
    known = {"compute_unit": "CPU_AND_NE", "threads": "as Core ML chooses", "target": "none", "hardware": "none"}
    assert known.items() <= table.provenance.items()
    measured_things = 1 + len(table.wholes) + len(table.rows)
    assert table.provenance["operations"] == f"cpu {measured_things}, ne {4 * measured_things}"


def test_a_kit_with_networks_held_out_makes_a_validated_table(tiny_space: SearchSpace, tmp_path: Path) -> None:
    networks = {"whole_networks": 2, "held_out": 3, "seed": 5}
    export_kit(tiny_space, tmp_path / "kit", converter=CostConverter(), **networks)
    measure_kit(tmp_path / "kit", "ne", runtime=CostRuntime("phone"), timing=TIMING)
    table = import_kit(tmp_path / "kit")
    here = LatencyTable.measure(tiny_space, device=FakeDevice(), precision="fp16", timing=TIMING, **networks)
    assert len(table.wholes) == 2
    assert table.rows.keys() == here.rows.keys()
    found, expected = table.validation, here.validation
    assert [pair.architecture for pair in found.pairs] == [pair.architecture for pair in expected.pairs]
    assert [pair.measured_ms for pair in found.pairs] == pytest.approx([pair.measured_ms for pair in expected.pairs])
    assert (len(found.pairs), found.seed) == (3, 5)
    assert found.worst_error == pytest.approx(0, abs=1e-5)


def test_the_canary_is_that_of_a_device_at_hand(kit: Path) -> None:
    class Device(FakeDevice):
        def load(self, *args: Any, instances: int = 1, **kwargs: Any) -> Any:
            self.instances = instances
            return super().load(*args, instances=instances, **kwargs)

    device = Device()
    canary_on(device, "fp16")
    assert Manifest.read(kit).canary.instances == device.instances > 1


def test_the_table_survives_a_file(measured: Path, tmp_path: Path) -> None:
    table = import_kit(measured)
    table.save(tmp_path / "table.yaml")
    assert LatencyTable.load(tmp_path / "table.yaml") == table


def test_an_interrupted_measurement_goes_on_to_the_same_table(kit: Path, measured: Path) -> None:
    whole = CostRuntime("phone")
    measure_kit(shutil.copytree(kit, kit.parent / "whole"), "ne", runtime=whole, timing=TIMING)
    interrupted = CostRuntime("phone", predictions=whole.made // 2)
    with pytest.raises(KeyboardInterrupt):
        measure_kit(kit, "ne", runtime=interrupted, timing=TIMING)
    with pytest.raises(TableError, match="not measured yet"):
        import_kit(kit)
    rest = CostRuntime("phone")
    measure_kit(kit, "ne", runtime=rest, timing=TIMING)
    assert import_kit(kit).rows == import_kit(measured).rows
    assert import_kit(kit).provenance["operations"] == import_kit(measured).provenance["operations"]
    # Not more than the visit that was interrupted, and the canary's warm-up, are made twice.
    assert interrupted.made + rest.made < 1.2 * whole.made


def test_a_finished_measurement_is_made_anew_and_kept_until_then(kit: Path) -> None:
    first, again = CostRuntime("phone"), CostRuntime("phone")
    path = measure_kit(str(kit), "ne", runtime=first, timing=TIMING)
    assert [*path.parent.iterdir()] == [path]
    found = path.read_text()
    with pytest.raises(KeyboardInterrupt):
        measure_kit(kit, "ne", runtime=CostRuntime("phone", predictions=first.made // 2), timing=TIMING)
    assert path.read_text() == found
    measure_kit(kit, "ne", runtime=CostRuntime("phone"), timing=TIMING)
    measure_kit(kit, "ne", runtime=again, timing=TIMING)
    assert again.made == first.made


@pytest.mark.parametrize("changed", ["system", "timing"])
def test_an_interrupted_measurement_goes_on_under_the_same_conditions_only(kit: Path, changed: str) -> None:
    runtime, timing = CostRuntime("phone", predictions=1000), TIMING
    with pytest.raises(KeyboardInterrupt):
        measure_kit(kit, "ne", runtime=runtime, timing=timing)
    if changed == "system":
        runtime.system = "a newer one"
    else:
        timing = Timing(passes=3, extra_seconds=0)
    with pytest.raises(TableError, match="another measurement"):
        measure_kit(kit, "ne", runtime=runtime, timing=timing)


def test_results_of_another_machine_are_not_replaced(measured: Path) -> None:
    path = measured / "results" / "phone-ne.json"
    found, other = path.read_text(), CostRuntime("phone")
    other.hardware = "the other phone"
    with pytest.raises(TableError, match=r"holds what none found, and this is the other phone"):
        measure_kit(measured, "ne", runtime=other, timing=TIMING)
    assert path.read_text() == found
    path.write_text(found[:100])
    measure_kit(measured, "ne", runtime=other, timing=TIMING)
    assert import_kit(measured).provenance["hardware"] == "the other phone"


def test_units_that_do_not_exist_are_refused(kit: Path) -> None:
    with pytest.raises(DeviceError, match="tpu"):
        measure_kit(kit, "tpu", runtime=CostRuntime(), timing=TIMING)


@pytest.mark.parametrize("folders", [True, False])
def test_instances_are_files_of_their_own(
    tiny_space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: bool
) -> None:
    class Converter(CostConverter):
        working_set_mb = 1e-3

        def write(self, *args: Any, path: Path, **kwargs: Any) -> Any:
            inputs = super().write(*args, path=path, **kwargs)
            if not folders:
                path.rename(path.with_name("folder"))
                path.with_name("folder").joinpath("weights.json").rename(path)
                path.with_name("folder").rmdir()
            return inputs

    class Runtime(CostRuntime):
        def load(self, package: Path, unit: str) -> CostProgram:
            self.loaded.append(package)
            weights = package / "weights.json" if folders else package
            return CostProgram(self, 1e-3 * float(weights.read_text()))

    kit, temporary = tmp_path / "kit", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("nas.latency._amounts.CANARY_WEIGHTS", 0)
    manifest = export_kit(tiny_space, kit, converter=Converter(), copies=False)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    runtime = Runtime()
    measure_kit(kit, "ne", runtime=runtime, timing=Timing(passes=1, extra_seconds=0))
    assert len({*runtime.loaded}) == sum(each.instances for each in (manifest.canary, *manifest.packages))
    assert max(package.instances for package in manifest.packages) > 1
    assert not [*temporary.iterdir()]


@pytest.mark.parametrize("keep_mb", [0.0, 1.0])
def test_packages_are_kept_loaded_where_there_is_room(tiny_space: SearchSpace, tmp_path: Path, keep_mb: float) -> None:
    class Converter(CostConverter):
        pass

    Converter.keep_mb = keep_mb
    manifest, runtime = export_kit(tiny_space, tmp_path / "kit", converter=Converter()), CostRuntime()
    measure_kit(tmp_path / "kit", "ne", runtime=runtime, timing=TIMING)
    packages = [tmp_path / "kit" / package.path for package in manifest.packages]
    assert all((runtime.loaded.count(package) == 1) == (keep_mb > 0) for package in packages)


def test_where_operations_run_may_be_unknown(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: CostProgram) -> None:
        raise DeviceError("not before macOS 14.4")

    monkeypatch.setattr(CostProgram, "placement", unknown)
    measure_kit(kit, "ne", runtime=CostRuntime(), timing=TIMING)
    assert import_kit(kit).provenance["operations"] == "unknown"


def test_what_a_mac_leaves_beside_files_does_no_harm(measured: Path) -> None:
    package = measured / Manifest.read(measured).packages[0].path
    for folder in (package, measured / "results"):
        (folder / ".DS_Store").write_text("icons")
    (package / "._weights.json").write_text("attributes")
    (measured / "results" / "._phone-ne.json").write_text("attributes")
    table = import_kit(measured)
    measure_kit(measured, "ne", runtime=CostRuntime("phone"), timing=TIMING)
    assert import_kit(measured).rows == table.rows


def test_a_kit_of_another_schema_is_told(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_manifest, "SCHEMA", 99)
        path = measured / "results" / "phone-ne.json"
        _manifest.write_sealed(path, {"manifest": "a newer one's"})
    with pytest.raises(TableError, match=f"phone-ne.json is not of schema {_manifest.SCHEMA}"):
        import_kit(measured)


@pytest.mark.parametrize("file", ["manifest.json", "results/phone-ne.json"])
@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_changed_or_damaged_files_are_noticed(measured: Path, file: str, damage: str) -> None:
    text = (measured / file).read_text()
    damaged = text.replace('"count": ', '"count": 1').replace('"batch_size": 2', '"batch_size": 4')
    (measured / file).write_text(text[:-30] if damage == "cut" else damaged)
    with pytest.raises(TableError, match=Path(file).name):
        import_kit(measured)


@pytest.mark.parametrize("damage", ["changed", "missing", "another file"])
def test_a_damaged_package_is_noticed_before_it_is_measured(kit: Path, damage: str) -> None:
    package = kit / Manifest.read(kit).packages[0].path
    if damage == "changed":
        (package / "weights.json").write_text("1")
    elif damage == "missing":
        shutil.rmtree(package)
    else:
        (package / "more").write_text("")
    with pytest.raises(TableError, match=package.name):
        measure_kit(kit, "ne", runtime=CostRuntime(), timing=TIMING)


def test_results_belong_to_one_manifest(measured: Path, tiny_space: SearchSpace, tmp_path: Path) -> None:
    other = tmp_path / "other"
    export_kit(tiny_space, other, converter=CostConverter())
    with pytest.raises(KeyboardInterrupt):
        measure_kit(measured, "ne", runtime=CostRuntime("phone", predictions=1000), timing=TIMING)
    shutil.copytree(measured / "results", other / "results")
    with pytest.raises(TableError, match="another manifest"):
        import_kit(other)
    with pytest.raises(TableError, match="another measurement"):
        measure_kit(other, "ne", runtime=CostRuntime("phone"), timing=TIMING)


def test_of_several_results_one_must_be_named(measured: Path) -> None:
    measure_kit(measured, "cpu", runtime=CostRuntime(), timing=TIMING)
    with pytest.raises(TableError, match="cpu, phone-ne"):
        import_kit(measured)
    with pytest.raises(TableError, match="none called 'gpu'"):
        import_kit(measured, results="gpu")
    assert import_kit(measured, results="cpu").device == "pretended-cpu+thrift"


def test_what_cannot_be_converted_is_named_and_nothing_is_written(tiny_space: SearchSpace, tmp_path: Path) -> None:
    class Refusing(CostConverter):
        def write(self, module: torch.nn.Module, *args: Any, path: Path, **kwargs: Any) -> Any:
            if path.name.startswith("003"):
                raise DeviceError("no")
            return super().write(module, *args, path=path, **kwargs)

    with pytest.raises(DeviceError, match=r"while converting .*: no"):
        export_kit(tiny_space, tmp_path / "kit", converter=Refusing())
    assert [*tmp_path.iterdir()] == []


def test_a_kit_replaces_only_one_that_was_not_measured(tiny_space: SearchSpace, kit: Path, tmp_path: Path) -> None:
    def export(folder: Path) -> None:
        export_kit(tiny_space, folder, converter=CostConverter())

    export(kit)
    assert len(Manifest.read(kit).wholes) == 1
    measure_kit(kit, "ne", runtime=CostRuntime(), timing=TIMING)
    with pytest.raises(StorageError, match="holds measurements"):
        export(kit)
    assert import_kit(kit).base_ms > 0
    other = tmp_path / "other"
    other.mkdir()
    export(other)
    (other / "manifest.json").write_text('{"name": "some web page"}')
    (other / "results").mkdir()
    file = tmp_path / "file"
    file.write_text("still here")
    for path in (other, file, tmp_path):
        with pytest.raises(StorageError, match="is no kit"):
            export(path)
    assert file.read_text() == "still here"
    assert (other / "packages").is_dir()


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("sys.version_info = (3, 9, 6, 'final', 0)", "This is Python 3.9."),
        ("sys.modules['numpy'] = None", "pip install coremltools"),
    ],
)
def test_the_script_says_what_it_needs(kit: Path, lacking: str, message: str) -> None:
    code = f"import runpy, sys\n{lacking}\nrunpy.run_path({str(kit / 'measure.py')!r}, run_name='__main__')\n"
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="there the script measures")
def test_the_script_needs_nothing_that_a_mac_with_coremltools_lacks(kit: Path) -> None:
    absent = ("torch", "diffusers", "transformers", "optuna", "yaml", "psutil", "scipy", "pandas", "matplotlib")
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = [{str(kit / 'measure.py')!r}, '--unit', 'ne']\n"
        f"runpy.run_path({str(kit / 'measure.py')!r}, run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Core ML runs programs on macOS only" in ended.stderr
    assert "Traceback" not in ended.stderr
