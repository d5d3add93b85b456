from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from subjects import PARTS, subject
from torch import nn

from nas import SearchSpace
from nas.errors import DeviceError, MissingExtraError, ModelError
from nas.latency.devices import CoreAIDevice, Device, convert_to_coreai, get_device
from nas.latency.devices._export import tensors_of
from nas.latency.testing import DEVICE_CHECKS
from nas.unet import ATTENTIONS

pytest.importorskip("coreai_torch")
pytest.importorskip("coreai.runtime")


@pytest.fixture(scope="module")
def emoji() -> SearchSpace:
    return SearchSpace.load("emoji")


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Device], None]) -> None:
    check(get_device("coreai-cpu"))


def compare(part: tuple, *, precision: str, attention: str = "original", tolerance: float) -> None:
    """Core AI's numbers beside torch's in fp32."""
    module, args, kwargs = part
    with torch.no_grad():
        expected = tensors_of(module(*args, **kwargs))[0]
    found = CoreAIDevice(attention=attention).load(module, args, kwargs, precision=precision).output()
    assert found.shape == expected.shape
    error = (found - expected).norm() / expected.norm()
    assert error < tolerance, f"relative error {error:.2g}"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
@pytest.mark.parametrize("part", PARTS)
def test_computes_what_torch_computes(emoji: SearchSpace, part: str, precision: str, tolerance: float) -> None:
    compare(subject(emoji, part), precision=precision, tolerance=tolerance)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_computes_what_torch_computes(emoji: SearchSpace, attention: str) -> None:
    compare(subject(emoji, "down.1.attention.0"), precision="fp32", attention=attention, tolerance=1e-5)


def test_instances_take_turns_and_their_files_go_with_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = get_device("coreai-cpu")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runnable = device.load(nn.Linear(2, 2), (torch.ones(1, 2),), {}, precision="fp32", instances=3)
    assert len([*tmp_path.glob("nas-*/*.aimodel")]) == 3
    assert all(runnable.run_ms() > 0 for _ in range(4))
    del runnable
    assert not [*tmp_path.glob("nas-*")]


def test_provenance_names_versions_and_attention() -> None:
    found = get_device("coreai-cpu+split-einsum").provenance()
    assert found["device"] == "coreai-cpu+split-einsum"
    assert found["attention"] == "split-einsum"
    assert found["coreai-core"] != "unknown"
    assert "attention" not in get_device("coreai-cpu").provenance()


def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svd(x)[1]

    with pytest.raises(DeviceError, match="coreai-cpu cannot run this in fp32"):
        get_device("coreai-cpu").load(Unknown(), (torch.zeros(3, 3),), {}, precision="fp32")
    with pytest.raises(ModelError, match="flash"):
        get_device("coreai-cpu+flash")
    monkeypatch.setitem(sys.modules, "coreai_torch", None)
    with pytest.raises(MissingExtraError, match=r"nas\[coreai\]"):
        get_device("coreai-cpu")


def test_an_asset_is_written_and_reads_back(tmp_path: Path) -> None:
    from coreai.authoring import AIModelAsset
    from coreai.runtime import NDArray

    module, args = nn.Linear(2, 3), (torch.ones(1, 2),)
    convert_to_coreai(module, args, {}, tmp_path / "a.aimodel", precision="fp32")

    async def run() -> torch.Tensor:
        async with AIModelAsset.load(tmp_path / "a.aimodel").executable() as model:
            function = model.load_function(model.function_names[0])
            (name,) = function.desc.input_names
            (output,) = (await function({name: NDArray(args[0].numpy())})).values()
            return torch.from_numpy(output.numpy().copy())

    with torch.no_grad():
        torch.testing.assert_close(asyncio.run(run()), module(*args))
    with pytest.raises(DeviceError, match="a Core AI asset is a folder"):
        convert_to_coreai(module, args, {}, tmp_path / "a.onnx")
    with pytest.raises(DeviceError, match="fp7"):
        convert_to_coreai(module, args, {}, tmp_path / "b.aimodel", precision="fp7")
    assert [path.name for path in tmp_path.iterdir()] == ["a.aimodel"]
