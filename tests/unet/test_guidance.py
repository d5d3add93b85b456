from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from nas import Supernet
from nas.errors import ModelError
from nas.supernet import EvolvedUNet
from nas.unet import fold_guidance, folded_width, guidance_embedding


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    sample, contexts = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 12)))
    return sample, torch.tensor([5, 900]), contexts


@pytest.mark.parametrize("width", [6, 7, 256])
def test_the_embedding_is_the_stock_pipelines(width):
    w = torch.tensor([1.0, 1.5, 2.0, 7.5, 14.0])
    stock = StableDiffusionPipeline.get_guidance_scale_embedding(None, w - 1, embedding_dim=width)
    torch.testing.assert_close(guidance_embedding(w, width), stock, rtol=0, atol=2e-3)


def test_at_first_it_does_not_listen(tiny_unet, inputs):
    twin = copy.deepcopy(tiny_unet)
    fold_guidance(tiny_unet, width=8)
    assert folded_width(tiny_unet) == 8
    assert folded_width(twin) is None
    for w in (1.0, 7.5):
        told = guidance_embedding(torch.full((2,), w), 8)
        assert torch.equal(tiny_unet(*inputs, timestep_cond=told).sample, twin(*inputs).sample)


def test_it_can_learn_to_listen(tiny_unet, inputs):
    fold_guidance(tiny_unet, width=8)
    tiny_unet(*inputs, timestep_cond=guidance_embedding(torch.tensor([2.0, 3.0]), 8)).sample.sum().backward()
    projection = tiny_unet.time_embedding.cond_proj.weight
    assert projection.grad.abs().max() > 0
    with torch.no_grad():
        projection.copy_(projection.grad)
        outputs = [
            tiny_unet(*inputs, timestep_cond=guidance_embedding(torch.full((2,), w), 8)).sample for w in (1.0, 7.5)
        ]
    assert not torch.allclose(*outputs)


def test_saved_and_loaded_it_is_the_same(tiny_unet, tiny_space, inputs, tmp_path):
    tiny_unet.eval()
    fold_guidance(tiny_unet, width=8)
    torch.nn.init.normal_(tiny_unet.time_embedding.cond_proj.weight)
    told = guidance_embedding(torch.tensor([2.0, 3.0]), 8)
    smaller = Supernet(tiny_unet, tiny_space).extract(tiny_space.full.remove("mid.attention.0"))
    for network, kind in ((tiny_unet, UNet2DConditionModel), (smaller, EvolvedUNet)):
        network.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__)
        with torch.no_grad():
            expected = network(*inputs, timestep_cond=told).sample
            assert torch.equal(again(*inputs, timestep_cond=told).sample, expected)


def test_an_evolved_network_takes_it_too(tiny_unet, tiny_space, inputs, tmp_path):
    evolved = Supernet(tiny_unet, tiny_space).extract(tiny_space.full.remove("mid.attention.0"))
    fold_guidance(evolved, width=8)
    evolved.save_pretrained(tmp_path)
    again = EvolvedUNet.from_pretrained(tmp_path)
    assert folded_width(again) == 8
    assert again.architecture == evolved.architecture
    with torch.no_grad():
        assert torch.equal(again(*inputs).sample, evolved(*inputs).sample)


def test_mistakes(tiny_unet):
    with pytest.raises(ModelError, match="no timestep embedding"):
        fold_guidance(torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="width is 2"):
        fold_guidance(tiny_unet, width=2)
    fold_guidance(tiny_unet)
    with pytest.raises(ModelError, match="already"):
        fold_guidance(tiny_unet)
