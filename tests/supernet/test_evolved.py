from __future__ import annotations

import json
import random

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from nas import EvolvedUNet, NasError, Supernet, Workload
from nas.errors import ArchitectureError
from nas.unet import example_inputs


@pytest.fixture
def inputs(tiny_space) -> dict:
    return example_inputs(tiny_space, Workload.of(tiny_space))


@pytest.fixture
def architecture(tiny_space):
    """Both kinds skipped with and without a shortcut, both kinds copied with and without a change of channels."""
    architecture = tiny_space.full.duplicate("down.1.resnet.0").duplicate("up.1.attention.1").duplicate("mid.resnet.0")
    for place in ("down.0.resnet.0", "up.1.resnet.0", "down.1.attention.0", "mid.attention.0"):
        architecture = architecture.remove(place)
    return architecture


@pytest.fixture
def evolved(tiny_unet, tiny_space, architecture) -> EvolvedUNet:
    network = Supernet(tiny_unet, tiny_space, duplicate_init="plain").extract(architecture)
    return network.requires_grad_(False)


def keys_in(file) -> set[str]:
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())


def test_what_is_saved_comes_back(evolved, architecture, inputs, tmp_path):
    evolved.save_pretrained(tmp_path)
    for low_cpu_mem_usage in (True, False):
        loaded = EvolvedUNet.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert loaded.architecture == architecture
        assert loaded.config.space_name == "tiny"
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(**inputs)[0], evolved(**inputs)[0])


def test_the_files_hold_the_architecture_and_only_weights_in_use(tiny_unet, evolved, architecture, tmp_path):
    evolved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == str(architecture)
    assert config["_class_name"] == "EvolvedUNet"
    keys = keys_in(tmp_path / "diffusion_pytorch_model.safetensors")
    assert keys == set(evolved.state_dict())
    gone = ("down_blocks.0.resnets.0.", "down_blocks.1.attentions.0.", "mid_block.attentions.0.")
    assert not [key for key in keys if key.startswith(gone)]
    assert {key for key in keys if key.startswith("up_blocks.1.resnets.0.")} == {
        "up_blocks.1.resnets.0.conv_shortcut.weight",
        "up_blocks.1.resnets.0.conv_shortcut.bias",
    }
    copies = {key for key in keys if ".copies." in key}
    assert {key.split(".copies.")[0] for key in copies} == {
        "down_blocks.1.resnets.0",
        "up_blocks.1.attentions.1",
        "mid_block.resnets.0",
    }
    assert keys - copies < set(tiny_unet.state_dict()), "every other weight keeps the UNet's key"


def test_a_precision_can_be_asked_for(evolved, inputs, tmp_path):
    evolved.save_pretrained(tmp_path)
    loaded = EvolvedUNet.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        output = loaded(**{k: v.bfloat16() if v is inputs["sample"] or "hidden" in k else v for k, v in inputs.items()})
    assert output[0].isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_a_config_alone_gives_the_structure(tiny_unet, tiny_space, seed: int):
    evolved = Supernet(tiny_unet, tiny_space).extract(tiny_space.sample(random.Random(seed)))
    rebuilt = EvolvedUNet.from_config(evolved.config)
    shapes = {name: tensor.shape for name, tensor in evolved.state_dict().items()}
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes
    assert rebuilt.architecture == evolved.architecture


def test_a_stock_unet_loads_as_an_evolved_one_with_every_block(tiny_unet, tiny_space, inputs, tmp_path):
    tiny_unet.save_pretrained(tmp_path)
    loaded = EvolvedUNet.from_pretrained(tmp_path)
    assert loaded.architecture == tiny_space.full
    with torch.no_grad():
        assert torch.equal(loaded(**inputs)[0], tiny_unet(**inputs)[0])


def test_it_is_a_unet_with_the_config_of_the_unet(tiny_unet, evolved):
    assert isinstance(evolved, UNet2DConditionModel)
    own = {key: value for key, value in evolved.config.items() if not key.startswith("_")}
    stock = {key: value for key, value in tiny_unet.config.items() if not key.startswith("_")}
    assert own == {**stock, "architecture": str(evolved.architecture), "space_name": "tiny"}


def test_more_copies_than_the_search_allows_can_be_loaded(tiny_space, tiny_config):
    thrice = tiny_space.full.duplicate("mid.attention.0").duplicate("mid.attention.0")
    network = EvolvedUNet(architecture=str(thrice), **tiny_config)
    assert len(network.mid_block.attentions[0].copies) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "cannot read 'nonsense'"),
        ("", "empty"),
        ("down.0.resnet=1,1", "differ in"),
        ("down.0.resnet=1,x", "differ in|not a number of runs"),
        (5, "expected text"),
    ],
)
def test_a_wrong_architecture_is_refused_in_one_sentence(tiny_config, text: object, message: str):
    with pytest.raises(ArchitectureError, match=message) as caught:
        EvolvedUNet(architecture=text, **tiny_config)
    assert isinstance(caught.value, NasError)
    assert "\n" not in str(caught.value)
