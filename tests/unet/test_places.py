from __future__ import annotations

import pytest
import torch
from torch import nn

from nas import NasError, SearchSpace
from nas.errors import ArchitectureError, ModelError, SearchSpaceError
from nas.unet import block_of, check_unet, set_block


def test_every_place_has_its_module(tiny_unet, tiny_space):
    modules = [block_of(tiny_unet, block) for block in tiny_space.blocks]
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert len({id(module) for module in modules}) == len(tiny_space.blocks)
    assert counts == [block.parameters for block in tiny_space.blocks]
    assert block_of(tiny_unet, "down.1.attention.0") is tiny_unet.down_blocks[1].attentions[0]
    assert block_of(tiny_unet, "mid.resnet.1") is tiny_unet.mid_block.resnets[1]
    assert block_of(tiny_unet, "up.2.resnet.2") is tiny_unet.up_blocks[2].resnets[2]


def test_the_unet_calls_what_is_put_at_a_place(tiny_unet):
    class Stop(nn.Module):
        def forward(self, *args, **kwargs):
            raise StopIteration

    set_block(tiny_unet, "mid.attention.0", Stop())
    with pytest.raises(StopIteration):
        tiny_unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 5, 12))


@pytest.mark.parametrize(
    "place",
    ["", "down", "down.9.resnet.0", "down.0.resnet.2", "down.0.resnet.-1", "down.2.attention.0", "left.0.resnet.0"],
)
def test_a_place_that_does_not_exist_is_refused(tiny_unet, place: str):
    with pytest.raises(ArchitectureError, match="has no place"):
        block_of(tiny_unet, place)


def test_only_the_unet_of_the_space_passes(tiny_unet, tiny_space, tiny_config):
    check_unet(tiny_unet, tiny_space)
    wider = SearchSpace.from_config({**tiny_config, "block_out_channels": (8, 16, 32)}, name="wider")
    longer = SearchSpace.from_config({**tiny_config, "layers_per_block": 3}, name="longer")
    shorter = SearchSpace.from_config({**tiny_config, "mid_block_type": None}, name="shorter")
    for space in (wider, longer, shorter):
        with pytest.raises(SearchSpaceError, match=space.name) as caught:
            check_unet(tiny_unet, space)
        assert isinstance(caught.value, NasError)
    with pytest.raises(ModelError, match="Linear"):
        check_unet(nn.Linear(1, 1), tiny_space)
