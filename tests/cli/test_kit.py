"""`nas lut export`, `measure` and `import`, with a converter and a runtime that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kits import CostConverter, CostRuntime

from nas import LatencyTable, SearchSpace
from nas.cli import _kit
from nas.demo import SMOKE
from nas.latency.devices._coreml_program import TARGETS
from nas.latency.devices._coreml_runtime import PHONES, UNITS
from nas.unet import ATTENTIONS

Run = Callable[..., object]


@pytest.fixture
def small_space(tmp_path: Path, tiny_space: SearchSpace) -> Path:
    path = tmp_path / "small.yaml"
    tiny_space.save(path)
    return path


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What converter and runtime were asked for."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        "nas.latency.devices._coreml_converter.CoreMLConverter",
        lambda **options: asked.update(options) or CostConverter(),
    )
    monkeypatch.setattr(
        "nas.latency.kit.runtime_of", lambda where, team: asked.update(where=where, team=team) or CostRuntime(where)
    )
    monkeypatch.setattr("nas.latency.kit._measuring.Timing", lambda **options: SMOKE.timing)
    return asked


def test_choices_are_those_of_the_rooms_below() -> None:
    assert (
        TARGETS,
        ATTENTIONS,
        tuple(UNITS),
        tuple(PHONES),
    ) == (_kit.TARGETS, _kit.ATTENTIONS, _kit.UNITS, _kit.PHONES)


def test_a_table_goes_through_a_kit(
    nas_command: Run, pretended: dict[str, object], small_space: Path, tmp_path: Path
) -> None:
    kit, file = tmp_path / "kit", tmp_path / "lut.yaml"
    options = ("--target", "iOS18", "--attention", "split-einsum", "--whole-networks", 2, "--held-out", 3, "--seed", 4)
    exported = nas_command("lut", "export", "--space", small_space, "--out", kit, *options, "--json").document
    assert pretended == {"target": "iOS18", "attention": "split-einsum"}
    assert exported["packages"] == len(list((kit / "packages").iterdir())) - 1
    assert (kit / "measure.py").is_file()
    early = nas_command("lut", "import", kit, "--out", file)
    assert (early.status, file.exists()) == (1, False)
    assert "not measured yet" in early.err
    measured = nas_command("lut", "measure", kit, "--unit", "all", "--on", "ipad", "--team", "T", "--json").document
    assert Path(measured["results"]).is_file()
    assert (pretended["where"], pretended["team"]) == ("ipad", "T")
    found = nas_command("lut", "import", kit, "--out", file, "--json").document
    lut = LatencyTable.load(file)
    assert found["full_ms"] == pytest.approx(lut.latency_ms(lut.space.full))
    assert found["device"] == lut.device == "pretended-ipad-all+thrift"
    assert (lut.workload.precision, len(lut.wholes)) == ("fp16", 2)
    assert (len(lut.validation.pairs), lut.validation.seed) == (3, 4)
    assert found["validation"]["mean_error"] == lut.validation.mean_error
    said = nas_command("lut", "import", kit, "--out", file).out
    assert f"mean error {lut.validation.mean_error:.1%}" in said


def test_a_folder_that_is_no_kit_is_said_so(nas_command: Run, pretended: dict[str, object], tmp_path: Path) -> None:
    outcome = nas_command("lut", "measure", tmp_path)
    assert outcome.status == 1
    assert "manifest.json" in outcome.err
