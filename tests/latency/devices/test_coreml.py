from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from subjects import PARTS, SPACES, distinct_parts, subject
from torch import nn
from torch.utils._pytree import tree_map_only

from nas import LatencyTable, SearchSpace
from nas.errors import DeviceError, MissingExtraError, ModelError
from nas.latency import Timing
from nas.latency._fake_coreml import FakeCoreMLProgram
from nas.latency.devices import (
    CoreMLDevice,
    CoreMLProgram,
    Device,
    convert_to_coreml,
    get_device,
    read_coreml,
)
from nas.latency.devices._coreml_converter import CoreMLConverter
from nas.latency.devices._export import tensors_of
from nas.latency.kit import export_kit, import_kit, measure_kit
from nas.latency.testing import DEVICE_CHECKS, FakeCoreML
from nas.unet import ATTENTIONS

pytest.importorskip("coremltools")

NAMES = {"iOS17": (8, "CoreML7"), "iOS18": (9, "CoreML8")}


@pytest.fixture(scope="module")
def emoji() -> SearchSpace:
    return SearchSpace.load("emoji")


class Keeping(FakeCoreML):
    """Keeps what it loaded."""

    def __init__(self) -> None:
        self.loaded: list[tuple[Path, str]] = []
        self.programs: list[FakeCoreMLProgram] = []

    def load(self, package: Path, unit: str) -> FakeCoreMLProgram:
        self.loaded.append((package, unit))
        self.programs.append(super().load(package, unit))
        return self.programs[-1]


def traced(module: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Size, int]:
    """Shape of the output, and the number of weights on which it depends (a base ignores the time embedding)."""
    twin = nn.Module.to(copy.deepcopy(module), device="meta")
    args, kwargs = (tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), given) for given in (args, kwargs))
    output, weights = tensors_of(twin(*args, **kwargs))[0], [*twin.parameters()]
    grads = torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return output.shape, sum(w.numel() for w, grad in zip(weights, grads, strict=True) if grad is not None)


def check(found: CoreMLProgram, module: nn.Module, args: tuple, kwargs: dict, target: str) -> None:
    """Compare a program with the torch module that it was made from: shapes, precision, operations, weights."""
    shape, live = traced(module, args, kwargs)
    inputs = tensors_of((args, kwargs))
    assert (found.specification, found.opset) == NAMES[target]
    expected = [(tuple(t.shape) or (1,), "FLOAT16" if t.is_floating_point() else "INT32") for t in inputs]
    assert list(found.inputs.values()) == expected
    assert list(found.outputs.values()) == [(tuple(shape), "FLOAT16")]
    assert found.result_types["FLOAT32"] == 0, "an operation in fp32"
    assert found.operations["conv"] >= sum(isinstance(part, nn.Conv2d) for part in module.modules())
    assert 2 * live <= found.weight_bytes <= 1.01 * 2 * live + 4096


def converted(part: tuple, *, target: str, attention: str = "original") -> CoreMLProgram:
    """Convert, compare with the module, and the numbers with torch's."""
    module, args, kwargs = part
    runtime = Keeping()
    device = CoreMLDevice("ne", runtime=runtime, target=target, attention=attention)
    runnable = device.load(*part, precision="fp16")
    (program,) = runtime.programs
    check(program.summary, *part, target)
    with torch.no_grad():
        expected = tensors_of(module(*args, **kwargs))[0]
    error = (runnable.output() - expected).norm() / expected.norm()
    assert error < 5e-3, f"relative error {error:.2g}"
    return program.summary


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("part", [part for part in PARTS if ".attention." not in part])  # those are below
def test_what_is_converted_is_the_module(emoji: SearchSpace, part: str, target: str) -> None:
    converted(subject(emoji, part), target=target)


@pytest.mark.slow
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("name", SPACES)
def test_every_block_of_every_space_converts(name: str, target: str, tmp_path: Path) -> None:
    space = SearchSpace.load(name)
    for part in (*distinct_parts(space), "base"):
        module, args, kwargs = subject(space, part)
        found = convert_to_coreml(module, args, kwargs, tmp_path / "part.mlpackage", target=target)
        try:
            check(found, module, args, kwargs, target)
        except AssertionError as error:
            raise AssertionError(f"{name}, {part}, {target}") from error


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_is_the_one_asked_for(emoji: SearchSpace, attention: str, target: str) -> None:
    block = emoji.block("down.1.attention.0")
    found = converted(subject(emoji, block.place), target=target, attention=attention)
    layers, heads = 2 * block.option("depth"), block.option("heads")
    fused = attention == "original" and target == "iOS18"
    assert found.operations["scaled_dot_product_attention"] == (layers if fused else 0)
    if not fused:
        assert found.operations["softmax"] == (layers if attention == "original" else layers * heads)


def test_chunks_of_queries_stand_in_the_program(tmp_path: Path) -> None:
    from diffusers.models.attention_processor import Attention

    attn = Attention(8, heads=2, dim_head=4).eval()
    inputs = ((torch.zeros(1, 1100, 8),), {})
    softmaxes = {
        name: convert_to_coreml(attn, *inputs, tmp_path / "a.mlpackage", attention=name).operations["softmax"]
        for name in ATTENTIONS[1:]
    }
    assert softmaxes == {"split-einsum": 2, "split-einsum-chunks": 2 * 3}  # 512 + 512 + 76


def test_the_converter_writes_what_another_machine_is_given(tmp_path: Path) -> None:
    converter = CoreMLConverter(target="iOS18", attention="split-einsum")
    unit = (nn.Embedding(4, 2), (torch.zeros(3, dtype=torch.long),), {})
    inputs = converter.write(*unit, precision="fp16", path=tmp_path / "a.mlpackage")
    assert [*inputs.values()] == [((3,), "int32")]
    inputs = converter.write(nn.ReLU(), (torch.zeros(1, 2),), {}, precision="fp16", path=tmp_path / "a.mlpackage")
    assert [*inputs.values()] == [((1, 2), "float16")]
    assert read_coreml(tmp_path / "a.mlpackage").operations == {"relu": 1}
    assert converter.provenance().items() >= {"target": "iOS18", "attention": "split-einsum"}.items()
    with pytest.raises(DeviceError, match="iOS1"):
        CoreMLConverter(target="iOS1")


def test_precision_is_the_one_asked_for(tmp_path: Path) -> None:
    module, args, path = nn.Conv2d(4, 4, 3).eval(), (torch.zeros(1, 4, 8, 8),), tmp_path / "a.mlpackage"
    for precision, kind, size in (("fp16", "FLOAT16", 2), ("fp32", "FLOAT32", 4)):
        found = convert_to_coreml(module, args, {}, path, precision=precision)
        assert found == read_coreml(path)
        assert {*found.result_types} == {kind}
        assert [kind for _, kind in found.inputs.values()] == [kind]
        assert found.weight_bytes == size * (4 * 4 * 9 + 4)
        document = json.loads(json.dumps(found.document()))
        assert document["weight_bytes"] == found.weight_bytes
        assert [*document["inputs"].values()] == [{"shape": [1, 4, 8, 8], "type": kind}]
        assert document["operations"] == {"conv": 1}


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1]


def test_what_cannot_be_converted_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    module, args, path = nn.Identity(), (torch.zeros(1, 2),), tmp_path / "a.mlpackage"
    with pytest.raises(DeviceError, match="iOS3"):
        convert_to_coreml(module, args, {}, path, target="iOS3")
    with pytest.raises(DeviceError, match="bf16"):
        convert_to_coreml(module, args, {}, path, precision="bf16")
    with pytest.raises(ModelError, match="flash"):
        convert_to_coreml(module, args, {}, path, attention="flash")
    with pytest.raises(DeviceError, match="a Core ML package is a folder"):
        convert_to_coreml(module, args, {}, tmp_path / "a.onnx")
    with pytest.raises(DeviceError, match="Core ML for iOS17 cannot run this in fp16"):
        convert_to_coreml(Unknown(), (torch.zeros(3, 3),), {}, path)
    assert not [*tmp_path.iterdir()]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r"nas\[coreml\]"):
        convert_to_coreml(nn.Identity(), (torch.zeros(1),), {}, tmp_path / "a.mlpackage")


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Device], None]) -> None:
    check(CoreMLDevice("ne", runtime=FakeCoreML()))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_device_says_all_that_decides_its_speed(attention: str) -> None:
    device = CoreMLDevice("ne", runtime=FakeCoreML(), attention=attention, target="iOS18")
    found = device.provenance()
    assert device.name == ("coreml-ne+iOS18" if attention == "original" else f"coreml-ne+iOS18+{attention}")
    assert (found["compute_unit"], found["target"]) == ("CPU_AND_NE", "iOS18")
    assert found.get("attention", "original") == attention
    assert {"coremltools", "torch", "hardware", "os"} <= set(found)


def test_instances_are_files_of_their_own_that_go_with_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runtime = Keeping()
    device = CoreMLDevice("gpu", runtime=runtime)
    runnable = device.load(nn.Conv2d(2, 2, 1), (torch.zeros(1, 2, 4, 4),), {}, precision="fp16", instances=3)
    packages = [package for package, _ in runtime.loaded]
    assert {unit for _, unit in runtime.loaded} == {"gpu"}
    assert runnable.weight_mb == 3 * 2 * (2 * 2 + 2) / 2**20
    assert len({*packages}) == 3
    assert all(package.is_dir() for package in packages)
    assert runnable.placement() == Counter({("conv", "gpu"): 1})
    del runnable
    assert not any(package.exists() for package in packages)


def test_a_runtime_that_cannot_load_leaves_no_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeCoreML):
        def load(self, package, unit):
            assert package.is_dir()
            raise DeviceError("no room")

    device = CoreMLDevice("cpu", runtime=Broken())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DeviceError, match="no room"):
        device.load(nn.ReLU(), (torch.zeros(1, 2),), {}, precision="fp16")
    assert not [*tmp_path.glob("nas-*")]


@pytest.mark.slow
def test_a_table_is_measured_and_names_the_attention(smallest_space: SearchSpace, quick: Timing) -> None:
    device = CoreMLDevice("ne", runtime=FakeCoreML(), attention="split-einsum")
    device.working_set_mb = 0.0  # instances of the same package, which the fake runtime would only read again
    table = LatencyTable.measure(smallest_space, device=device, precision="fp16", copies=False, timing=quick)
    assert table.provenance["device"] == "coreml-ne+split-einsum"
    assert table.provenance["attention"] == "split-einsum"
    assert table.latency_ms(smallest_space.full) > table.latency_ms(smallest_space.empty) > 0


@pytest.mark.slow
def test_a_kit_of_converted_packages_becomes_a_table(
    smallest_space: SearchSpace, quick: Timing, tmp_path: Path
) -> None:
    kit, runtime = tmp_path / "kit", FakeCoreML()
    manifest = export_kit(smallest_space, kit, converter=CoreMLConverter(target="iOS18"), copies=False)
    measure_kit(kit, "gpu", runtime=runtime, timing=quick)
    table = import_kit(kit)
    assert table.device == "coreml-gpu+iOS18"
    # The stand-in takes a microsecond for each operation that stands in a package.
    operations = {each.name: read_coreml(kit / each.path).operations.total() for each in manifest.packages}
    total = sum(operations.values())
    assert manifest.bundles
    for name, size in manifest.bundles.items():  # a row is what another block adds to those that stand beside it
        operations[name] = (operations.pop(f"bundle of {name}") - operations[name]) / (size - 1)
    expected = {name: pytest.approx(1e-3 * count, abs=1e-6) for name, count in operations.items()}
    assert table.base_ms == expected.pop("base")
    assert {str(whole): row.latency_ms for whole, row in table.wholes.items()} == {
        name: expected.pop(name) for name in manifest.wholes
    }
    assert {name: row.latency_ms for name, row in table.rows.items()} == expected
    assert table.provenance["operations"] == f"gpu {total}"
    assert table.provenance["attention"] == "AttnProcessor2_0"


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DeviceError, match="tpu"):
        CoreMLDevice("tpu", runtime=FakeCoreML())
    with pytest.raises(DeviceError, match="iOS16"):
        CoreMLDevice("ne", runtime=FakeCoreML(), target="iOS16")
    with pytest.raises(ModelError, match="flash"):
        CoreMLDevice("ne", runtime=FakeCoreML(), attention="flash")
    with pytest.raises(DeviceError, match="threads"):
        get_device("coreml-cpu", threads=2)
    with pytest.raises(DeviceError, match="abacus"):
        get_device("abacus+split-einsum")
    with pytest.raises(DeviceError, match="two attentions"):
        get_device("coreml-ne+split-einsum+split-einsum-chunks")
    with pytest.raises(DeviceError, match="iOS12"):
        get_device("coreml-ne+iOS12")


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("unit", ["cpu", "gpu", "ne", "all"])
def test_names_choose_unit_target_and_attention(
    monkeypatch: pytest.MonkeyPatch, unit: str, target: str, attention: str
) -> None:
    monkeypatch.setattr("nas.latency.devices._coreml.MacRuntime", FakeCoreML)
    name = CoreMLDevice(unit, runtime=FakeCoreML(), target=target, attention=attention).name
    device = get_device(name)
    assert (device.name, device.unit, device.target, device.attention) == (name, unit, target, attention)
