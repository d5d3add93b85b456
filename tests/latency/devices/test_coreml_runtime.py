"""Core ML's runtimes on Macs and phones, with stand-ins that have the signatures of coremltools' own."""

from __future__ import annotations

import gc
import json
import os
import platform
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock, create_autospec

import numpy as np
import pytest

from nas.errors import DeviceError
from nas.latency.devices import MacRuntime, PhoneRuntime, device_names, get_device
from nas.latency.devices._coreml_runtime import _model_of, placement_of

pytest.importorskip("coremltools")

INPUTS = {"x": np.ones((1, 2), np.float16)}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.latency.devices._coreml_runtime.require_mac", lambda: None)
    monkeypatch.delenv("NAS_DEVELOPMENT_TEAM", raising=False)


@pytest.fixture
def plan() -> SimpleNamespace:
    """An `MLComputePlan`."""

    class MLCPUComputeDevice:
        pass

    class MLNeuralEngineComputeDevice:
        pass

    class Remote(MLNeuralEngineComputeDevice):
        pass

    units = {"ios17.conv": Remote(), "ios17.softmax": MLCPUComputeDevice(), "ios18.mul": object(), "const": None}
    names = ("const", "ios17.conv", "ios17.conv", "ios17.softmax", "ios18.mul")
    block = SimpleNamespace(operations=[SimpleNamespace(operator_name=name) for name in names])
    functions = {"main": SimpleNamespace(block=block)}

    def usage(operation: SimpleNamespace) -> SimpleNamespace | None:
        unit = units[operation.operator_name]
        return unit and SimpleNamespace(preferred_compute_device=unit)

    structure = SimpleNamespace(program=SimpleNamespace(functions=functions))
    return SimpleNamespace(model_structure=structure, get_compute_device_usage_for_mlprogram_operation=usage)


PLACED = {("conv", "ne"): 2, ("softmax", "cpu"): 1, ("mul", "unknown"): 1}


def test_placement_is_read_from_a_compute_plan(plan: SimpleNamespace) -> None:
    assert placement_of(plan) == PLACED


def test_a_mac_predicts_by_its_own_clock(
    mac: None, plan: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    model = Mock(**{"predict.return_value": {"y": 1}, "get_compiled_model_path.return_value": "a.mlmodelc"})
    model.last_predict_duration_in_nano_seconds = 2_500_000
    make = create_autospec(ct.models.MLModel, return_value=model)
    load = create_autospec(MLComputePlan.load_from_path, return_value=plan)
    monkeypatch.setattr(ct.models, "MLModel", make)
    monkeypatch.setattr(MLComputePlan, "load_from_path", load)
    program = MacRuntime().load(tmp_path / "a.mlpackage", "ne")
    assert program.predict(INPUTS) == {"y": 1}
    assert program.predict_ms(INPUTS) == 2.5
    assert [call.args for call in model.predict.call_args_list] == [(INPUTS,), (INPUTS,)]
    make.assert_called_once_with(str(tmp_path / "a.mlpackage"), compute_units=ct.ComputeUnit.CPU_AND_NE)
    assert program.placement() == PLACED
    load.assert_called_once_with(path="a.mlmodelc", compute_units=ct.ComputeUnit.CPU_AND_NE)
    for attribute, action in (("predict", "run"), ("get_compiled_model_path", "say where")):
        setattr(model, attribute, Mock(side_effect=RuntimeError("E5RT\nmore")))
        with pytest.raises(DeviceError, match=rf"^Core ML cannot {action} this program( would run)?: E5RT$"):
            program.placement() if attribute != "predict" else program.predict_ms(INPUTS)
    model.predict = Mock()
    model.last_predict_duration_in_nano_seconds = None
    with pytest.raises(DeviceError, match="does not say how long"):
        program.predict_ms(INPUTS)


def test_what_a_mac_cannot_load_is_an_error_and_not_only_warned_of(
    mac: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import coremltools as ct

    def failing(*args: object, **kwargs: object) -> Mock:
        warnings.warn("You will not be able to run predict(): no such layer", RuntimeWarning, stacklevel=1)
        return Mock()

    monkeypatch.setattr(ct.models, "MLModel", failing)
    with pytest.raises(DeviceError, match=r"cannot load this program: You will not be able .* no such layer"):
        MacRuntime().load(tmp_path / "a.mlpackage", "ne")


def test_a_phone_is_prepared_and_predicts_by_its_own_clock(
    mac: None, plan: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import coremltools as ct
    from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper, RemoteMLModelAsyncWrapper
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

    phone = create_autospec(Device, instance=True)
    phone.name, phone.os_version, phone.os_build_number, phone.udid = "the phone", "18.1", "22B83", "0000-1"
    phone.prepare_for_model_debugging = AsyncMock(return_value=phone)
    find = create_autospec(Device.get_connected_devices, return_value=[])
    monkeypatch.setattr(Device, "get_connected_devices", find)
    with pytest.raises(DeviceError, match="no iphone is connected"):
        PhoneRuntime("iphone")
    find.return_value = [phone]
    with pytest.raises(DeviceError, match="NAS_DEVELOPMENT_TEAM"):
        PhoneRuntime("iphone")
    monkeypatch.setenv("NAS_DEVELOPMENT_TEAM", "TEAM")
    runtime = PhoneRuntime("iphone")
    find.assert_called_with(device_type=DeviceType.IPHONE)
    phone.prepare_for_model_debugging.assert_awaited_once_with(
        credentials=AppSigningCredentials(development_team="TEAM")
    )
    found = runtime.provenance()
    assert (found["hardware"], found["os"]) == ("the phone [a34bbefb]", "18.1 (22B83)")

    model = create_autospec(RemoteMLModelAsyncWrapper, instance=True)
    model.predict.return_value = {"y": 1}
    model.last_predict_duration_in_nano_seconds = 1_500_000
    model.retrieve_compute_plan.return_value = plan
    make = create_autospec(MLModelAsyncWrapper.from_spec_or_path, return_value=model)
    monkeypatch.setattr(MLModelAsyncWrapper, "from_spec_or_path", make)
    program = runtime.load(tmp_path / "a.mlpackage", "all")
    assert make.call_args.kwargs["device"] is phone
    assert make.call_args.kwargs["compute_units"] == ct.ComputeUnit.ALL
    model.load.assert_awaited_once_with()
    assert program.predict(INPUTS) == {"y": 1}
    assert program.predict_ms(INPUTS) == 1.5
    assert program.placement() == PLACED
    model.unload.assert_not_awaited()
    del program
    gc.collect()
    model.unload.assert_awaited_once_with()


@pytest.mark.parametrize(
    ("listed", "model"),
    [
        ({"udid": "0000-1", "marketingName": "iPhone 14 Pro", "productType": "iPhone15,2"}, "iPhone 14 Pro"),
        ({"udid": "0000-1", "productType": "iPhone15,2"}, "iPhone15,2"),
        ({"udid": "0000-2", "marketingName": "iPad"}, None),
        (None, None),
    ],
)
def test_a_phone_is_known_by_its_model(
    listed: dict[str, str] | None, model: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a stand-in for Xcode's tool, which is called as that is."""
    devices = {"result": {"devices": [{"hardwareProperties": listed}] if listed else []}}
    tool = tmp_path / "xcrun"
    tool.write_text(
        f"#!/bin/sh\n[ \"$1 $2 $3 $4\" = 'devicectl list devices --json-output' ] || exit 1\n"
        f"cat > \"$5\" <<'END'\n{json.dumps(devices)}\nEND\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert _model_of("0000-1") == model
    tool.unlink()
    assert _model_of("0000-1") is None


def test_phones_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DeviceError, match="toaster"):
        PhoneRuntime("toaster")


@pytest.mark.skipif(platform.system() == "Darwin", reason="here Core ML can run")
@pytest.mark.parametrize("name", [name for name in device_names() if name.startswith("coreml")])
def test_away_from_a_mac_the_devices_say_what_to_do(name: str) -> None:
    with pytest.raises(DeviceError, match=r"convert here with .* measure on a Mac"):
        get_device(name)
